//! The reconcile of a Repository. Decisions are made by `plan::plan_repository` and `plan::plan_maintenance`.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    context::Context,
    jobs::{Runs, apply_actions, clean_up_jobs, observe_jobs, observe_runs},
};
use crate::{
    api::Repository,
    cluster::{apply, observe},
    plan::{self, Actions, ActiveJob, EventRecord, MaintenanceFacts, Staged},
    resources::names::{OwnerRef, RunKind},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Repository>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _namespace_lock = context.lock_namespace(&namespace).await;
    let Some(repository) = context.read::<Repository>(&seen).await? else { return Ok(Action::await_change()) };
    let Some(owner) = OwnerRef::of(&repository) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Init).await?;
    let mut maintenance_jobs = Vec::new();
    for kind in [RunKind::Repack, RunKind::Prune, RunKind::Check] {
        maintenance_jobs.extend(observe_jobs(&context, &owner, kind).await?);
    }
    let cluster = context.cluster_id().await?;

    let scheduling = context.scheduling_lock.lock().await;
    let now = Timestamp::now();
    let neighbours = if plan::needs_facts(&repository, now) {
        observe_neighbours(&context, &repository, now).await?
    } else {
        Neighbours::default()
    };
    let facts = MaintenanceFacts {
        jobs: &maintenance_jobs,
        active: &neighbours.active,
        is_closed: neighbours.is_closed,
        differing_retentions: &neighbours.differing_retentions,
    };

    let (mut status, mut actions) = plan::plan_repository(&repository, &jobs, cluster, now);
    plan::plan_maintenance(&repository, facts, &mut status, &mut actions, now);

    let _starting = context.starting(&owner, &actions.start);
    drop(scheduling);
    if actions.create_password {
        create_password(&context, &repository, &mut actions).await?;
    }
    let all_jobs: Vec<_> = jobs.iter().chain(&maintenance_jobs).cloned().collect();
    let repositories = std::slice::from_ref(&repository);
    let applied = apply_actions(&context, &owner, (&actions, &all_jobs, Staged::default()), repositories, None).await?;
    plan::settle_repository(&repository, &mut status, &mut actions, &applied, now);
    if repository.status.as_ref() != Some(&status) {
        apply::status(client, &repository, &status).await?;
    }
    let is_stored = |name: &str| plan::is_recorded_of_repository(&repository, &status, name);
    if let Some(again) = clean_up_jobs(client, &all_jobs, is_stored).await? {
        actions.requeue_within(again);
    }
    context.repository_metrics.update(&namespace, &owner.name, &status);
    context.publish_events(&repository.object_ref(&()), &actions.events).await;
    context.succeeded(&repository);
    Ok(actions.requeue_after.map_or_else(Action::await_change, Action::requeue))
}

/// All kinds of Jobs which use a repository, except queries of the CLI.
const ALL_KINDS: [RunKind; 6] =
    [RunKind::Init, RunKind::Backup, RunKind::Restore, RunKind::Repack, RunKind::Prune, RunKind::Check];

/// The other runs of a repository.
#[derive(Default)]
struct Neighbours {
    active: Vec<ActiveJob>,
    is_closed: bool,
    differing_retentions: Vec<String>,
}

/// All Jobs which use the same repository now, through any Repository object, whether a prune is due in another object of
/// it, and the objects of it with another retention.
async fn observe_neighbours(
    context: &Context,
    repository: &Repository,
    now: Timestamp,
) -> Result<Neighbours, ReconcileError> {
    let all: Vec<Repository> = observe::list_all_namespaces(&context.client, "").await?;
    let same = plan::same_repositories(&all, repository);
    let differing_retentions = plan::differing_retentions(&all, repository);
    let others: Vec<Repository> = all.into_iter().filter(|other| other.uid() != repository.uid()).collect();
    let Runs { mut active, prunes } = observe_runs(context, &ALL_KINDS).await?;
    let closed = plan::closed_repositories(&others, &prunes, now);
    active.retain(|job| same.contains(&(job.namespace.clone(), job.repository.clone())));
    Ok(Neighbours { active, is_closed: same.iter().any(|key| closed.contains(key)), differing_retentions })
}

async fn create_password(
    context: &Context,
    repository: &Repository,
    actions: &mut Actions,
) -> Result<(), ReconcileError> {
    let (name, namespace) = (repository.name_any(), repository.namespace().unwrap_or_default());
    let secret = &repository.spec.password_secret_ref;
    let explanation = format!(
        "The only key to the data of Repository {name}; without it no backup can be read. Keep a copy outside of this cluster."
    );
    let made = apply::create_password(&context.client, &namespace, &secret.name, &secret.key, &explanation).await?;
    if made {
        actions.events.push(EventRecord {
            is_warning: false,
            reason: "PasswordCreated".to_owned(),
            action: "Open",
            note: format!(
                "Secret {} was created with a random password; keep a copy outside of this cluster",
                secret.name
            ),
            job: None,
        });
    }
    Ok(())
}

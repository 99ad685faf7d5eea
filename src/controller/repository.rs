//! One look at a Repository.
//!
//! It must not decide anything; see `plan::plan_repository` and `plan::plan_upkeep`.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{
    ReconcileError, Seen,
    context::Context,
    jobs::{Runs, carry_out, observe_jobs, observe_runs, retire},
};
use crate::{
    api::Repository,
    build::names::{Owner, RunKind},
    cluster::{apply, observe},
    plan::{self, Actions, ActiveJob, Occurrence, Staged, UpkeepFacts},
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Repository>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _own_turn = context.turn_of(&namespace).await;
    let Some(repository) = context.read::<Repository>(&seen).await? else { return Ok(Action::await_change()) };
    let Some(owner) = Owner::of(&repository) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Init).await?;
    let mut upkeep_jobs = Vec::new();
    for kind in [RunKind::Repack, RunKind::Prune, RunKind::Check] {
        upkeep_jobs.extend(observe_jobs(&context, &owner, kind).await?);
    }
    let cluster = context.cluster_id().await?;

    let turn = context.turn.lock().await;
    let now = Timestamp::now();
    let neighbours = if plan::wants_facts(&repository, now) {
        observe_neighbours(&context, &repository, now).await?
    } else {
        Neighbours::default()
    };
    let facts = UpkeepFacts { jobs: &upkeep_jobs, active: &neighbours.active, is_closed: neighbours.is_closed };

    let (mut status, mut actions) = plan::plan_repository(&repository, &jobs, cluster, now);
    plan::plan_upkeep(&repository, facts, &mut status, &mut actions, now);

    let _starting = context.starting(&owner, &actions.start);
    drop(turn);
    if actions.create_password {
        create_password(&context, &repository, &mut actions).await?;
    }
    let all_jobs: Vec<_> = jobs.iter().chain(&upkeep_jobs).cloned().collect();
    let repositories = std::slice::from_ref(&repository);
    for refused in carry_out(&context, &owner, (&actions, &all_jobs, Staged::default()), repositories, None).await? {
        let words = (refused.source.as_str(), refused.reason, refused.message.as_str());
        if refused.kind == RunKind::Init {
            plan::init_refused(&mut status, &mut actions, (refused.reason, &refused.message), now);
        } else {
            plan::upkeep_refused(&repository, &mut status, &mut actions, words, now);
        }
    }
    if repository.status.as_ref() != Some(&status) {
        apply::status(client, &repository, &status).await?;
    }
    let is_stored = |name: &str| plan::is_recorded_of_repository(&repository, &status, name);
    retire(client, &jobs, is_stored).await?;
    retire(client, &upkeep_jobs, is_stored).await?;
    context.figures.show(&namespace, &owner.name, &status);
    context.tell(&repository.object_ref(&()), &actions.events).await;
    context.succeeded(&repository);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

/// All that may work on a repository and has a Job.
const ALL_KINDS: [RunKind; 6] =
    [RunKind::Init, RunKind::Backup, RunKind::Restore, RunKind::Repack, RunKind::Prune, RunKind::Check];

/// Who else works on a repository.
#[derive(Default)]
struct Neighbours {
    active: Vec<ActiveJob>,
    is_closed: bool,
}

/// All Jobs that work on the same repository now, under whatever name, and whether a prune is due elsewhere.
async fn observe_neighbours(
    context: &Context,
    repository: &Repository,
    now: Timestamp,
) -> Result<Neighbours, ReconcileError> {
    let everywhere: Vec<Repository> = observe::everywhere(&context.client, "").await?;
    let same = plan::same_repositories(&everywhere, repository);
    let others: Vec<Repository> = everywhere.into_iter().filter(|other| other.uid() != repository.uid()).collect();
    let Runs { mut active, prunes } = observe_runs(context, &ALL_KINDS).await?;
    let closed = plan::closed_repositories(&others, &prunes, now);
    active.retain(|job| same.contains(&(job.namespace.clone(), job.repository.clone())));
    Ok(Neighbours { active, is_closed: same.iter().any(|place| closed.contains(place)) })
}

async fn create_password(
    context: &Context,
    repository: &Repository,
    actions: &mut Actions,
) -> Result<(), ReconcileError> {
    let (name, namespace) = (repository.name_any(), repository.namespace().unwrap_or_default());
    let secret = &repository.spec.password_secret_ref;
    let explanation = format!(
        "The only key to what Repository {name} holds; without it no backup can be read. Keep a copy outside of this cluster."
    );
    let made = apply::create_password(&context.client, &namespace, &secret.name, &secret.key, &explanation).await?;
    if made {
        actions.events.push(Occurrence {
            is_warning: false,
            reason: "PasswordCreated".to_owned(),
            action: "Open",
            note: format!(
                "Secret {} was made with a random password; keep a copy outside of this cluster",
                secret.name
            ),
            job: None,
        });
    }
    Ok(())
}

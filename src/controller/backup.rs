//! One look at a Backup.
//!
//! It must not decide anything; see `plan::plan_backup`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::CronJob,
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Client, Resource, ResourceExt,
    core::{ApiResource, DynamicObject},
    runtime::controller::Action,
};

use super::{
    ReconcileError, Seen,
    context::Context,
    jobs::{Runs, carry_out, observe_claim_uses, observe_jobs, observe_runs, retire},
    metrics,
};
use crate::{
    api::{Backup, BackupStatus, Repository},
    build::{
        labels,
        names::{Owner, RunKind},
        snapshot,
    },
    cluster::{
        apply,
        call::CallError,
        observe::{self, Unreadable},
    },
    model::SourceName,
    plan::{
        self, BackupFacts, ClaimFacts, ClaimUses, Expected, ObservedPod, ObservedWorkload, PlanProblem, SnapshotFacts,
        SourceFacts, Staged, StagedClaim, Workload,
    },
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Backup>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _own_turn = context.turn_of(&namespace).await;
    let Some(backup) = context.read::<Backup>(&seen).await? else { return Ok(Action::await_change()) };
    let is_over = backup.status.as_ref().is_some_and(|status| status.verdict.is_some());
    let Some(owner) = Owner::of(&backup) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Backup).await?;
    show(&context, &owner, backup.status.as_ref());
    if is_over {
        retire(client, &jobs, |_| true).await?;
        return Ok(Action::await_change());
    }
    let (pods, unreadable_pods) = observe_pods(&context, &namespace).await?;
    let (claims, unreadable_claims): (Vec<PersistentVolumeClaim>, _) =
        observe::list_all(client, &namespace, "").await?;
    let home = observe::namespace(client, &namespace).await?;
    let observed = observe_storage(client, &plan::snapshot_volumes(&home, &claims)).await?;
    let (snapshots, staged_claims) = observe_staged(client, &owner, &claims).await?;
    let uses = if plan::wants_claim_uses(&backup) {
        observe_claim_uses(client, &namespace, &pods).await?
    } else {
        ClaimUses::default()
    };
    let cluster = context.cluster_id().await?;
    let is_new = backup.status.as_ref().is_none_or(|status| status.start_time.is_none());
    let expected = if is_new { Some(observe_expected(client, &backup).await?) } else { None };

    let turn = context.turn.lock().await;
    let everywhere: Vec<Repository> = observe::everywhere(client, "").await?;
    let Runs { mut active, prunes } =
        observe_runs(&context, &[RunKind::Backup, RunKind::Repack, RunKind::Prune]).await?;
    active.retain(|job| job.kind == RunKind::Backup.to_string());
    let active: Vec<(String, String)> = active.into_iter().map(|job| (job.namespace, job.repository)).collect();
    let now = Timestamp::now();
    let closed = plan::closed_repositories(&everywhere, &prunes, now);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = everywhere.into_iter().filter(here).collect();
    let staged = Staged { snapshots: &snapshots, claims: &staged_claims };
    let mut sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: Some(ClaimFacts {
            namespace: &home,
            claims: &claims,
            repositories: &repositories,
            snapshots: SnapshotFacts {
                classes: observed.classes.as_deref(),
                volumes: &observed.volumes,
                storage_classes: &observed.storage,
            },
        }),
        selector: backup.spec.selector.as_ref(),
        cluster,
        backup_uid: &owner.uid,
        expected: expected.as_ref().map(|(workloads, before)| Expected { workloads: workloads.as_deref(), before }),
    });
    sources.problems.extend(problems(unreadable_pods, unreadable_claims));
    let facts = BackupFacts {
        repositories: &repositories,
        jobs: &jobs,
        staged,
        sources: &sources,
        active: &active,
        closed: &closed,
        uses: &uses,
    };

    let (mut status, mut actions) = plan::plan_backup(&backup, facts, now);

    let _starting = context.starting(&owner, &actions.start);
    drop(turn);
    let is_staged = !snapshots.is_empty() || !staged_claims.is_empty();
    let runner_pod = backup.spec.runner_pod.as_ref();
    for refused in carry_out(&context, &owner, (&actions, &jobs, staged), &repositories, runner_pod).await? {
        let words = (refused.source.as_str(), refused.reason, refused.message.as_str());
        plan::job_refused((backup.status.as_ref(), is_staged), &mut status, &mut actions, words, now);
    }
    if backup.status.as_ref() != Some(&status) {
        apply::status(client, &backup, &status).await?;
    }
    show(&context, &owner, Some(&status));
    retire(client, &jobs, |name| plan::is_recorded(&status, name)).await?;
    context.tell(&backup.object_ref(&()), &actions.events).await;
    context.succeeded(&backup);
    Ok(actions.look_again.map_or_else(Action::await_change, Action::requeue))
}

fn show(context: &Context, owner: &Owner, status: Option<&BackupStatus>) {
    let end = status.and_then(|status| status.completion_time.as_ref()).map(|Time(end)| *end);
    let verdict = status.and_then(|status| status.verdict);
    context.run_figures.show(metrics::RunKind::backup, (&owner.namespace, &owner.name), (verdict, end));
}

/// What says whether and how claims can be snapshot.
#[derive(Default)]
struct Observed {
    classes: Option<Vec<DynamicObject>>,
    volumes: Vec<PersistentVolume>,
    storage: Vec<StorageClass>,
}

/// Looks at it where there are volumes that are to be snapshot.
async fn observe_storage(client: &Client, volumes: &[&str]) -> Result<Observed, CallError> {
    if volumes.is_empty() {
        return Ok(Observed::default());
    }
    let mut found = Vec::new();
    for name in volumes {
        found.extend(observe::object_of_cluster::<PersistentVolume>(client, name).await?);
    }
    Ok(Observed {
        classes: observe::all_dynamic(client, &snapshot::volume_snapshot_classes()).await?,
        volumes: found,
        storage: observe::all_of_cluster(client).await?,
    })
}

/// The snapshots of this Backup, and the claims that it has made of them; of those that have no volume yet, why.
async fn observe_staged(
    client: &Client,
    owner: &Owner,
    claims: &[PersistentVolumeClaim],
) -> Result<(Vec<DynamicObject>, Vec<StagedClaim>), CallError> {
    let Owner { namespace, name, .. } = owner;
    let selector = format!("{}={name},{}={}", labels::RUN, labels::KIND, RunKind::Backup);
    let mut snapshots = observe::list_dynamic(client, &snapshot::volume_snapshots(), namespace, &selector).await?;
    snapshots.retain(|snapshot| owner.controls(&snapshot.metadata));
    let mut staged = Vec::new();
    for claim in claims.iter().filter(|claim| owner.controls(claim.meta())) {
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let uid: Vec<String> = claim.uid().into_iter().filter(|_| !is_bound).collect();
        let complaints = observe::complaints(client, namespace, &uid).await?;
        staged.push(StagedClaim { claim: claim.clone(), complaints });
    }
    Ok((snapshots, staged))
}

/// What a new Backup expects besides the pods that are there: the workloads, and what the last Backup had.
async fn observe_expected(
    client: &Client,
    backup: &Backup,
) -> Result<(Option<Vec<ObservedWorkload>>, Vec<SourceName>), CallError> {
    let namespace = backup.namespace().unwrap_or_default();
    let workloads = match observe_workloads(client, &namespace).await {
        Ok(workloads) => Some(workloads),
        // The role of an older installation does not allow it, which the status reports.
        Err(error) if error.code() == Some(403) => None,
        Err(error) => return Err(error),
    };
    let keep = |best, candidate: DynamicObject| match candidate.try_parse::<Backup>() {
        Ok(candidate) => plan::newer_of(backup, best, candidate),
        // Another version wrote it.
        Err(_) => best,
    };
    let kind = ApiResource::erase::<Backup>(&());
    let last = observe::fold_dynamic(client, &kind, &namespace, None, keep).await?;
    Ok((workloads, last.map_or_else(Vec::new, |last: Backup| plan::sources_of(&last))))
}

async fn observe_workloads(client: &Client, namespace: &str) -> Result<Vec<ObservedWorkload>, CallError> {
    let deployments: Vec<Deployment> = observe::list(client, namespace, "").await?;
    let stateful_sets: Vec<StatefulSet> = observe::list(client, namespace, "").await?;
    let daemon_sets: Vec<DaemonSet> = observe::list(client, namespace, "").await?;
    let cron_jobs: Vec<CronJob> = observe::list(client, namespace, "").await?;
    let mut workloads: Vec<ObservedWorkload> = deployments.into_iter().map(Into::into).collect();
    workloads.extend(stateful_sets.into_iter().map(ObservedWorkload::from));
    workloads.extend(daemon_sets.into_iter().map(ObservedWorkload::from));
    workloads.extend(cron_jobs.into_iter().map(ObservedWorkload::from));
    Ok(workloads)
}

/// The pods of a namespace, and what they belong to, but for those of runs; and what cannot be read of them. The label alone
/// proves no run, because anyone may set it.
pub(super) async fn observe_pods(
    context: &Context,
    namespace: &str,
) -> Result<(Vec<ObservedPod>, Vec<Unreadable>), CallError> {
    let (pods, unreadable) = observe::pods_and_unreadable(&context.client, namespace, "").await?;
    let observed = |(pod, kind, name)| ObservedPod {
        pod: plan::without_foreign_sidecar(pod, &context.image),
        workload: Workload { kind, name },
    };
    let pods = pods.into_iter().filter(|(pod, ..)| !plan::is_run_pod(pod));
    Ok((pods.map(observed).collect(), unreadable))
}

/// What cannot be read cannot be backed up, which is no reason to leave it out in silence.
fn problems(pods: Vec<Unreadable>, claims: Vec<Unreadable>) -> impl Iterator<Item = PlanProblem> {
    let pods = pods.into_iter().map(|Unreadable { name, why, .. }| PlanProblem::Unnamable {
        pod: name,
        message: format!("it cannot be read: {why}"),
    });
    let claims = claims.into_iter().filter_map(|Unreadable { name, why, .. }| {
        let message = format!("the PersistentVolumeClaim cannot be read: {why}");
        Some(PlanProblem::Claim { name: format!("pvc/{name}").parse().ok()?, message })
    });
    pods.chain(claims)
}

//! The reconcile of a Backup. Decisions are made by `plan::plan_backup`.

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
    jobs::{Runs, apply_actions, clean_up_jobs, observe_claim_uses, observe_jobs, observe_runs, open_again},
    metrics,
};
use crate::{
    api::{Backup, BackupStatus, Repository},
    cluster::{
        apply,
        call::CallError,
        observe::{self, Unreadable},
    },
    plan::{
        self, BackupFacts, ClaimFacts, ClaimUses, EarlierSource, Expected, ObservedPod, ObservedWorkload, PlanProblem,
        SnapshotFacts, SourceFacts, Staged, StagedClaim, Workload,
    },
    resources::{
        labels,
        names::{OwnerRef, RunKind},
        snapshot,
    },
};

/// observe -> plan -> build -> apply -> status
pub(super) async fn reconcile(seen: Arc<Seen<Backup>>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (client, namespace) = (&context.client, seen.namespace().unwrap_or_default());
    let _namespace_lock = context.lock_namespace(&namespace).await;
    let Some(backup) = context.read::<Backup>(&seen).await? else { return Ok(Action::await_change()) };
    let is_over = backup.status.as_ref().is_some_and(|status| status.verdict.is_some());
    let Some(owner) = OwnerRef::of(&backup) else { return Ok(Action::await_change()) };
    let jobs = observe_jobs(&context, &owner, RunKind::Backup).await?;
    update_metrics(&context, &owner, backup.status.as_ref());
    if is_over {
        let again = clean_up_jobs(client, &jobs, |_| true).await?;
        return Ok(again.map_or_else(Action::await_change, Action::requeue));
    }
    let (pods, unreadable_pods) = observe_pods(&context, &namespace).await?;
    let (claims, unreadable_claims): (Vec<PersistentVolumeClaim>, _) =
        observe::list_all(client, &namespace, "").await?;
    let namespace_object = observe::namespace(client, &namespace).await?;
    let observed = observe_storage(client, &plan::snapshot_volumes(&namespace_object, &claims)).await?;
    let (snapshots, staged_claims) = observe_staged(client, &owner, &claims).await?;
    let uses = if plan::needs_claim_uses(&backup) {
        observe_claim_uses(client, &namespace, &pods).await?
    } else {
        ClaimUses::default()
    };
    let cluster = context.cluster_id().await?;
    let is_new = backup.status.as_ref().is_none_or(|status| status.start_time.is_none());
    let expected = if is_new { Some(observe_expected(client, &backup).await?) } else { None };

    let scheduling = context.scheduling_lock.lock().await;
    let all: Vec<Repository> = observe::list_all_namespaces(client, "").await?;
    let Runs { mut active, prunes } =
        observe_runs(&context, &[RunKind::Backup, RunKind::Repack, RunKind::Prune]).await?;
    active.retain(|job| job.kind == RunKind::Backup.to_string());
    let active: Vec<(String, String)> = active.into_iter().map(|job| (job.namespace, job.repository)).collect();
    let now = Timestamp::now();
    let closed = plan::closed_repositories(&all, &prunes, now);
    let here = |repository: &Repository| repository.namespace().as_ref() == Some(&namespace);
    let repositories: Vec<Repository> = all.into_iter().filter(here).collect();
    let staged = Staged { snapshots: &snapshots, claims: &staged_claims };
    let mut sources = plan::plan_sources(SourceFacts {
        namespace: &namespace,
        pods: &pods,
        claims: Some(ClaimFacts {
            namespace: &namespace_object,
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
    drop(scheduling);
    let is_staged = !snapshots.is_empty() || !staged_claims.is_empty();
    let runner_pod = backup.spec.runner_pod.as_ref();
    let applied = apply_actions(&context, &owner, (&actions, &jobs, staged), &repositories, runner_pod).await?;
    plan::settle_backup(backup.status.as_ref(), &mut status, &mut actions, &applied, is_staged, now);
    let missed = plan::missed_by_backup(backup.status.as_ref(), &status);
    open_again(client, &repositories, &missed, now).await?;
    if backup.status.as_ref() != Some(&status) {
        apply::status(client, &backup, &status).await?;
    }
    update_metrics(&context, &owner, Some(&status));
    if let Some(again) = clean_up_jobs(client, &jobs, |name| plan::is_recorded(&status, name)).await? {
        actions.requeue_within(again);
    }
    context.publish_events(&backup.object_ref(&()), &actions.events).await;
    context.succeeded(&backup);
    Ok(actions.requeue_after.map_or_else(Action::await_change, Action::requeue))
}

fn update_metrics(context: &Context, owner: &OwnerRef, status: Option<&BackupStatus>) {
    let end = status.and_then(|status| status.completion_time.as_ref()).map(|Time(end)| *end);
    let verdict = status.and_then(|status| status.verdict);
    context.run_metrics.update(metrics::RunKind::backup, (&owner.namespace, &owner.name), (verdict, end));
}

/// The cluster's objects which determine whether and how claims can be snapshot.
#[derive(Default)]
struct Observed {
    classes: Option<Vec<DynamicObject>>,
    volumes: Vec<PersistentVolume>,
    storage: Vec<StorageClass>,
}

/// Reads these objects, unless no volume is to be snapshot.
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

/// The `VolumeSnapshot`s of this Backup, and the claims which it has created from them, with warnings about those which
/// have no volume yet.
async fn observe_staged(
    client: &Client,
    owner: &OwnerRef,
    claims: &[PersistentVolumeClaim],
) -> Result<(Vec<DynamicObject>, Vec<StagedClaim>), CallError> {
    let OwnerRef { namespace, name, .. } = owner;
    let selector = format!("{}={name},{}={}", labels::RUN, labels::KIND, RunKind::Backup);
    let mut snapshots = observe::list_dynamic(client, &snapshot::volume_snapshots(), namespace, &selector).await?;
    snapshots.retain(|snapshot| owner.controls(&snapshot.metadata));
    let mut staged = Vec::new();
    for claim in claims.iter().filter(|claim| owner.controls(claim.meta())) {
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let uid: Vec<String> = claim.uid().into_iter().filter(|_| !is_bound).collect();
        let warning_events = observe::warning_events(client, namespace, &uid).await?;
        staged.push(StagedClaim { claim: claim.clone(), warning_events });
    }
    Ok((snapshots, staged))
}

/// What a new Backup expects besides the existing pods: the workloads, and the sources of the last Backup.
async fn observe_expected(
    client: &Client,
    backup: &Backup,
) -> Result<(Option<Vec<ObservedWorkload>>, Vec<EarlierSource>), CallError> {
    let namespace = backup.namespace().unwrap_or_default();
    let workloads = match observe_workloads(client, &namespace).await {
        Ok(workloads) => Some(workloads),
        // The role of an older installation does not allow this; the status reports it.
        Err(error) if error.code() == Some(403) => None,
        Err(error) => return Err(error),
    };
    let keep = |best, candidate: DynamicObject| match candidate.try_parse::<Backup>() {
        Ok(candidate) => plan::newer_of(backup, best, candidate),
        // An object of another version which cannot be parsed is ignored.
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

/// The pods of a namespace with their workloads, except the pods of runs; and the pods which cannot be parsed. A label
/// alone does not prove that a pod belongs to a run, because any author may set it.
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

/// The problems for pods and claims which cannot be parsed and so cannot be backed up.
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

//! Jobs in a reconcile: they are observed together with their pods, and created, ended and cleaned up as planned.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ObjectReference, PersistentVolumeClaim, Pod},
};
use kube::{Client, ResourceExt};

use super::{
    ReconcileError,
    context::Context,
    start::{TakenName, create_snapshot, start_job},
};
use crate::{
    api::{Repository, RunnerPod},
    cluster::{self, apply, call::CallError, observe},
    model::{Reason, RunProgress},
    plan::{
        self, Actions, ActiveJob, Applied, ClaimUses, EventRecord, JobRetention, ObservedJob, ObservedPod, OwnRuns,
        PruneRuns, Refused, Staged, StagedClaim, is_active, is_started, job_retention, wants_warning_events,
    },
    resources::{
        self, labels,
        names::{OwnerRef, RunKind},
        rbac, snapshot,
    },
};

/// The Jobs which are provably runs of this object, with their pods, and with Kubernetes' warnings if a pod does not
/// start.
pub(super) async fn observe_jobs(
    context: &Context,
    owner: &OwnerRef,
    kind: RunKind,
) -> Result<Vec<ObservedJob>, CallError> {
    let OwnerRef { namespace, name, .. } = owner;
    let selector = format!("{}={name},{}={kind}", labels::RUN, labels::KIND);
    let jobs: Vec<Job> = observe::list(&context.client, namespace, &selector).await?;
    let pods: Vec<Pod> =
        if jobs.is_empty() { Vec::new() } else { observe::list(&context.client, namespace, &selector).await? };
    let mut observed = Vec::new();
    for job in jobs.into_iter().filter(|job| plan::is_run_of(job, owner)) {
        let pods: Vec<Pod> = pods.iter().filter(|pod| plan::is_pod_of(pod, &job)).cloned().collect();
        let warning_events = if wants_warning_events(&job, &pods) {
            let uids: Vec<String> = job.uid().into_iter().chain(pods.iter().filter_map(Pod::uid)).collect();
            observe::warning_events(&context.client, namespace, &uids).await?
        } else {
            Vec::new()
        };
        let progress = progress(&context.client, namespace, &pods).await;
        observed.push(ObservedJob { job, pods, warning_events, progress });
    }
    Ok(observed)
}

/// The progress which the run in these pods reports. It is only displayed, so an error is not fatal.
async fn progress(client: &Client, namespace: &str, pods: &[Pod]) -> Option<RunProgress> {
    let (pod, uid) = plan::running_pod(pods)?;
    match cluster::progress::read(client, namespace, (&pod, &uid)).await {
        Ok(progress) => progress,
        Err(error) => {
            tracing::debug!("failed to read the progress of pod {namespace}/{pod}: {error}");
            None
        }
    }
}

/// The claims and commands of a namespace which runs use. `apps` are the pods which belong to no run.
pub(super) async fn observe_claim_uses(
    client: &Client,
    namespace: &str,
    apps: &[ObservedPod],
) -> Result<ClaimUses, CallError> {
    let of_backups = format!("{}={}", labels::KIND, RunKind::Backup);
    // An object which only has the label of a run must not block the backup of a claim.
    let mut jobs: Vec<Job> = observe::list(client, namespace, labels::KIND).await?;
    jobs.retain(plan::is_run);
    let mut pods: Vec<Pod> = observe::list(client, namespace, labels::KIND).await?;
    pods.retain(plan::is_pod_of_a_run);
    Ok(ClaimUses::of(OwnRuns {
        jobs: &jobs,
        pods: &pods,
        snapshots: &observe::list_dynamic(client, &snapshot::volume_snapshots(), namespace, &of_backups).await?,
        restores: &observe::list(client, namespace, "").await?,
        apps,
    }))
}

/// The runs of the whole cluster.
pub(super) struct Runs {
    /// The runs which are started and not over, and those which are being started.
    pub active: Vec<ActiveJob>,
    pub prunes: PruneRuns,
}

/// All runs of these kinds in the cluster. A Job which only has the label of a run is ignored.
pub(super) async fn observe_runs(context: &Context, kinds: &[RunKind]) -> Result<Runs, CallError> {
    // Read before the list, so that a run which is started meanwhile is in at least one of them.
    let mut active = context.being_started();
    active.retain(|job| kinds.iter().any(|kind| kind.to_string() == job.kind));
    let kinds = kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let selector = format!("{} in ({kinds})", labels::KIND);
    let jobs: Vec<Job> = observe::list_all_namespaces(&context.client, &selector).await?;
    let has_started = jobs.iter().any(|job| plan::is_run(job) && is_started(job));
    // A run may end before its pod, if another container keeps the pod alive.
    let mut pods: Vec<Pod> =
        if has_started { observe::list_all_namespaces(&context.client, &selector).await? } else { Vec::new() };
    pods.retain(plan::is_pod_of_a_run);
    let mut prunes = PruneRuns::default();
    let is_prune = |job: &ActiveJob| job.kind == RunKind::Prune.to_string();
    prunes.live.extend(active.iter().filter(|job| is_prune(job)).map(repository_key));
    for job in jobs.iter().filter(|job| plan::is_run(job)) {
        let label = |key: &str| job.labels().get(key).cloned().unwrap_or_default();
        let found = ActiveJob {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            repository: label(labels::REPOSITORY),
            kind: label(labels::KIND),
        };
        if is_prune(&found) && !plan::is_over(job) {
            prunes.live.insert(repository_key(&found));
        }
        if found.kind == RunKind::Repack.to_string() && plan::is_complete(job) {
            prunes.prepared.insert(repository_key(&found));
        }
        if is_active(job, &pods)
            && !active.iter().any(|known| (&known.namespace, &known.name) == (&found.namespace, &found.name))
        {
            active.push(found);
        }
    }
    Ok(Runs { active, prunes })
}

/// Cleans up the Jobs whose results are in the stored status; see [`job_retention`]. Returns when to do so again, if a
/// Job is left which delays the deletion of a claim.
pub(super) async fn clean_up_jobs(
    client: &Client,
    jobs: &[ObservedJob],
    is_stored: impl Fn(&str) -> bool,
) -> Result<Option<Duration>, CallError> {
    let stored = || jobs.iter().filter(|observed| is_stored(&observed.job.name_any()));
    let holding = stored().find(|observed| plan::holds_claim(&observed.job));
    let ending = match holding.and_then(|observed| observed.job.namespace()) {
        Some(namespace) => claims_being_deleted(client, &namespace).await?,
        None => BTreeSet::new(),
    };
    let mut is_left = false;
    for observed in stored() {
        let (name, namespace) = (observed.job.name_any(), observed.job.namespace().unwrap_or_default());
        let retention = job_retention(observed, &ending);
        is_left |= retention != JobRetention::Delete && plan::holds_claim(&observed.job);
        match retention {
            JobRetention::Keep => {}
            JobRetention::Expire(after) => apply::expire_job(client, &namespace, &name, after).await?,
            JobRetention::Delete => apply::delete_job(client, &observed.job).await?,
        }
    }
    Ok(is_left.then_some(plan::CLAIM_LOOK))
}

async fn claims_being_deleted(client: &Client, namespace: &str) -> Result<BTreeSet<String>, CallError> {
    let (claims, _): (Vec<PersistentVolumeClaim>, _) = observe::list_all(client, namespace, "").await?;
    let ending = claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_some());
    Ok(ending.map(ResourceExt::name_any).collect())
}

/// Opens the Repositories again which runs have not found; see [`plan::in_doubt`].
pub(super) async fn open_again(
    client: &Client,
    repositories: &[Repository],
    missed: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(), CallError> {
    for repository in repositories.iter().filter(|repository| missed.contains(&repository.name_any())) {
        if let Some(status) = plan::in_doubt(repository, now) {
            apply::status(client, repository, &status).await?;
        }
    }
    Ok(())
}

fn repository_key(job: &ActiveJob) -> (String, String) {
    (job.namespace.clone(), job.repository.clone())
}

/// Carries out the planned actions on the Jobs of this object; see [`Actions`] for the order. A refused object of one
/// source does not affect other sources.
pub(super) async fn apply_actions(
    context: &Context,
    owner: &OwnerRef,
    (actions, jobs, staged): (&Actions, &[ObservedJob], Staged<'_>),
    repositories: &[Repository],
    runner_pod: Option<&RunnerPod>,
) -> Result<Applied, ReconcileError> {
    let Actions {
        create_password: _,
        restore: _,
        snapshots,
        start,
        end,
        revoke,
        delete,
        delete_claims,
        delete_snapshots,
        events: _,
        requeue_after: _,
    } = actions;
    let (client, namespace) = (&context.client, owner.namespace.as_str());
    let mut applied = Applied::default();
    for request in snapshots {
        if let Err(error) = create_snapshot(context, owner, request).await {
            applied.refused.push(refusal(context, owner, error, (RunKind::Backup, &request.source)).await?);
        }
    }
    let assigns_users = match start.as_slice() {
        [] => false,
        _ => resources::assigns_users(&observe::namespace(client, namespace).await?),
    };
    // All at once, because an admission webhook may delay each of them.
    let started =
        start.iter().map(|request| start_job(context, owner, request, repositories, (runner_pod, assigns_users)));
    for (request, started) in start.iter().zip(join_all(started).await) {
        if let Err(error) = started {
            applied.refused.push(refusal(context, owner, error, (request.kind, &request.source)).await?);
        }
    }
    for name in end {
        apply::end_job(client, namespace, name).await?;
    }
    for name in revoke {
        apply::delete_role_binding(client, namespace, name, |binding| rbac::is_binding_of(binding, owner)).await?;
    }
    for job in jobs.iter().map(|observed| &observed.job).filter(|job| delete.contains(&job.name_any())) {
        apply::delete_job(client, job).await?;
    }
    for StagedClaim { claim, .. } in
        staged.claims.iter().filter(|staged| delete_claims.contains(&staged.claim.name_any()))
    {
        apply::delete_claim(client, &claim.metadata).await?;
    }
    for snapshot in staged.snapshots.iter().filter(|snapshot| delete_snapshots.contains(&snapshot.name_any())) {
        apply::delete_dynamic(client, &snapshot::volume_snapshots(), &snapshot.metadata).await?;
    }
    Ok(applied)
}

/// The refusal of a source's Job or snapshot. A Backup states also temporary failures in its status.
///
/// # Errors
/// Any other error. An Event reports it, because the status is not written before a later reconcile succeeds.
async fn refusal(
    context: &Context,
    owner: &OwnerRef,
    error: ReconcileError,
    (kind, source): (RunKind, &str),
) -> Result<Refused, ReconcileError> {
    let (reason, is_temporary) = match &error {
        ReconcileError::Name(TakenName::Foreign(_)) => (Reason::NameTaken, false),
        // A refusal would fail a Restore for good, so its reconcile is retried until Kubernetes has deleted the
        // leftover object. Other runs are repeated by their plan.
        ReconcileError::Name(TakenName::Leftover(_)) if kind != RunKind::Restore => (Reason::NameTaken, false),
        ReconcileError::Call(error) if is_refusal(error) => (Reason::PodNotStarted, false),
        ReconcileError::Call(_) if kind == RunKind::Backup => (Reason::PodNotStarted, true),
        _ => {
            let (reason, action) = (Reason::PodNotStarted.to_string(), "Start");
            let note = format!("{error}; the creation is repeated");
            let event = EventRecord { is_warning: true, reason, action, note, job: None };
            let OwnerRef { api_version, kind, namespace, name, uid, since: _ } = owner.clone();
            let regarding = ObjectReference {
                api_version: Some(api_version),
                kind: Some(kind),
                namespace: Some(namespace),
                name: Some(name),
                uid: Some(uid),
                ..ObjectReference::default()
            };
            context.publish_events(&regarding, &[event]).await;
            return Err(error);
        }
    };
    Ok(Refused { kind, source: source.to_owned(), reason, message: error.to_string(), is_temporary })
}

/// Whether the API server refused the request itself, so that a retry would fail, too.
pub(super) fn is_refusal(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 403 | 422))
}

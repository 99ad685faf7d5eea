//! Jobs as the reconciles see them: observed together with their pods, and started, ended and cleaned up as planned.
//!
//! It must not know what a Job is for.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Client, Resource, ResourceExt};

use super::{ReconcileError, context::Context};
use crate::{
    api::{Repository, RunnerPod},
    build::{
        self, JobRequest, labels,
        names::{Owner, RunKind},
        snapshot,
    },
    cluster::{
        apply::{self, CreateError},
        call::CallError,
        observe,
    },
    model::Task,
    plan::{
        Actions, ActiveJob, ClaimUses, JobRetention, ObservedJob, OwnRuns, StartJob, is_active, is_started,
        job_retention, wants_complaints,
    },
};

/// The Jobs of this object, with their pods, and with Kubernetes' complaints where a pod does not start.
pub(super) async fn observe_jobs(
    context: &Context,
    owner: &Owner,
    kind: RunKind,
) -> Result<Vec<ObservedJob>, CallError> {
    let Owner { namespace, name, .. } = owner;
    let selector = format!("{}={name},{}={kind}", labels::RUN, labels::KIND);
    let jobs: Vec<Job> = observe::list(&context.client, namespace, &selector).await?;
    let pods: Vec<Pod> =
        if jobs.is_empty() { Vec::new() } else { observe::list(&context.client, namespace, &selector).await? };
    let mut observed = Vec::new();
    for job in jobs.into_iter().filter(|job| owner.owns(job.meta())) {
        let Some(job_owner) = Owner::of(&job) else { continue };
        let pods: Vec<Pod> = pods.iter().filter(|pod| job_owner.owns(pod.meta())).cloned().collect();
        let complaints = if wants_complaints(&job, &pods) {
            let uids: Vec<String> = std::iter::once(job_owner.uid).chain(pods.iter().filter_map(Pod::uid)).collect();
            observe::complaints(&context.client, namespace, &uids).await?
        } else {
            Vec::new()
        };
        observed.push(ObservedJob { job, pods, complaints });
    }
    Ok(observed)
}

/// What our own runs do in the claims of a namespace.
pub(super) async fn observe_claim_uses(client: &Client, namespace: &str) -> Result<ClaimUses, CallError> {
    let of_backups = format!("{}={}", labels::KIND, RunKind::Backup);
    Ok(ClaimUses::of(OwnRuns {
        jobs: &observe::list(client, namespace, labels::KIND).await?,
        pods: &observe::list(client, namespace, labels::KIND).await?,
        snapshots: &observe::list_dynamic(client, &snapshot::volume_snapshots(), namespace, &of_backups).await?,
        restores: &observe::list(client, namespace, "").await?,
    }))
}

/// All Jobs in the cluster with these labels that are started and not over.
pub(super) async fn observe_active(client: &Client, selector: &str) -> Result<Vec<ActiveJob>, CallError> {
    let mut jobs: Vec<Job> = observe::everywhere(client, selector).await?;
    jobs.retain(is_started);
    // A run ends before its pod does where another container keeps that alive.
    let pods: Vec<Pod> = if jobs.is_empty() { Vec::new() } else { observe::everywhere(client, selector).await? };
    let of = |job: &Job| {
        let label = |key: &str| job.labels().get(key).cloned().unwrap_or_default();
        ActiveJob {
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            repository: label(labels::REPOSITORY),
            kind: label(labels::KIND),
        }
    };
    Ok(jobs.iter().filter(|job| is_active(job, &pods)).map(of).collect())
}

/// Has the Jobs deleted whose results are in the status that is stored; see [`job_retention`].
pub(super) async fn retire(
    client: &Client,
    jobs: &[ObservedJob],
    is_stored: impl Fn(&str) -> bool,
) -> Result<(), CallError> {
    for observed in jobs {
        let (name, namespace) = (observed.job.name_any(), observed.job.namespace().unwrap_or_default());
        if !is_stored(&name) {
            continue;
        }
        match job_retention(observed) {
            JobRetention::Keep => {}
            JobRetention::Expire(after) => apply::expire_job(client, &namespace, &name, after).await?,
            JobRetention::Delete => apply::delete_job(client, &namespace, &name).await?,
        }
    }
    Ok(())
}

/// A start that the API server refused for a reason of its own (a quota, a policy), so that asking again at once is in
/// vain: what for, name of the source, and its words.
pub(super) struct Refused {
    pub kind: RunKind,
    pub source: String,
    pub message: String,
}

/// Does what was planned for the Jobs of this object; see [`Actions`] for the order.
pub(super) async fn carry_out(
    context: &Context,
    owner: &Owner,
    actions: &Actions,
    repositories: &[Repository],
    runner_pod: Option<&RunnerPod>,
) -> Result<Vec<Refused>, ReconcileError> {
    let Actions {
        create_password: _,
        around: _,
        snapshots,
        start,
        resume,
        end,
        revoke,
        delete,
        delete_claims,
        delete_snapshots,
        events: _,
        look_again: _,
    } = actions;
    let (client, namespace) = (&context.client, owner.namespace.as_str());
    let mut refused = Vec::new();
    let kind = snapshot::volume_snapshots();
    for request in snapshots {
        match apply::create_dynamic(client, &kind, &snapshot::volume_snapshot(owner, request)).await {
            Ok(()) => {}
            Err(CreateError::Call(error)) if is_refusal(&error) => {
                let source = request.source.clone();
                refused.push(Refused { kind: RunKind::Backup, source, message: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let assigns_users = match start.as_slice() {
        [] => false,
        _ => build::assigns_users(&observe::namespace(client, namespace).await?),
    };
    for request in start {
        match start_job(context, owner, request, repositories, (runner_pod, assigns_users)).await {
            Ok(()) => {}
            Err(ReconcileError::Create(CreateError::Call(error))) if is_refusal(&error) => {
                let (kind, source) = (request.kind, request.source.clone());
                refused.push(Refused { kind, source, message: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    for name in resume {
        if let Some(job) = observe::object::<Job>(client, namespace, name).await? {
            set_going(context, &job).await?;
        }
    }
    for name in end {
        apply::end_job(client, namespace, name).await?;
    }
    for name in revoke {
        apply::delete_role_binding(client, namespace, name).await?;
    }
    for name in delete {
        apply::delete_job(client, namespace, name).await?;
    }
    for name in delete_claims {
        apply::delete_claim(client, namespace, name).await?;
    }
    for name in delete_snapshots {
        apply::delete_dynamic(client, &kind, namespace, name).await?;
    }
    Ok(refused)
}

async fn start_job(
    context: &Context,
    owner: &Owner,
    request: &StartJob,
    repositories: &[Repository],
    (runner_pod, assigns_users): (Option<&RunnerPod>, bool),
) -> Result<(), ReconcileError> {
    let StartJob { kind, source, attempt, task, repository, timeout, claim, made_of: _, target } = request;
    let found = repositories.iter().find(|candidate| candidate.name_any() == *repository);
    // The plan chose it from this very list, and the CRD refuses one without a backend.
    let Some((spec, backend)) = found.and_then(|found| Some((&found.spec, build::backend_config(&found.spec)?))) else {
        return Ok(());
    };
    let job = build::job(&JobRequest {
        owner,
        kind: *kind,
        source,
        attempt: *attempt,
        task: &Task {
            backend,
            connection: build::connection(spec),
            cluster: context.cluster_id().await?.to_owned(),
            kind: task.clone(),
        },
        repository_name: repository,
        repository: spec,
        runner_pod,
        claim: claim.as_ref(),
        assigns_users,
        timeout: *timeout,
        target: target.as_ref(),
        image: &context.image,
    })?;
    if let Some(claim) = snapshot::temporary_claim(owner, request) {
        apply::create_own_claim(&context.client, &claim).await?;
    }
    let job = apply::create_job(&context.client, &job).await?;
    set_going(context, &job).await
}

/// Gives a suspended Job its identity, and starts it. The identity is owned by the Job, so it comes after it.
async fn set_going(context: &Context, job: &Job) -> Result<(), ReconcileError> {
    if job.spec.as_ref().and_then(|spec| spec.suspend) != Some(true) {
        return Ok(());
    }
    if let (Some(account), Some(binding)) = (build::service_account(job), build::role_binding(job)) {
        apply::service_account(&context.client, &account).await?;
        apply::role_binding(&context.client, &binding).await?;
    }
    let namespace = job.namespace().unwrap_or_default();
    Ok(apply::start_job(&context.client, &namespace, &job.name_any()).await?)
}

/// Whether the answer is about the request, rather than about the moment.
pub(super) fn is_refusal(error: &CallError) -> bool {
    matches!(error.code(), Some(400 | 403 | 422))
}

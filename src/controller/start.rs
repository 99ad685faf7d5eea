//! How a planned Job is made, gets its identity, and is started.
//!
//! An object that is there already under a planned name is never taken on its word: it is used only where it is what the plan
//! says, and what a Job may do follows from the plan. It must not know what a Job is for.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{Resource, ResourceExt, core::ObjectMeta};

use super::{ReconcileError, context::Context};
use crate::{
    api::{CARRIED_OUT, Repository, Restore, RunnerPod},
    build::{self, JobRequest, names::Owner, names::RunKind, snapshot},
    cluster::{
        apply::{self, Created},
        observe,
    },
    model::{Task, TaskKind},
    plan::{self, MakeSnapshot, StartJob, StoredJob},
};

/// Why an object that is there under a planned name is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakenName {
    /// It is of another author.
    #[error(
        "{0} exists and is not what Stowaway would make under this name, so that it is not used; delete it, and find out who \
         made it"
    )]
    Foreign(String),
    /// It belongs to an earlier Job of the same name. Kubernetes deletes it.
    #[error("{0} belongs to an earlier Job of that name, and is not deleted yet")]
    Leftover(String),
}

/// Makes the snapshot, unless it is there.
pub(super) async fn make_snapshot(
    context: &Context,
    owner: &Owner,
    request: &MakeSnapshot,
) -> Result<(), ReconcileError> {
    let planned = snapshot::volume_snapshot(owner, request);
    match apply::create_dynamic(&context.client, &snapshot::volume_snapshots(), &planned).await? {
        Created::Present(stored) if !plan::is_planned_snapshot(&stored, &planned, owner) => {
            Err(TakenName::Foreign(format!("VolumeSnapshot {}/{}", owner.namespace, request.name)).into())
        }
        Created::Made(_) | Created::Present(_) => Ok(()),
    }
}

/// Makes the Job and what it needs, and starts it; what is there of it from an earlier look is used.
pub(super) async fn start_job(
    context: &Context,
    owner: &Owner,
    request: &StartJob,
    repositories: &[Repository],
    (runner_pod, assigns_users): (Option<&RunnerPod>, bool),
) -> Result<(), ReconcileError> {
    let StartJob { kind, source, attempt, task, repository, timeout, claim, made_of: _, target, note } = request;
    let found = repositories.iter().find(|candidate| candidate.name_any() == *repository);
    // The plan chose it from this very list, and the CRD refuses one without a backend.
    let Some((found, backend)) = found.and_then(|found| Some((found, build::backend_config(&found.spec)?))) else {
        return Ok(());
    };
    let spec = &found.spec;
    let planned = build::job(&JobRequest {
        owner,
        kind: *kind,
        source,
        attempt: *attempt,
        task: &Task {
            backend,
            connection: build::connection(spec),
            cluster: context.cluster_id().await?.to_owned(),
            repository_id: found.status.as_ref().and_then(|status| status.repository_id.clone()),
            kind: task.clone(),
            note: note.clone(),
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
        make_claim(context, owner, &claim).await?;
    }
    let Some(uid) = make_job(context, owner, &planned).await? else { return Ok(()) };
    give_identity(context, &planned, &uid).await?;
    if *kind == RunKind::Restore && !matches!(task, TaskKind::FindSnapshot(_)) {
        mark_carried_out(context, owner).await?;
    }
    Ok(apply::start_job(&context.client, &owner.namespace, &planned.name_any()).await?)
}

async fn make_claim(context: &Context, owner: &Owner, planned: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
    match apply::create(&context.client, planned).await? {
        Created::Present(stored) if !plan::is_planned_claim(&stored, planned, owner)? => {
            let what = format!("PersistentVolumeClaim {}/{}", owner.namespace, planned.name_any());
            Err(TakenName::Foreign(what).into())
        }
        Created::Made(_) | Created::Present(_) => Ok(()),
    }
}

/// Makes the Job unless it is there. Returns its UID; none when it was started already.
async fn make_job(context: &Context, owner: &Owner, planned: &Job) -> Result<Option<String>, ReconcileError> {
    let what = || format!("Job {}/{}", owner.namespace, planned.name_any());
    // A second time when one of an earlier plan was in the way.
    for _ in 0..2 {
        let stored = match apply::create(&context.client, planned).await? {
            Created::Made(job) => return Ok(job.uid()),
            Created::Present(job) => job,
        };
        match plan::stored_job(&stored, planned, owner)? {
            StoredJob::Planned => return Ok(stored.uid()),
            StoredJob::Started => return Ok(None),
            StoredJob::Foreign => return Err(TakenName::Foreign(what()).into()),
            StoredJob::Outdated => apply::delete_job(&context.client, &stored).await?,
        }
    }
    Err(TakenName::Leftover(what()).into())
}

/// The identity is owned by the Job, so it comes after it.
async fn give_identity(context: &Context, planned: &Job, uid: &str) -> Result<(), ReconcileError> {
    let account = build::service_account(planned, uid);
    let binding = build::role_binding(planned, uid);
    let (Some(account), Some(binding)) = (account, binding) else { return Ok(()) };
    ensure(context, &account, |stored: &ServiceAccount| stored.owner_references() == account.owner_references())
        .await?;
    ensure(context, &binding, |stored: &RoleBinding| build::rbac::is_planned_binding(stored, &binding)).await
}

/// Makes a part of a Job's identity, unless it is there.
async fn ensure<K>(context: &Context, planned: &K, is_planned: impl FnOnce(&K) -> bool) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let stored = match apply::create(&context.client, planned).await? {
        Created::Made(_) => return Ok(()),
        Created::Present(stored) => stored,
    };
    if is_planned(&stored) {
        return Ok(());
    }
    let what = format!("{} {}/{}", K::kind(&()), planned.namespace().unwrap_or_default(), planned.name_any());
    let is_of_its_name = |metadata: &ObjectMeta| {
        let job = |owners: &ObjectMeta| observe::controller_of(owners.owner_references.as_deref()?).cloned();
        job(metadata).zip(job(planned.meta())).is_some_and(|(found, planned)| {
            (found.kind, found.name) == (planned.kind, planned.name) && found.uid != planned.uid
        })
    };
    let is_leftover = is_of_its_name(stored.meta());
    Err(if is_leftover { TakenName::Leftover(what) } else { TakenName::Foreign(what) }.into())
}

/// From here on the Restore counts as carried out, whatever becomes of its status.
async fn mark_carried_out(context: &Context, owner: &Owner) -> Result<(), ReconcileError> {
    let restore: Option<Restore> = observe::object(&context.client, &owner.namespace, &owner.name).await?;
    let Some(restore) = restore.filter(|restore| restore.uid().as_ref() == Some(&owner.uid)) else {
        return Err(TakenName::Foreign(format!("Restore {}/{}", owner.namespace, owner.name)).into());
    };
    Ok(apply::annotation(&context.client, &restore, (CARRIED_OUT, &owner.uid)).await?)
}

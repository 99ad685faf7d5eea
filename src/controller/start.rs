//! The creation of a planned Job and of its service account and rights, and its start.
//!
//! An existing object with a planned name is not trusted. It is used only if it equals the planned one, and the rights
//! of a Job are derived from the plan.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{Resource, ResourceExt, core::ObjectMeta};

use super::{ReconcileError, context::Context};
use crate::{
    api::{CARRIED_OUT, Repository, Restore, RunnerPod},
    cluster::{
        apply::{self, Created},
        observe,
    },
    model::{DamagedPacks, Task, TaskKind},
    plan::{self, CreateSnapshot, StartJob, StoredJob},
    resources::{self, JobRequest, names::OwnerRef, names::RunKind, snapshot},
};

/// Why an existing object with a planned name is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakenName {
    /// The object is of another author.
    #[error(
        "{0} exists and differs from the object which Stowaway would create with this name, so it is not used; delete it, \
         and find out who created it"
    )]
    Foreign(String),
    /// The object belongs to an earlier Job of the same name. Kubernetes deletes it.
    #[error("{0} belongs to an earlier Job of that name, and is not deleted yet")]
    Leftover(String),
}

/// Creates the `VolumeSnapshot`, unless it exists.
pub(super) async fn create_snapshot(
    context: &Context,
    owner: &OwnerRef,
    request: &CreateSnapshot,
) -> Result<(), ReconcileError> {
    let planned = snapshot::volume_snapshot(owner, request);
    match apply::create_dynamic(&context.client, &snapshot::volume_snapshots(), &planned).await? {
        Created::Present(stored) if !plan::is_planned_snapshot(&stored, &planned, owner) => {
            Err(TakenName::Foreign(format!("VolumeSnapshot {}/{}", owner.namespace, request.name)).into())
        }
        Created::Made(_) | Created::Present(_) => Ok(()),
    }
}

/// Creates the Job and the objects which it needs, and starts it. Objects which an earlier reconcile created are used.
pub(super) async fn start_job(
    context: &Context,
    owner: &OwnerRef,
    request: &StartJob,
    repositories: &[Repository],
    (runner_pod, assigns_users): (Option<&RunnerPod>, bool),
) -> Result<(), ReconcileError> {
    let StartJob { kind, source, attempt, task, repository, timeout, claim, data_source: _, target, note } = request;
    let found = repositories.iter().find(|candidate| candidate.name_any() == *repository);
    // Always found: the plan chose the Repository from this list, and the CRD requires a backend.
    let Some((found, backend)) = found.and_then(|found| Some((found, resources::backend_config(&found.spec)?))) else {
        return Ok(());
    };
    let spec = &found.spec;
    let planned = resources::job(&JobRequest {
        owner,
        kind: *kind,
        source,
        attempt: *attempt,
        task: &Task {
            backend,
            connection: resources::connection(spec),
            cluster: context.cluster_id().await?.to_owned(),
            repository_id: found.status.as_ref().and_then(|status| status.repository_id.clone()),
            damaged_packs: damaged_packs(context, found, task).await?,
            not_before: task.depends_on_clock().then(Timestamp::now),
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
        create_temporary_claim(context, owner, &claim).await?;
    }
    let Some(uid) = create_job(context, owner, &planned).await? else { return Ok(()) };
    create_identity(context, &planned, &uid).await?;
    if *kind == RunKind::Restore && !matches!(task, TaskKind::FindSnapshot(_)) {
        mark_carried_out(context, owner).await?;
    }
    Ok(apply::start_job(&context.client, &owner.namespace, &planned.name_any()).await?)
}

/// The packs that the run must not rely on.
async fn damaged_packs(
    context: &Context,
    repository: &Repository,
    task: &TaskKind,
) -> Result<DamagedPacks, ReconcileError> {
    if !task.stores_or_removes() {
        return Ok(DamagedPacks::default());
    }
    let all: Vec<Repository> = observe::list_all_namespaces(&context.client, "").await?;
    Ok(plan::damaged_packs(&all, repository))
}

async fn create_temporary_claim(
    context: &Context,
    owner: &OwnerRef,
    planned: &PersistentVolumeClaim,
) -> Result<(), ReconcileError> {
    match apply::create(&context.client, planned).await? {
        Created::Present(stored) if !plan::is_planned_claim(&stored, planned, owner)? => {
            let what = format!("PersistentVolumeClaim {}/{}", owner.namespace, planned.name_any());
            Err(TakenName::Foreign(what).into())
        }
        Created::Made(_) | Created::Present(_) => Ok(()),
    }
}

/// Creates the Job unless it exists. Returns its UID, or `None` if it was started already.
async fn create_job(context: &Context, owner: &OwnerRef, planned: &Job) -> Result<Option<String>, ReconcileError> {
    let what = || format!("Job {}/{}", owner.namespace, planned.name_any());
    // Twice, because an outdated Job of an earlier plan is deleted first.
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

/// Creates the service account and the role binding of the Job. They are owned by the Job, so they are created after
/// it.
async fn create_identity(context: &Context, planned: &Job, uid: &str) -> Result<(), ReconcileError> {
    let account = resources::service_account(planned, uid);
    let binding = resources::role_binding(planned, uid);
    let (Some(account), Some(binding)) = (account, binding) else { return Ok(()) };
    ensure(context, &account, |stored: &ServiceAccount| stored.owner_references() == account.owner_references())
        .await?;
    ensure(context, &binding, |stored: &RoleBinding| resources::rbac::is_planned_binding(stored, &binding)).await
}

/// Creates a service account or role binding, unless the planned one exists.
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

/// Annotates the Restore as carried out, so that it is not carried out again even if its status is lost.
async fn mark_carried_out(context: &Context, owner: &OwnerRef) -> Result<(), ReconcileError> {
    let restore: Option<Restore> = observe::object(&context.client, &owner.namespace, &owner.name).await?;
    let Some(restore) = restore.filter(|restore| restore.uid().as_ref() == Some(&owner.uid)) else {
        return Err(TakenName::Foreign(format!("Restore {}/{}", owner.namespace, owner.name)).into());
    };
    Ok(apply::annotation(&context.client, &restore, (CARRIED_OUT, &owner.uid)).await?)
}

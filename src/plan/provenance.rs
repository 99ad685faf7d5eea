//! Whether Stowaway created an object of the cluster.
//!
//! Names, labels, annotations and owner references prove nothing, because any author can write them. The proof of a Job
//! and of its pod is the name of their `ServiceAccount`: the policies `stowaway-run-jobs` and `stowaway-run-pods`
//! refuse that name to every author but the controller and the Job controller. The image is not compared, because an
//! admission webhook may have rewritten it, and because runs must stay valid during an upgrade of the controller.

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, PersistentVolumeClaim, Pod, PodSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{ResourceExt, core::DynamicObject};
use serde_json::Value;

use super::names::{OwnerRef, RUNNER_CONTAINER, account_name, controller};
use crate::{
    api::GROUP,
    model::{
        Task,
        image::is_same_program,
        injected::{SIDECAR_CONTAINER, SIDECAR_ROLE},
        mounts,
    },
};

/// The kinds whose runs have a service account of their own.
const OWNERS: [&str; 3] = ["Backup", "Repository", "Restore"];

/// Whether the Job is a run of Stowaway, for any object.
pub fn is_run(job: &Job) -> bool {
    let is_own_kind = |owner: &&OwnerReference| {
        let group = owner.api_version.split_once('/').map(|(group, _)| group);
        group == Some(GROUP) && OWNERS.contains(&owner.kind.as_str())
    };
    controller(&job.metadata).as_ref().is_some_and(is_own_kind) && has_account(job)
}

/// Whether the Job is a run of Stowaway for this object.
pub fn is_run_of(job: &Job, owner: &OwnerRef) -> bool {
    is_run(job) && owner.controls(&job.metadata)
}

/// Whether the Job controller created the pod for this Job, so that its container's termination message is the run's
/// report.
pub fn is_pod_of(pod: &Pod, job: &Job) -> bool {
    let Some(owner) = OwnerRef::of(job) else { return false };
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    owner.controls(&pod.metadata) && account == Some(account_name(&owner.name).as_str())
}

/// Whether the pod was created for a run of Stowaway, whose Job may have been deleted.
pub fn is_pod_of_a_run(pod: &Pod) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    controller(&pod.metadata).is_some_and(|owner| account == Some(account_name(&owner.name).as_str()))
}

/// Whether the `VolumeSnapshot` is of this claim and was not created before `since`. Neither its source nor its
/// creation time can be forged.
pub(super) fn is_snapshot_of(snapshot: &DynamicObject, claim: &str, since: Option<Timestamp>) -> bool {
    let text = |pointer: &str| snapshot.data.pointer(pointer).and_then(|value| value.as_str());
    text("/spec/source/persistentVolumeClaimName") == Some(claim) && is_not_older(&snapshot.metadata, since)
}

/// Whether the stored `VolumeSnapshot` is the planned one.
pub fn is_planned_snapshot(stored: &DynamicObject, planned: &DynamicObject, owner: &OwnerRef) -> bool {
    let spec = |object: &DynamicObject| object.data.get("spec").cloned();
    owner.controls(&stored.metadata)
        && is_not_older(&stored.metadata, owner.since)
        && spec(planned).zip(spec(stored)).is_some_and(|(planned, stored)| contains(&stored, &planned))
}

/// Whether the stored claim is the planned one, and its volume was provisioned for it. A claim which another client
/// bound to an existing volume would not contain the snapshot's data.
pub fn is_planned_claim(
    stored: &PersistentVolumeClaim,
    planned: &PersistentVolumeClaim,
    owner: &OwnerRef,
) -> Result<bool, serde_json::Error> {
    let volume = stored.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let is_provisioned =
        || stored.metadata.uid.as_deref().and_then(|uid| uid.split('-').next()).is_some_and(|uid| volume.contains(uid));
    Ok(owner.controls(&stored.metadata)
        && is_not_older(&stored.metadata, owner.since)
        && (volume.is_empty() || is_provisioned())
        && contains(&serde_json::to_value(&stored.spec)?, &serde_json::to_value(&planned.spec)?))
}

/// Removes from the pod a container which has the sidecar's name and runs another program, because it could answer
/// anything to a backup request.
pub fn without_foreign_sidecar(mut pod: Pod, image: &str) -> Pod {
    let is_own = |container: &Container| {
        container.image.as_deref().is_some_and(|other| is_same_program(other, image))
            && container.command.as_ref().is_none_or(Vec::is_empty)
            && container.args.iter().flatten().next().is_some_and(|role| role == SIDECAR_ROLE)
    };
    if let Some(containers) = pod.spec.as_mut().and_then(|spec| spec.init_containers.as_mut()) {
        containers.retain(|container| container.name != SIDECAR_CONTAINER || is_own(container));
    }
    pod
}

/// The relation of a stored Job to the planned Job of the same name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoredJob {
    /// The planned Job, which is suspended and can be started.
    Planned,
    /// A run of this attempt, which was started already.
    Started,
    /// A Job of an earlier plan for this attempt, which was never started, so that it can be replaced.
    Outdated,
    /// A Job of another author.
    Foreign,
}

/// Compares the stored Job to the planned Job of the same name.
///
/// # Errors
/// If a Job cannot be serialized as JSON.
pub fn stored_job(stored: &Job, planned: &Job, owner: &OwnerRef) -> Result<StoredJob, serde_json::Error> {
    let is_labelled = || planned.labels().iter().all(|(key, value)| stored.labels().get(key) == Some(value));
    if !is_run_of(stored, owner) || !is_labelled() || program(stored) != program(planned) {
        return Ok(StoredJob::Foreign);
    }
    if stored.spec.as_ref().and_then(|spec| spec.suspend) != Some(true) {
        return Ok(StoredJob::Started);
    }
    let is_planned = contains(&timeless_spec(stored)?, &timeless_spec(planned)?);
    Ok(if is_planned { StoredJob::Planned } else { StoredJob::Outdated })
}

fn is_not_older(metadata: &ObjectMeta, since: Option<Timestamp>) -> bool {
    let made = metadata.creation_timestamp.as_ref().map(|time| time.0);
    since.is_none_or(|since| made.is_some_and(|made| made >= since))
}

fn has_account(job: &Job) -> bool {
    let account = pod_spec(job).and_then(|spec| spec.service_account_name.as_deref());
    account == Some(account_name(&job.name_any()).as_str())
}

/// Command and arguments of the runner's container.
fn program(job: &Job) -> Option<(&[String], &[String])> {
    let runner = pod_spec(job)?.containers.iter().find(|container| container.name == RUNNER_CONTAINER)?;
    Some((runner.command.as_deref().unwrap_or_default(), runner.args.as_deref().unwrap_or_default()))
}

fn pod_spec(job: &Job) -> Option<&PodSpec> {
    job.spec.as_ref()?.template.spec.as_ref()
}

/// The spec of the Job without the time of its creation in the task, because a repeated reconcile plans the same Job later.
fn timeless_spec(job: &Job) -> Result<Value, serde_json::Error> {
    let mut spec = job.spec.clone();
    let pod = spec.as_mut().and_then(|spec| spec.template.spec.as_mut());
    let containers = pod.into_iter().flat_map(|pod| &mut pod.containers);
    for variable in containers.flat_map(|container| container.env.iter_mut().flatten()) {
        if variable.name == mounts::TASK_VARIABLE
            && let Some(value) = &mut variable.value
            && let Ok(Value::Object(mut task)) = serde_json::from_str(value)
        {
            task.remove(Task::NOT_BEFORE);
            *value = Value::Object(task).to_string();
        }
    }
    serde_json::to_value(&spec)
}

/// Whether `stored` contains all fields of `planned`. The API server adds defaults, but no elements of lists.
fn contains(stored: &Value, planned: &Value) -> bool {
    use Value::{Array, Null, Object};
    match (stored, planned) {
        (_, Null) => true,
        (Object(stored), Object(planned)) => planned.iter().all(|(key, value)| {
            // The API server does not store empty fields.
            let is_empty = match value {
                Null => true,
                Array(items) => items.is_empty(),
                Object(fields) => fields.is_empty(),
                _ => false,
            };
            stored.get(key).map_or(is_empty, |stored| contains(stored, value))
        }),
        (Array(stored), Array(planned)) => {
            stored.len() == planned.len()
                && stored.iter().zip(planned).all(|(stored, planned)| contains(stored, planned))
        }
        (stored, planned) => stored == planned,
    }
}

//! The identity of one run: a `ServiceAccount` of its own, and the right to exec for as long as the run lasts.
//!
//! It must not know what the run does with it.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::ServiceAccount,
        rbac::v1::{RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::names::Owner;
use crate::model::{Task, mounts};

/// The `ClusterRole` that a run which execs is bound to, in its own namespace only; see `manifests/install.yaml`.
pub const RUNNER_ROLE: &str = "stowaway-runner";

/// The `ClusterRole` of a run that only looks whether the holders of locks are alive.
pub const LOCKS_ROLE: &str = "stowaway-locks";

/// The `ServiceAccount` of a Job that was stored, as its pods name it; it goes with the Job. None for a Job without identity.
pub fn service_account(job: &Job) -> Option<ServiceAccount> {
    Some(ServiceAccount {
        metadata: ObjectMeta { name: Some(account_of(job)?.to_owned()), ..metadata(job)? },
        ..ServiceAccount::default()
    })
}

/// Binds the Job's `ServiceAccount` to [`RUNNER_ROLE`], or to [`LOCKS_ROLE`] if it execs nowhere; it has the Job's name, and is deleted when the Job has ended.
pub fn role_binding(job: &Job) -> Option<RoleBinding> {
    let metadata = metadata(job)?;
    Some(RoleBinding {
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: role_of(job).into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account_of(job)?.to_owned(),
            namespace: metadata.namespace.clone(),
            ..Subject::default()
        }]),
        metadata,
    })
}

fn role_of(job: &Job) -> &'static str {
    if task_of(job).is_some_and(|task| task.kind.execs()) { RUNNER_ROLE } else { LOCKS_ROLE }
}

/// What its runner is told.
fn task_of(job: &Job) -> Option<Task> {
    let containers = &job.spec.as_ref()?.template.spec.as_ref()?.containers;
    let mut variables = containers.iter().flat_map(|container| container.env.iter().flatten());
    let task = variables.find(|variable| variable.name == mounts::TASK_VARIABLE)?;
    serde_json::from_str(task.value.as_deref()?).ok()
}

fn account_of(job: &Job) -> Option<&str> {
    job.spec.as_ref()?.template.spec.as_ref()?.service_account_name.as_deref()
}

fn metadata(job: &Job) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        name: Some(job.name_any()),
        namespace: job.namespace(),
        labels: Some(job.labels().clone()),
        owner_references: Some(vec![Owner::of(job)?.reference()]),
        ..ObjectMeta::default()
    })
}

//! The identity of one run: its own `ServiceAccount`, and the right to exec while the run lasts.
//!
//! Both are derived from the planned Job, not from the stored one. The stored object of that name may be written by
//! another author, who could then choose the subject of the rights.

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::ServiceAccount,
        rbac::v1::{RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    labels,
    names::{OwnerRef, account_name},
};
use crate::model::{Task, mounts};

/// The `ClusterRole` for runs that exec. It is bound in the run's own namespace only; see `manifests/install.yaml`.
pub const RUNNER_ROLE: &str = "stowaway-runner";

/// The `ClusterRole` for runs that do not exec. It lets them check whether the holders of locks are alive.
pub const LOCKS_ROLE: &str = "stowaway-locks";

/// The `ServiceAccount` of the planned Job. `uid`: the UID of the stored Job, with which the account is deleted. None
/// for a Job without an identity.
pub fn service_account(planned: &Job, uid: &str) -> Option<ServiceAccount> {
    Some(ServiceAccount {
        metadata: ObjectMeta { name: Some(account_of(planned)?), ..metadata(planned, uid)? },
        ..ServiceAccount::default()
    })
}

/// Binds the planned Job's `ServiceAccount` to [`RUNNER_ROLE`], or to [`LOCKS_ROLE`] if the run does not exec. It has
/// the Job's name, and is deleted when the Job has ended.
pub fn role_binding(planned: &Job, uid: &str) -> Option<RoleBinding> {
    let metadata = metadata(planned, uid)?;
    Some(RoleBinding {
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: role_of(planned).into(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: account_of(planned)?,
            namespace: metadata.namespace.clone(),
            ..Subject::default()
        }]),
        metadata,
    })
}

/// Whether the `RoleBinding` belongs to a run of this owner: it binds one of the runs' roles to the account of the Job
/// with the same name, and to no other subject.
pub fn is_binding_of(binding: &RoleBinding, owner: &OwnerRef) -> bool {
    let name = binding.name_any();
    let is_role =
        binding.role_ref.kind == "ClusterRole" && [RUNNER_ROLE, LOCKS_ROLE].contains(&&*binding.role_ref.name);
    let is_account = |subject: &Subject| subject.kind == "ServiceAccount" && subject.name == account_name(&name);
    is_role
        && binding.labels().get(labels::RUN) == Some(&owner.name)
        && binding.labels().get(labels::MANAGED_BY).is_some_and(|manager| manager == labels::MANAGER)
        && binding.subjects.as_deref().is_some_and(|subjects| matches!(subjects, [one] if is_account(one)))
}

/// Whether the stored `RoleBinding` grants what the planned one grants, for the same Job.
pub fn is_planned_binding(stored: &RoleBinding, planned: &RoleBinding) -> bool {
    stored.role_ref == planned.role_ref
        && stored.subjects == planned.subjects
        && stored.owner_references() == planned.owner_references()
}

fn role_of(job: &Job) -> &'static str {
    if task_of(job).is_some_and(|task| task.kind.execs()) { RUNNER_ROLE } else { LOCKS_ROLE }
}

/// The task in the environment of the Job's container.
fn task_of(job: &Job) -> Option<Task> {
    let containers = &job.spec.as_ref()?.template.spec.as_ref()?.containers;
    let mut variables = containers.iter().flat_map(|container| container.env.iter().flatten());
    let task = variables.find(|variable| variable.name == mounts::TASK_VARIABLE)?;
    serde_json::from_str(task.value.as_deref()?).ok()
}

fn account_of(job: &Job) -> Option<String> {
    let account = job.spec.as_ref()?.template.spec.as_ref()?.service_account_name.clone()?;
    (account == account_name(&job.name_any())).then_some(account)
}

fn metadata(job: &Job, uid: &str) -> Option<ObjectMeta> {
    let stored = Job { metadata: ObjectMeta { uid: Some(uid.to_owned()), ..job.metadata.clone() }, ..Job::default() };
    Some(ObjectMeta {
        name: Some(job.name_any()),
        namespace: job.namespace(),
        labels: Some(job.labels().clone()),
        owner_references: Some(vec![OwnerRef::of(&stored)?.reference()]),
        ..ObjectMeta::default()
    })
}

//! The identity of one run: a `ServiceAccount` of its own, and the right to exec for as long as the run lasts.
//!
//! Both follow from the planned Job. What is stored under its name may be of another author, who would choose whom the
//! rights are given to. It must not know what the run does with it.

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
    names::{Owner, account_name},
};
use crate::model::{Task, mounts};

/// The `ClusterRole` that a run which execs is bound to, in its own namespace only; see `manifests/install.yaml`.
pub const RUNNER_ROLE: &str = "stowaway-runner";

/// The `ClusterRole` of a run that only looks whether the holders of locks are alive.
pub const LOCKS_ROLE: &str = "stowaway-locks";

/// The `ServiceAccount` of the planned Job, which was stored by this UID; it is deleted with the Job. None for a Job without
/// identity.
pub fn service_account(planned: &Job, uid: &str) -> Option<ServiceAccount> {
    Some(ServiceAccount {
        metadata: ObjectMeta { name: Some(account_of(planned)?), ..metadata(planned, uid)? },
        ..ServiceAccount::default()
    })
}

/// Binds the planned Job's `ServiceAccount` to [`RUNNER_ROLE`], or to [`LOCKS_ROLE`] if it execs nowhere; it has the Job's
/// name, and is deleted when the Job has ended.
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

/// Whether the `RoleBinding` is that of a run of this owner: it gives one of the runs' roles to the account of the Job that it
/// is named after, and to no other subject.
pub fn is_binding_of(binding: &RoleBinding, owner: &Owner) -> bool {
    let name = binding.name_any();
    let is_role =
        binding.role_ref.kind == "ClusterRole" && [RUNNER_ROLE, LOCKS_ROLE].contains(&&*binding.role_ref.name);
    let is_account = |subject: &Subject| subject.kind == "ServiceAccount" && subject.name == account_name(&name);
    is_role
        && binding.labels().get(labels::RUN) == Some(&owner.name)
        && binding.labels().get(labels::MANAGED_BY).is_some_and(|manager| manager == labels::MANAGER)
        && binding.subjects.as_deref().is_some_and(|subjects| matches!(subjects, [one] if is_account(one)))
}

/// Whether the `RoleBinding` that is there gives what the planned one gives, to the same Job.
pub fn is_planned_binding(stored: &RoleBinding, planned: &RoleBinding) -> bool {
    stored.role_ref == planned.role_ref
        && stored.subjects == planned.subjects
        && stored.owner_references() == planned.owner_references()
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
        owner_references: Some(vec![Owner::of(&stored)?.reference()]),
        ..ObjectMeta::default()
    })
}

//! The labels and annotations by which Stowaway's objects are found.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::names::{ACCOUNT_PREFIX, OwnerRef, RunKind, source_hash};

/// Label: name of the Repository, Backup or Restore which a Job belongs to.
pub const RUN: &str = "stowaway.dev/run";
/// Label: [`RunKind`] of a Job.
pub const KIND: &str = "stowaway.dev/kind";
/// Label: [`source_hash`] of the source.
pub const SOURCE_HASH: &str = "stowaway.dev/source-hash";
/// Label: number of the attempt, from 1.
pub const ATTEMPT: &str = "stowaway.dev/attempt";
/// Label: name of the Repository which a Job uses.
pub const REPOSITORY: &str = "stowaway.dev/repository";
/// Annotation: name of the source, which may be too long for a label or contain characters which a label must not.
pub const SOURCE: &str = "stowaway.dev/source";
/// Label: the tool which manages the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and Stowaway's field manager.
pub const MANAGER: &str = "stowaway";

/// Whether the pod belongs to a run of Stowaway: its controller is a Job, and its service account is one of a run,
/// which only Jobs of Stowaway's controller may use. A run which answers a query of the CLI has no service account. The
/// label alone proves nothing.
pub fn is_run_pod(pod: &Pod) -> bool {
    let Some(kind) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(KIND)) else { return false };
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let is_of_job = owners.any(|owner| owner.controller == Some(true) && owner.kind == "Job");
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let is_of_run = account.is_some_and(|account| account.starts_with(ACCOUNT_PREFIX));
    is_of_job && (is_of_run || *kind == RunKind::Answer.to_string())
}

/// The labels of a Job, and of its pod.
pub fn of_job(
    owner: &OwnerRef,
    kind: RunKind,
    source: &str,
    attempt: u32,
    repository: &str,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (RUN.to_owned(), owner.name.clone()),
        (KIND.to_owned(), kind.to_string()),
        (ATTEMPT.to_owned(), attempt.to_string()),
        (REPOSITORY.to_owned(), repository.to_owned()),
    ]);
    if kind.has_source() {
        labels.insert(SOURCE_HASH.to_owned(), source_hash(source));
    }
    labels
}

//! Names and owner references of the objects which Stowaway creates. A name is derived from facts alone, so that a
//! repeated reconcile creates nothing twice.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::Job,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::labels;

/// Name of Stowaway's only container in a run's pod.
pub const RUNNER_CONTAINER: &str = "runner";

/// Name of the volume in a run's pod which is backed up.
pub const DATA_VOLUME: &str = "data";
/// Name of the volume in a run's pod which is restored into.
pub const TARGET_VOLUME: &str = "target";

/// Kubernetes' limit for a label's value, which a Job's name becomes.
const MAX_NAME: usize = 63;
const HASH_DIGITS: usize = 10;

/// Prefix of the names of the `ServiceAccount`s of runs. Admission policies match on it; see `resources::manifests`.
pub const ACCOUNT_PREFIX: &str = "stowaway-run-";

/// The purpose of a Job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunKind {
    /// Opens or creates a repository.
    Init,
    /// Backs up one source.
    Backup,
    /// Restores one source.
    Restore,
    /// Repacks, before a prune, the packs which the prune would repack.
    Repack,
    /// Forgets snapshots by the retention policy, and removes the data which no snapshot needs.
    Prune,
    /// Verifies the repository's structure and data.
    Check,
    /// Answers a query of the CLI.
    Answer,
}

impl RunKind {
    /// Whether such a run sends requests to the API server, and so has a service account of its own.
    pub fn has_identity(self) -> bool {
        self != Self::Answer
    }

    /// Whether such a run is about one source.
    pub fn has_source(self) -> bool {
        matches!(self, Self::Backup | Self::Restore)
    }
}

impl fmt::Display for RunKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Repack => "repack",
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Answer => "answer",
        })
    }
}

/// The object that a Job belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnerRef {
    pub api_version: String,
    pub kind: String,
    /// Its namespace, and the Job's.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// When it was created. An older object does not belong to it.
    pub since: Option<Timestamp>,
}

impl OwnerRef {
    /// The reference to this object; `None` if it was never stored, so that it has no UID.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Option<Self> {
        Some(Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: object.namespace()?,
            name: object.meta().name.clone()?,
            uid: object.uid()?,
            since: object.meta().creation_timestamp.as_ref().map(|time| time.0),
        })
    }

    /// The reference by which Kubernetes deletes the owned object with its owner.
    pub fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    /// Whether `metadata` names this owner as its controller. Any author can write that; `provenance` checks more.
    pub fn controls(&self, metadata: &ObjectMeta) -> bool {
        controller(metadata)
            .is_some_and(|found| found.uid == self.uid && found.kind == self.kind && found.name == self.name)
    }
}

/// The owner reference of an object's controller. The API server refuses a second one.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The name of the Job of one attempt: a readable part of the owner's name, then 10 hex digits of the SHA-256 of the
/// owner's UID, the source and the attempt. At most 63 characters, and valid as a label's value.
pub fn job_name(owner: &OwnerRef, source: &str, attempt: u32) -> String {
    let hash = hex(&format!("{}\n{source}\n{attempt}", owner.uid), HASH_DIGITS);
    let readable: String = owner
        .name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' })
        .take(MAX_NAME - 1 - HASH_DIGITS)
        .collect();
    format!("{}-{hash}", readable.trim_matches('-'))
}

/// The name of the `ServiceAccount` of a Job; at most 76 characters (Kubernetes allows 253).
pub fn account_name(job: &str) -> String {
    format!("{ACCOUNT_PREFIX}{job}")
}

/// 16 hex digits of the SHA-256 of a source's name, which its Jobs have as a label.
pub fn source_hash(source: &str) -> String {
    hex(source, 16)
}

/// The attempt in a Job's label; 0 if the Job has no such label.
pub fn attempt(job: &Job) -> u32 {
    job.labels().get(labels::ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0)
}

fn hex(text: &str, digits: usize) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(digits)
        .filter_map(|n| char::from_digit(n.into(), 16))
        .collect()
}

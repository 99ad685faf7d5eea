//! Names and owner references of what we make: the same facts give the same names, so that nothing is made twice.
//!
//! It must not know what the objects contain.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::{
    api::batch::v1::Job,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use super::labels;

/// Name of the one container of a run's pod.
pub const RUNNER_CONTAINER: &str = "runner";

/// Name of the volume in a run's pod whose claim it backs up.
pub const DATA_VOLUME: &str = "data";
/// Name of the volume in a run's pod whose claim it restores into.
pub const TARGET_VOLUME: &str = "target";

/// Kubernetes' limit for names that become a label's value, such as a Job's.
const MAXIMUM_NAME: usize = 63;
/// How much of a name comes from the hash.
const HASH_DIGITS: usize = 10;

/// What the names of the `ServiceAccount`s of runs begin with. Policies know them by it; see `build::manifests`.
pub const ACCOUNT_PREFIX: &str = "stowaway-run-";

/// What a Job is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunKind {
    /// Opens or creates a repository.
    Init,
    /// Backs up one source.
    Backup,
    /// Restores one source.
    Restore,
    /// Packs anew what a prune would, ahead of it.
    Repack,
    /// Forgets snapshots by the retention, and removes what none needs.
    Prune,
    /// Looks whether all is as it was written.
    Check,
    /// Answers the CLI.
    Answer,
}

impl RunKind {
    /// Whether such a run asks the API server about pods, and so has an identity of its own.
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
pub struct Owner {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace, and the Job's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was created: nothing that belongs to it is older.
    pub since: Option<Timestamp>,
}

impl Owner {
    /// The owner that this object is; none for one that was never stored.
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

    /// The reference by which Kubernetes takes the owned object away with the owner.
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

    /// Whether this object names it as its controller. Any author can write that; see `provenance` for what is proof.
    pub fn controls(&self, metadata: &ObjectMeta) -> bool {
        controller(metadata)
            .is_some_and(|found| found.uid == self.uid && found.kind == self.kind && found.name == self.name)
    }
}

/// The controller of an object. There is one at most: the API server refuses a second one.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The name of the Job of one attempt: a readable part of the owner's name, then 10 hex digits of the SHA-256 of owner
/// UID, source and attempt. At most 63 characters, and valid as a label's value.
pub fn job_name(owner: &Owner, source: &str, attempt: u32) -> String {
    let hash = hex(&format!("{}\n{source}\n{attempt}", owner.uid), HASH_DIGITS);
    let readable: String = owner
        .name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' })
        .take(MAXIMUM_NAME - 1 - HASH_DIGITS)
        .collect();
    format!("{}-{hash}", readable.trim_matches('-'))
}

/// The name of the `ServiceAccount` of the Job of that name; at most 76 characters, of 253.
pub fn account_name(job: &str) -> String {
    format!("{ACCOUNT_PREFIX}{job}")
}

/// 16 hex digits of the SHA-256 of a source's name, by which its Jobs are found.
pub fn source_hash(source: &str) -> String {
    hex(source, 16)
}

/// The attempt that a Job's label tells; 0 when it is none of ours.
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

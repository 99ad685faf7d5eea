//! `Restore`: one snapshot of one named source, streamed into a command's stdin in a pod, restored into a claim, or made an
//! archive of.
//!
//! It must not know how the run is carried out.

use std::fmt;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::archive::RestoreArchive;
use super::shared::{Outcome, RepositoryReference, RunnerPod, conditions_schema, duration_schema};
use crate::model::{ArchiveReport, SourceName, StoredClaim};

/// Brings one snapshot of one source back: into a command's stdin in a pod, into a claim, or as an archive into a store. It
/// is carried out once, never again.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "stowaway.dev",
    version = "v1alpha1",
    kind = "Restore",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    shortname = "strestore",
    category = "stowaway",
    doc = "Brings one snapshot of one source back: into a command's stdin in a pod, into a claim, or as an archive into a store. It is carried out once, never again.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Restore's name has at most 63 characters"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.from.source"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].reason"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Transfer", type_ = "string", json_path = ".status.transfer", description = "what is restored now, of all where that is known, and how fast"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod", priority = 1),
    printcolumn(name = "Claim", type_ = "string", json_path = ".status.claim", priority = 1),
    printcolumn(name = "Archive", type_ = "string", json_path = ".status.archive.location", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Restore cannot be changed; create another one"))]
#[x_kube(validation = Rule::new("!has(self.scaleDown) || has(self.to) && has(self.to.claim)").message("scaleDown goes with to.claim: a command needs its pod"))]
#[x_kube(validation = Rule::new("!has(self.from.paths) || has(self.to) && (has(self.to.claim) || has(self.to.archive))").message("from.paths goes with to.claim or to.archive: a command reads one file"))]
pub struct RestoreSpec {
    /// What to restore.
    pub from: RestoreFrom,
    /// Where to; the pod and container that the source's name denotes now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RestoreTo>,
    /// Where from; when absent, the Repository of the namespace with the annotation `stowaway.dev/is-default: "true"`, or else
    /// the oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// End the command after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
    /// End the command when no byte moved for this long. Not for a claim or an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub idle_timeout: Option<Duration>,
    /// A workload that is scaled to 0 before the claim is restored, and back to what it was afterwards, whatever came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScaleDown>,
    /// Shapes the pod of the Job, field by field in place of the Repository's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// Which snapshot, and what of it.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.snapshot) && has(self.asOf))").message("give snapshot or asOf, not both"))]
pub struct RestoreFrom {
    /// Name of the source, as the Backup's status has it, for example `deployment/shop/postgres`.
    #[schemars(length(max = 1015), regex(pattern = r"^[a-z0-9._-]{1,253}(/[a-z0-9._-]{1,253}){1,3}$"))]
    pub source: SourceName,
    /// Id of the snapshot, or at least its first 8 hex digits; the newest proven one of the source when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{8,64}$"))]
    pub snapshot: Option<String>,
    /// The newest proven snapshot of the source that was made at this time or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
    /// Host of the snapshots, which is the namespace that they were made in: this one when absent. Of a repository that
    /// several namespaces or tools share, nothing of another host is restored unless it is named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Only these paths, relative to the volume's own folder, for example `config/app.ini`, or as `stowaway ls` prints them,
    /// `/data/CLAIM/config/app.ini`; all of it when empty. One that is not in the snapshot fails the Restore before anything is
    /// written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
}

/// Which command of which container reads the dump, or which claim is restored into, or where an archive is made.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.archive) || !(has(self.claim) || has(self.pod) || has(self.container) || has(self.command))").message("archive goes without claim, pod, container and command"))]
#[x_kube(validation = Rule::new("!has(self.claim) || !(has(self.pod) || has(self.container) || has(self.command))").message("claim goes without pod, container and command"))]
pub struct RestoreTo {
    /// Name of a pod in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pod: Option<String>,
    /// Name of the container; the source's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Program and arguments that read the dump on stdin; the pod's annotated `restorecommand` when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16384)))]
    pub command: Vec<String>,
    /// A claim of the same namespace, which a Job restores into: a volume as a folder, a command's dump as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<RestoreClaim>,
    /// A store that a Job writes an archive to: of a volume with all that is in it, of a command's dump with that one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<RestoreArchive>,
}

/// Which claim, and how.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.create) && has(self.overwrite) && self.overwrite)").message("a claim that is made is empty: create goes without overwrite"))]
pub struct RestoreClaim {
    /// Name of the `PersistentVolumeClaim`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Folder in it, which is made if it is not there; the claim's own folder when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^[^/]"))]
    pub path: Option<String>,
    /// Restore into a folder that is not empty, too, even while pods have the claim mounted. All that is in the claim
    /// becomes a snapshot first. What is in the way is replaced, and what is not in the snapshot stays. A block device is
    /// replaced as a whole, and only while no pod has it.
    #[serde(default)]
    pub overwrite: bool,
    /// Make the claim if there is none. It belongs to nobody, and stays when the Restore is deleted. A claim of that name
    /// is used if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<NewClaim>,
}

/// A claim to be made.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewClaim {
    /// Its storage class. When absent, that of the claim that was stored, if the snapshot records it and the cluster has it;
    /// else the cluster's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Its volume mode, `Block` or `Filesystem`. When absent, `Block` for a stored device, which is restored as one file
    /// into `Filesystem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), regex(pattern = r"^(Block|Filesystem)$"))]
    pub volume_mode: Option<String>,
    /// Its access modes. When empty, those of the claim that was stored, if the snapshot records them; else `ReadWriteOnce`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 32)))]
    pub access_modes: Vec<String>,
    /// Its size, for example `10Gi`. When absent, what the claim had requested that was stored, if the snapshot records it;
    /// else half as much again as the snapshot has, and 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<String>",
        length(max = 32),
        regex(pattern = r"^[0-9]+(\.[0-9]+)?([EPTGMk]|[EPTGMK]i)?$")
    )]
    pub size: Option<Quantity>,
}

/// A workload of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleDown {
    /// Its kind.
    pub kind: ScaledKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What can be scaled around a Restore.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ScaledKind {
    /// A Deployment.
    Deployment,
    /// A `StatefulSet`.
    StatefulSet,
}

impl fmt::Display for ScaledKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        })
    }
}

/// How a Restore goes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`: `True` only when the command has read all and said so. `Reconciling`: under way. `Stalled`: ended, and not green.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The repository that was settled on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// The pod that the dump goes into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub container: String,
    /// The claim that is restored into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub claim: String,
    /// The archive, once it is whole at its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReport>,
    /// Id of the snapshot of what was in the claim before it was overwritten, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub safety_snapshot: Option<String>,
    /// The snapshot that was looked up, since a claim was to be made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundSnapshot>,
    /// How the claim was made that was not there, and why so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub made_claim: String,
    /// What the workload of `scaleDown` was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<Scaled>,
    /// What the Job says of its progress, about every minute; for display alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub transfer: Option<String>,
    /// The Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub job: Option<String>,
    /// When it was first seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A snapshot, and what is known of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundSnapshot {
    /// Its id, 64 hex digits.
    #[schemars(length(max = 64))]
    pub snapshot: String,
    /// Bytes of all its files, if its writer recorded them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub bytes: Option<u64>,
    /// What its claim had requested, if the snapshot records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<StoredClaim>,
}

/// A workload that was scaled to 0.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaled {
    /// Its UID: another one of that name is left alone.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// How many replicas it had, and gets back.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Since when its pods are waited for.
    pub since: Time,
    /// When it was first seen scaled up, or with pods, while the restore ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbed_time: Option<Time>,
    /// Whether it has them back.
    #[serde(default)]
    pub is_back: bool,
}

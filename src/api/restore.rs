//! `Restore`: restores one snapshot of one source into the stdin of a command in a pod, into a claim, or as an archive
//! into a store.

use std::fmt;

use jiff::Timestamp;
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

/// Restores one snapshot of one source: into the stdin of a command in a pod, into a `PersistentVolumeClaim`, or as an
/// archive into a store. A Restore runs once and is never repeated.
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
    selectable = ".spec.from.source",
    selectable = ".spec.repositoryRef.name",
    selectable = ".status.verdict",
    doc = "Restores one snapshot of one source: into the stdin of a command in a pod, into a volume claim, or as an archive into a store. A Restore runs once and is never repeated.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Restore's name has at most 63 characters"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.from.source"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].reason"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Transfer", type_ = "string", json_path = ".status.transfer", description = "bytes restored so far, the total if it is known, and the speed"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".status.repositoryRef.name", description = "the Repository that was read", priority = 1),
    printcolumn(name = "Pod", type_ = "string", json_path = ".status.pod", priority = 1),
    printcolumn(name = "Claim", type_ = "string", json_path = ".status.claim", priority = 1),
    printcolumn(name = "Archive", type_ = "string", json_path = ".status.archive.location", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Restore cannot be changed; create another one"))]
#[x_kube(validation = Rule::new("!has(self.scaleDown) || has(self.to) && has(self.to.claim)").message("scaleDown requires to.claim, because a command needs its pod"))]
#[x_kube(validation = Rule::new("!has(self.from.paths) || has(self.to) && (has(self.to.claim) || has(self.to.archive))").message("from.paths requires to.claim or to.archive, because a command reads a single stream"))]
pub struct RestoreSpec {
    /// The source, the snapshot and the paths to restore.
    pub from: RestoreFrom,
    /// The target of the restore. When absent, the pod and container which the source's name refers to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RestoreTo>,
    /// The Repository to read from. When absent, it is the Repository that the annotation `stowaway.dev/repository` of
    /// the source's pod names, or else the Repository of the namespace with the annotation
    /// `stowaway.dev/is-default: "true"`, or else the oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// End the command after this duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
    /// End the command when no byte was transferred for this duration. It does not apply to a claim or an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub idle_timeout: Option<Duration>,
    /// A workload that is scaled to 0 before the claim is restored. Afterwards it is scaled back to its former
    /// replicas, whether or not the restore succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScaleDown>,
    /// Settings for the pod of the Job. A field that is set here replaces the same field of the Repository's
    /// `runnerPod`; `labels`, `annotations` and `env` are merged by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// Selects the snapshot, and which of its paths are restored.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.snapshot) && has(self.asOf))").message("give snapshot or asOf, not both"))]
pub struct RestoreFrom {
    /// Name of the source as in the Backup's status, for example `deployment/shop/postgres`.
    #[schemars(length(max = 1015), regex(pattern = r"^[a-z0-9._-]{1,253}(/[a-z0-9._-]{1,253}){1,3}$"))]
    pub source: SourceName,
    /// Id of the snapshot, or at least its first 8 hex digits. When absent, the newest proven snapshot of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{8,64}$"))]
    pub snapshot: Option<String>,
    /// Restore the newest proven snapshot of the source that was made at this time or earlier. A time without a fraction
    /// of a second includes its whole second.
    // `Time` would be written without its fraction of a second, and so as another limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub as_of: Option<Timestamp>,
    /// Host of the snapshots, which is the namespace that they were made in. When absent, this namespace. In a
    /// repository that several namespaces or tools share, snapshots of another host are restored only if that host is
    /// named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// Restore only these paths. A path is relative to the root of the volume, for example `config/app.ini`, or
    /// absolute as `stowaway ls` prints it, `/data/CLAIM/config/app.ini`. When empty, everything is restored. A path
    /// that is not in the snapshot fails the Restore before anything is written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
}

/// The target: a command of a container, a claim, or an archive.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.archive) || !(has(self.claim) || has(self.pod) || has(self.container) || has(self.command))").message("archive cannot be combined with claim, pod, container or command"))]
#[x_kube(validation = Rule::new("!has(self.claim) || !(has(self.pod) || has(self.container) || has(self.command))").message("claim cannot be combined with pod, container or command"))]
pub struct RestoreTo {
    /// Name of a pod in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pod: Option<String>,
    /// Name of the container. When absent, the container of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Program and arguments of the command that reads the dump on stdin. When empty, the `restorecommand` of the pod's
    /// annotations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16384)))]
    pub command: Vec<String>,
    /// A `PersistentVolumeClaim` of the same namespace which a Job restores into. A volume is restored as a directory, a
    /// command's dump as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<RestoreClaim>,
    /// A store which a Job writes an archive to. The archive of a volume contains all its files; the archive of a
    /// command's dump contains that one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<RestoreArchive>,
}

/// The claim to restore into, and the options.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.create) && has(self.overwrite) && self.overwrite)").message("create cannot be combined with overwrite, because a new claim is empty"))]
pub struct RestoreClaim {
    /// Name of the `PersistentVolumeClaim`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Directory in the claim; it is created if it does not exist. When absent, the root of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^[^/]"))]
    pub path: Option<String>,
    /// Also restore into a directory that is not empty, even while pods have the claim mounted. The present content of
    /// the claim is stored in a snapshot first. Files which the snapshot contains are replaced; other files stay. A
    /// block device is overwritten as a whole, and only while no pod uses it.
    #[serde(default)]
    pub overwrite: bool,
    /// Create the claim if it does not exist. It has no owner reference, so it stays when the Restore is deleted. An
    /// existing claim of that name is used if it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<NewClaim>,
}

/// A `PersistentVolumeClaim` to be created.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewClaim {
    /// Storage class of the claim. When absent, the class of the claim that was backed up, if the snapshot records it
    /// and the cluster has it; else the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Volume mode, `Block` or `Filesystem`. When absent, it is `Block` for a backed-up block device. With
    /// `Filesystem`, a device is restored as one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10), regex(pattern = r"^(Block|Filesystem)$"))]
    pub volume_mode: Option<String>,
    /// Access modes. When empty, those of the claim that was backed up, if the snapshot records them; else
    /// `ReadWriteOnce`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 32)))]
    pub access_modes: Vec<String>,
    /// Size of the claim, for example `10Gi`. When absent, the size which the claim that was backed up had requested,
    /// if the snapshot records it; else 1.5 times the size of the snapshot plus 1 GiB.
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
    /// Kind of the workload.
    pub kind: ScaledKind,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The kinds of workload that a Restore can scale down.
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

/// The progress and the result of a Restore.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`: `True` only when all data was restored and the target has confirmed it. `Reconciling`: the run has
    /// not ended yet. `Stalled`, `Failed`: the run has ended and is not green.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The Repository that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// The pod whose command reads the dump.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The container of that pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub container: String,
    /// The claim that is restored into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub claim: String,
    /// UID of that claim when the Job was started. A claim that has another UID when the Job ends was replaced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub claim_uid: String,
    /// The archive; present once it is complete in its store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReport>,
    /// Id of the snapshot with the former content of the claim, taken before it was overwritten; 64 hex digits. If there
    /// are several, it is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub safety_snapshot: Option<String>,
    /// Ids of all snapshots with the former content of the claim, the newest last. There are several if the content
    /// changed while it was stored, or if the remaining files of an interrupted restore were moved over present ones
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub safety_snapshots: Vec<String>,
    /// The snapshot that was looked up in order to create a claim for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundSnapshot>,
    /// How the missing claim was created, and why with these settings.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub made_claim: String,
    /// The former state of the workload of `scaleDown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<Scaled>,
    /// Progress as the Job reports it, updated about once a minute; for display only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub transfer: Option<String>,
    /// The Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub job: Option<String>,
    /// When the controller first saw the Restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How the run ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A snapshot that was looked up.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundSnapshot {
    /// Id of the snapshot, 64 hex digits.
    #[schemars(length(max = 64))]
    pub snapshot: String,
    /// Bytes of all its files, if the program that wrote it recorded them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub bytes: Option<u64>,
    /// The request of the backed-up claim, if the snapshot records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<StoredClaim>,
}

/// A workload that was scaled to 0.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaled {
    /// UID of the workload. Another workload of the same name is not scaled.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The former number of replicas, which the workload gets back.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Since when the Restore has been waiting for the workload's pods to end.
    pub since: Time,
    /// When the workload was first seen scaled up, or with pods, during the restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbed_time: Option<Time>,
    /// Whether the workload has its former replicas back.
    #[serde(default)]
    pub is_back: bool,
}

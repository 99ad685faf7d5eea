//! `Backup`: one backup run over the annotated pods and the volumes of a namespace.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{Outcome, RepositoryReference, RunnerPod, conditions_schema, duration_schema};
use crate::model::{RunProgress, SourceName, Verdict};

/// One backup run over the annotated pods and the volumes of its namespace. Deleting it cancels what still runs, and
/// deletes no stored data.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "stowaway.dev",
    version = "v1alpha1",
    kind = "Backup",
    namespaced,
    status = "BackupStatus",
    derive = "PartialEq",
    shortname = "stbackup",
    category = "stowaway",
    selectable = ".spec.repositoryRef.name",
    selectable = ".status.verdict",
    doc = "One backup run over the annotated pods and the volumes of its namespace. Deleting it cancels what still runs, and deletes no stored data.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Backup's name has at most 63 characters"),
    printcolumn(name = "Sources", type_ = "string", json_path = ".status.progress", description = "number of green sources, and of all sources"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].reason"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Transfer", type_ = "string", json_path = ".status.transfer", description = "bytes that the running Jobs have read, the total if it is known, and the speed"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repositoryRef.name", description = "the Repository that the spec names; empty if each source has its own or the default one", priority = 1),
    printcolumn(name = "Covered", type_ = "string", json_path = ".status.conditions[?(@.type=='Covered')].status", description = "False: sources are missing which the last Backup had, or which a workload's annotations request", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Backup cannot be changed; create another one"))]
pub struct BackupSpec {
    /// Selects the annotated pods and the volume claims by their labels. When absent, all of the namespace are
    /// selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The Repository to write to; it overrides the pods' annotations. When absent, each pod's annotation
    /// `stowaway.dev/repository` names it. Without that annotation, it is the Repository of the namespace with the
    /// annotation `stowaway.dev/is-default: "true"`, or else the oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// End each command after this duration; it overrides the pods' annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
    /// End each command when no byte was transferred for this duration; it overrides the pods' annotations. It does not
    /// apply to volumes, because an unchanged file transfers no bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub idle_timeout: Option<Duration>,
    /// How many times a failed source is retried.
    #[serde(default = "default_retry_limit")]
    #[schemars(with = "i32", range(min = 0, max = 10))]
    pub retry_limit: u32,
    /// Settings for the pods of this run's Jobs. A field that is set here replaces the same field of the Repository's
    /// `runnerPod`; `labels`, `annotations` and `env` are merged by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// The progress and the result of a Backup.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`: `True` only when every source is green and none is missing. `Failed`, present only while it is
    /// `True`: the run has ended and is not green. `Reconciling`: the run has not ended yet. `Stalled`: the run has
    /// ended and is not green. `Covered`: `False` when sources are missing which the last Backup had, or which a
    /// workload's annotations request; see `missing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// How the run ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// When the list of sources was fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the last source ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Number of green sources, and of all sources, for example `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub progress: Option<String>,
    /// Bytes of all stored streams. While the run is in progress, it includes the bytes that the running Jobs report as
    /// read.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// Combined progress of the running Jobs, updated about once a minute; for display only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub transfer: Option<String>,
    /// The sources of this run, fixed before the first Job was created.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sources: Vec<SourceStatus>,
    /// Which selected sources are not stored because a Backup has at most 256 sources. Such a run is not green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub left_out: Option<String>,
    /// Volume claims (by name) and workloads (as `<kind>/<name>`) which the run skips on purpose, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub skipped: Vec<SkippedClaim>,
    /// How many more were skipped than `skipped` can list.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(with = "i32")]
    pub skipped_not_listed: u32,
    /// Sources which cannot be stored because they are missing: the last finished Backup with the same selector and
    /// repository had them, or a workload's annotations request them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub missing: Vec<MissingSource>,
    /// How many more are missing than `missing` can list.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(with = "i32")]
    pub missing_not_listed: u32,
    /// Annotations and labels of the covered pods, workloads and claims and of the Namespace which probably have a
    /// mistake, such as a misspelt key, so that something may be backed up differently than its author intends, or not
    /// at all. They do not change the verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub annotation_warnings: Vec<AnnotationWarning>,
    /// How many more there are than `annotationWarnings` can list.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(with = "i32")]
    pub annotation_warnings_not_listed: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An annotation or label which probably has a mistake.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnotationWarning {
    /// Kind and name of the object, for example `deployment shop`.
    #[schemars(length(max = 1024))]
    pub object: String,
    /// The key of the annotation or label.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// The effect of the annotation, and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
}

impl fmt::Display for AnnotationWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: {}", self.object, self.key, self.message)
    }
}

/// A source that is missing, so that it cannot be stored.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingSource {
    /// Name of the source.
    #[schemars(length(max = 1015))]
    pub name: SourceName,
    /// The machine-readable reason.
    pub reason: MissingReason,
    /// A description of the reason, with the next step.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Why a source is missing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum MissingReason {
    /// The workload's annotations request it, but it has no pod: the workload is scaled to 0, or to fewer pods than
    /// before.
    NoPod,
    /// The last Backup had it, and the selector does not match it any more.
    NotSelected,
    /// The last Backup had the claim, which has no volume now.
    NotBound,
    /// The last Backup had the claim, which is being deleted.
    Terminating,
    /// The last Backup had the claim, which holds a Repository now.
    HoldsRepository,
    /// The last Backup had it, and its workload does not request it any more.
    NotRequested,
    /// The last Backup had it, and its workload, pod or claim does not exist any more.
    Gone,
    /// The last Backup had it, it has no pod now, and Stowaway does not list workloads of its kind, so it is not known
    /// whether the workload still exists.
    Unknown,
}

impl MissingReason {
    /// Whether data probably exists which is not stored, so that the Backup is not green. Deleting a workload or its
    /// annotation is a decision of the user, which is only reported, and only once.
    pub fn is_loss(self) -> bool {
        !matches!(self, Self::NotRequested | Self::Gone)
    }
}

/// A `PersistentVolumeClaim` or workload that is skipped.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedClaim {
    /// Name of the claim; for a workload, `<kind>/<name>`.
    #[schemars(length(max = 512))]
    pub name: String,
    /// The machine-readable reason.
    pub reason: SkipReason,
    /// A description of the reason.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Why a `PersistentVolumeClaim` or workload is skipped.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SkipReason {
    /// An annotation or label of the claim or of its namespace opts out.
    OptedOut,
    /// The Backup's selector does not match it.
    NotSelected,
    /// The claim has no volume yet.
    NotBound,
    /// It is being deleted.
    Terminating,
    /// The claim holds a Repository.
    HoldsRepository,
    /// The claim belongs to a pod, and is deleted with it (a generic ephemeral volume).
    EphemeralVolume,
    /// A Job or `CronJob`, whose pods end. It is stored only if one of its pods is Ready when the Backup begins.
    RunsToCompletion,
    /// Volumes of an annotated pod which are not volume claims; no Backup stores them.
    OutsideClaims,
}

/// The progress and the result of one source.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Name of the source, by which a Restore refers to it.
    #[schemars(length(max = 1015))]
    pub name: SourceName,
    /// The state of the source.
    pub state: SourceState,
    /// The pod that is dumped, or that has the volume mounted. If an attempt finds that the pod is gone, another pod of
    /// the same workload replaces it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The container of that pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub container: String,
    /// The Repository that was chosen for this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// The number of the present or last attempt, from 1; 0 before the first one.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub attempt: u32,
    /// The Jobs of all attempts, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub jobs: Vec<String>,
    /// When the next attempt may begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
    /// Since when the source has been waiting for its Repository or its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// Since when the source has been queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_since: Option<Time>,
    /// The progress that the source's Job reports; present only when the Job has run for half a minute, and for display
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<RunProgress>,
    /// Whether the pod's annotation `stowaway.dev/allow-missing` allows a later Backup to be green without this source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_missing: bool,
    /// How the source ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SourceState {
    /// It is queued, or waits for its Repository, its pod or its next attempt.
    Waiting,
    /// Its Job runs.
    Running,
    /// It has ended and has a verdict.
    Done,
}

fn default_retry_limit() -> u32 {
    2
}

//! `Backup`: one run over the annotated pods and the volumes of a namespace.
//!
//! It must not know how the run is carried out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{Outcome, RepositoryReference, RunnerPod, conditions_schema, duration_schema};
use crate::model::{RunProgress, SourceName, Verdict};

/// One run over the annotated pods and the volumes of a namespace. Deleting it cancels what still runs, and deletes no data.
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
    doc = "One backup run over the annotated pods and the volumes of its namespace. Deleting it cancels what still runs, and deletes no data.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Backup's name has at most 63 characters"),
    printcolumn(name = "Sources", type_ = "string", json_path = ".status.progress", description = "green sources of all"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].reason"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.bytes"),
    printcolumn(name = "Transfer", type_ = "string", json_path = ".status.transfer", description = "what is read now, of all where that is known, and how fast"),
    printcolumn(name = "Covered", type_ = "string", json_path = ".status.conditions[?(@.type=='Covered')].status", description = "False: sources are missing that the last Backup had or that a workload asks for", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Backup cannot be changed; create another one"))]
pub struct BackupSpec {
    /// Which annotated pods of the namespace, and which of its volume claims, by their labels; all of them when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Where to, whatever the pods' annotations say. When absent, each pod's annotation `stowaway.dev/repository` says
    /// it, or else it is the Repository of the namespace with the annotation `stowaway.dev/is-default: "true"`, or else the
    /// oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// End each command after this long, whatever its pod's annotation says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub timeout: Option<Duration>,
    /// End each command when no byte moved for this long, whatever its pod's annotation says. A volume has no such limit: an
    /// unchanged file moves no byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "duration_schema")]
    pub idle_timeout: Option<Duration>,
    /// How many times a source that failed is tried again.
    #[serde(default = "default_retry_limit")]
    #[schemars(with = "i32", range(min = 0, max = 10))]
    pub retry_limit: u32,
    /// Shapes the pods of this run's Jobs, field by field in place of the Repository's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// How a Backup goes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Complete`: `True` only when every source is green and none is missing. `Failed`, only if it is `True`: ended, and not
    /// green. `Reconciling`: under way. `Stalled`: ended, and not green. `Covered`: `False` when sources are missing that the
    /// last Backup had or that a workload asks for; see `missing`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// How the run ended; absent as long as it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// When the sources were frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the last source ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Green sources of all, for example `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub progress: Option<String>,
    /// Bytes of all streams that were stored; as long as the run is under way, with those that its Jobs say to have read.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub bytes: u64,
    /// What the Jobs that run now say of their progress together, about every minute; for display alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub transfer: Option<String>,
    /// What the run is about, frozen before the first Job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub sources: Vec<SourceStatus>,
    /// Which selected sources are not stored, since a Backup has at most 256; such a run is not green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub left_out: Option<String>,
    /// What the run leaves out on purpose, and why: volume claims of the namespace, by their name, and workloads, as
    /// `<kind>/<name>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub skipped: Vec<SkippedClaim>,
    /// How many more are left out than `skipped` can list.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(with = "i32")]
    pub skipped_not_listed: u32,
    /// The sources that the last finished Backup with the same selector and repository had, or that a workload asks for, and
    /// that are not there to be stored.
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
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A source that is not there to be stored.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingSource {
    /// Its name.
    #[schemars(length(max = 1015))]
    pub name: SourceName,
    /// Why.
    pub reason: MissingReason,
    /// The same for people, with the next step.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Why a source is missing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum MissingReason {
    /// Its workload asks for it and has no pod: it is scaled to 0, or to fewer pods than before.
    NoPod,
    /// The last Backup had it, and the selector does not match it any more.
    NotSelected,
    /// The last Backup had the claim, which has no volume now.
    NotBound,
    /// The last Backup had the claim, which is being deleted.
    Terminating,
    /// The last Backup had the claim, and a Repository is on it now.
    HoldsRepository,
    /// The last Backup had it, and its workload does not ask for it any more.
    NotRequested,
    /// The last Backup had it, and its workload, pod or claim is not there any more.
    Gone,
}

impl MissingReason {
    /// Whether data is probably there and not stored, so that the Backup is not green. To delete a workload or its annotation
    /// is a decision that is only reported, once.
    pub fn is_loss(self) -> bool {
        !matches!(self, Self::NotRequested | Self::Gone)
    }
}

/// A `PersistentVolumeClaim` or workload that is left out.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedClaim {
    /// Its name; of a workload `<kind>/<name>`.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Why.
    pub reason: SkipReason,
    /// The same for people.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Why a `PersistentVolumeClaim` or workload is left out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum SkipReason {
    /// It, or its namespace, says so.
    OptedOut,
    /// The Backup's selector does not match it.
    NotSelected,
    /// It has no volume yet.
    NotBound,
    /// It is being deleted.
    Terminating,
    /// A Repository is on it.
    HoldsRepository,
    /// The claim belongs to a pod, and is deleted with it (a generic ephemeral volume).
    EphemeralVolume,
    /// A Job or `CronJob`, whose pods end: it is stored only if one of its pods is Ready when the Backup begins.
    RunsToCompletion,
    /// Volumes of an annotated pod that are no `PersistentVolumeClaim`: no Backup stores them.
    OutsideClaims,
}

/// How one source goes.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Its name, by which a Restore asks for it.
    #[schemars(length(max = 1015))]
    pub name: SourceName,
    /// What it does now.
    pub state: SourceState,
    /// The pod that is dumped, or has the volume mounted; another one of the same workload when an attempt found the first
    /// one gone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub container: String,
    /// The repository that was settled on.
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
    /// Since when its Repository or its pod is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// Since when it waits for its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_since: Option<Time>,
    /// How far its Job says that it is; only of one that has run for half a minute, and for display alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<RunProgress>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a source does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SourceState {
    /// It waits for its turn, its repository, or its next attempt.
    Waiting,
    /// It has a Job.
    Running,
    /// It has a verdict.
    Done,
}

fn default_retry_limit() -> u32 {
    2
}

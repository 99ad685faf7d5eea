//! `Repository`: where snapshots are kept, and how the place is opened.
//!
//! It must not know how a store is spoken to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backends::{AzureBackend, GcsBackend, RestBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
    shared::{RunnerPod, conditions_schema},
    upkeep::{CheckSpec, CheckStatus, PruneSpec, UpkeepStatus},
};
use crate::model::Retention;

/// A restic repository that the backups of this namespace may be written to. Deleting it deletes no data.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "stowaway.dev",
    version = "v1alpha1",
    kind = "Repository",
    namespaced,
    status = "RepositoryStatus",
    derive = "PartialEq",
    shortname = "strepo",
    category = "stowaway",
    doc = "A restic repository that the backups of its namespace are written to. Deleting it deletes no data.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Repository's name has at most 63 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Sound", type_ = "string", json_path = ".status.conditions[?(@.type=='Sound')].status", description = "whether the last check found all as it was written"),
    printcolumn(name = "Checked", type_ = "date", json_path = ".status.check.lastSuccessTime", description = "last check that found nothing wrong", priority = 1),
    printcolumn(name = "Pruned", type_ = "date", json_path = ".status.prune.lastSuccessTime", description = "last prune that succeeded", priority = 1),
    printcolumn(name = "KeyNotEscrowed", type_ = "string", json_path = ".status.conditions[?(@.type=='KeyNotEscrowed')].status", description = "True: its password is the only key to it", priority = 1),
    printcolumn(name = "SizeAnomaly", type_ = "string", json_path = ".status.conditions[?(@.type=='SizeAnomaly')].status", description = "True: a source has shrunk absurdly, and none of its snapshots is forgotten", priority = 1),
    printcolumn(name = "InsecureTransport", type_ = "string", json_path = ".status.conditions[?(@.type=='InsecureTransport')].status", description = "True: others may read or answer what is sent to the store", priority = 1),
    printcolumn(name = "Id", type_ = "string", json_path = ".status.repositoryId", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.azure), has(self.gcs), has(self.rest), has(self.sftp), has(self.volume)].filter(present, present).size() == 1")
    .message("exactly one backend is wanted: s3, azure, gcs, rest, sftp or volume"))]
#[x_kube(validation = Rule::new("!has(self.tls) || !(has(self.sftp) || has(self.volume))")
    .message("tls is for stores that are spoken to by HTTPS: s3, azure, gcs and rest"))]
pub struct RepositorySpec {
    /// A bucket of an S3 service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureBackend>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsBackend>,
    /// A server of restic's REST protocol, such as restic's rest-server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<RestBackend>,
    /// A folder of an SSH server that offers SFTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<SftpBackend>,
    /// A folder on a volume that the Jobs of this namespace mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBackend>,
    /// Whom to trust, and who we are, where the store is spoken to by HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How much of the network a run may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RepositoryLimits>,
    /// The Secret with the repository's password. Without the password nothing in the repository can be read, by anybody.
    pub password_secret_ref: PasswordSecretReference,
    /// Which snapshots each prune keeps; without `prune` it has no effect. All are kept when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// When snapshots are forgotten by `retention`, and what none needs is removed. Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneSpec>,
    /// When it is checked that all is as it was written. Never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// IANA name of the time zone of the schedules and of the days that `retention` counts, such as `Europe/Berlin`; UTC when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: Option<String>,
    /// Shapes the pods of all Jobs that use this repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// Names the Secret of the repository's password, in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within it.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Make the Secret, with a random password, when there is none and the repository was never opened. An existing
    /// Secret is never changed, and no object owns the new one, so it outlives the Repository: keep a copy elsewhere.
    #[serde(default)]
    pub create_if_not_exists: bool,
}

/// What is known of a repository.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the repository was opened with its password, as the spec is now; it is opened again about every hour. Once
    /// it was open, an empty place (`RepositoryNotFound`) or another repository (`RepositoryChanged`) is not taken for it until
    /// the annotation `stowaway.dev/accept-repository` accepts that. `InsecureTransport`, only if it is
    /// `True`: nobody proves to a run that it speaks to the right store, or others can read what is said. `Sound`: the last
    /// check found nothing wrong; `False` until a check has found whole what was damaged. `SizeAnomaly`, only if it is
    /// `True`: a source has shrunk absurdly, and none of its snapshots is forgotten. `KeyNotEscrowed`, only if it is `True`:
    /// when it was last opened or checked, it had one key only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The repository's own id, 64 hex digits, since it was first opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub repository_id: Option<String>,
    /// The id of the cluster (UID of the namespace kube-system): restore steps, which cannot ask for it, sign their locks
    /// with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_id: Option<String>,
    /// The value of the annotation `stowaway.dev/accept-repository` when the repository was last opened. The value `new` is
    /// good for one opening only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub accepted: Option<String>,
    /// How many times this generation was tried.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub attempt: u32,
    /// The attempt that opened the repository last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>")]
    pub opened_attempt: Option<u32>,
    /// When it is tried next. A repository that is ready is opened again about every hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
    /// How the prunes go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<UpkeepStatus>,
    /// How the checks go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckStatus>,
}

fn default_password_key() -> String {
    "password".to_owned()
}

//! `Repository`: where snapshots are stored, and how that store is accessed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backends::{AzureBackend, GcsBackend, RestBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
    maintenance::{CheckSpec, CheckStatus, MaintenanceStatus, PruneSpec},
    shared::{RunnerPod, conditions_schema},
};
use crate::model::Retention;

/// A restic repository that the backups of its namespace are written to. Deleting it deletes no stored data.
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
    doc = "A restic repository that the backups of its namespace are written to. Deleting it deletes no stored data.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("a Repository's name has at most 63 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Healthy", type_ = "string", json_path = ".status.conditions[?(@.type=='Healthy')].status", description = "whether the last check found no damage"),
    printcolumn(name = "Checked", type_ = "date", json_path = ".status.check.lastSuccessTime", description = "last check that found no damage", priority = 1),
    printcolumn(name = "Pruned", type_ = "date", json_path = ".status.prune.lastSuccessTime", description = "last successful prune", priority = 1),
    printcolumn(name = "KeyNotEscrowed", type_ = "string", json_path = ".status.conditions[?(@.type=='KeyNotEscrowed')].status", description = "True: the repository has only one key", priority = 1),
    printcolumn(name = "SizeAnomaly", type_ = "string", json_path = ".status.conditions[?(@.type=='SizeAnomaly')].status", description = "True: a source has shrunk implausibly, so none of its snapshots is forgotten", priority = 1),
    printcolumn(name = "InsecureTransport", type_ = "string", json_path = ".status.conditions[?(@.type=='InsecureTransport')].status", description = "True: the connection to the store can be intercepted", priority = 1),
    printcolumn(name = "Id", type_ = "string", json_path = ".status.repositoryId", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.azure), has(self.gcs), has(self.rest), has(self.sftp), has(self.volume)].filter(present, present).size() == 1")
    .message("set exactly one backend: s3, azure, gcs, rest, sftp or volume"))]
#[x_kube(validation = Rule::new("!has(self.tls) || !(has(self.sftp) || has(self.volume))")
    .message("tls is only for stores which are accessed over HTTPS: s3, azure, gcs and rest"))]
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
    /// A directory on an SSH server that offers SFTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<SftpBackend>,
    /// A directory on a volume that the Jobs of this namespace mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBackend>,
    /// Certificate authorities and client certificate for stores which are accessed over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Limits of the network traffic of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RepositoryLimits>,
    /// The Secret with the repository's password. Without the password, no one can read anything in the repository.
    pub password_secret_ref: PasswordSecretReference,
    /// Which snapshots each prune keeps. It has no effect without `prune`. When absent, all snapshots are kept. While
    /// another Repository of the namespace is the same repository and has another retention, no snapshot is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// When a prune runs. It removes snapshots according to `retention`, and the data which no snapshot needs. When
    /// absent, no prune runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneSpec>,
    /// When a check of the repository's integrity runs. When absent, no check runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// IANA name of the time zone of the schedules and of the days that `retention` counts, such as `Europe/Berlin`.
    /// When absent, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+/-]+$"))]
    pub time_zone: Option<String>,
    /// Settings for the pods of all Jobs that use this repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_pod: Option<RunnerPod>,
}

/// A reference to the Secret with the repository's password, in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Create the Secret with a random password if it does not exist and the repository was never opened. An existing
    /// Secret is never changed. The new Secret has no owner reference, so it outlives the Repository. Keep a copy of it
    /// elsewhere.
    #[serde(default)]
    pub create_if_not_exists: bool,
}

/// The observed state of a Repository.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the repository was opened with its password and the present spec. It is opened again about every hour.
    /// If it was open before, an empty store (`RepositoryNotFound`) or another repository (`RepositoryChanged`) is
    /// rejected until the annotation `stowaway.dev/accept-repository` accepts it. `InsecureTransport`, present only
    /// while it is `True`: a run cannot verify the identity of the store, or the traffic can be read by others.
    /// `Healthy`: the last check found no damage. It stays `False` until a check has found the damaged data intact.
    /// `SizeAnomaly`, present only while it is `True`: a source has shrunk implausibly, so none of its snapshots is
    /// forgotten. `RetentionDiffers`, present only while it is `True`: another Repository of the namespace is the same
    /// repository and has another `retention`, so the last prune has forgotten nothing. `KeyNotEscrowed`, present only
    /// while it is `True`: when the repository was last opened or checked, it had only one key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The id of the repository, 64 hex digits; present once it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub repository_id: Option<String>,
    /// The id of the cluster (the UID of the namespace kube-system). Restore steps write it into their locks, because
    /// they cannot query the API server for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_id: Option<String>,
    /// The value of the annotation `stowaway.dev/accept-repository` when the repository was last opened. The value
    /// `new` is valid for one opening only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub accepted: Option<String>,
    /// How many attempts were made to open the repository with this generation of the spec.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0))]
    pub attempt: u32,
    /// The last attempt that opened the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>")]
    pub opened_attempt: Option<u32>,
    /// When the next attempt begins. A repository that is ready is opened again about every hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
    /// The state of the prunes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<MaintenanceStatus>,
    /// The state of the checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckStatus>,
}

fn default_password_key() -> String {
    "password".to_owned()
}

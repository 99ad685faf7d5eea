//! `Repository`: where snapshots are kept, and how the place is opened.
//!
//! It must not know how a store is spoken to.

use k8s_openapi::{
    api::core::v1::{
        AzureFileVolumeSource, CSIVolumeSource, HostPathVolumeSource, NFSVolumeSource,
        PersistentVolumeClaimVolumeSource,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::shared::{RunnerPod, SecretKeyReference, conditions_schema};
use crate::model::{BackendConfig, S3Config, mounts};

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
    printcolumn(name = "Id", type_ = "string", json_path = ".status.repositoryId", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.volume)].filter(present, present).size() == 1")
    .message("exactly one backend is wanted: s3 or volume"))]
pub struct RepositorySpec {
    /// A bucket of an S3 service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
    /// A folder on a volume that the Jobs of this namespace mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBackend>,
    /// The Secret with the repository's password. Without the password nothing in the repository can be read, by anybody.
    pub password_secret_ref: PasswordSecretReference,
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

/// A bucket of an S3 service, or a folder in one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Backend {
    /// Base URL of the service without the bucket, for example `https://s3.eu-central-1.amazonaws.com`.
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub endpoint: String,
    /// Name of the bucket, which exists.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"))]
    pub bucket: String,
    /// Folder within the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub prefix: String,
    /// Region that goes into the signature.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// Ask for `endpoint/bucket/key` rather than `bucket.endpoint/key`; nearly every service but AWS needs it, and AWS
    /// takes both.
    #[serde(default = "default_path_style")]
    pub path_style: bool,
    /// Keys of access.
    pub credentials: S3Credentials,
}

/// Keys of access to an S3 service, in Secrets of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id_secret_ref: SecretKeyReference,
    /// The secret access key.
    pub secret_access_key_secret_ref: SecretKeyReference,
    /// The session token of temporary credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_secret_ref: Option<SecretKeyReference>,
}

/// A folder on a volume: exactly one source, written as in a pod.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.persistentVolumeClaim), has(self.nfs), has(self.hostPath), has(self.csi), has(self.azureFile)].filter(present, present).size() == 1")
    .message("exactly one volume source is wanted: persistentVolumeClaim, nfs, hostPath, csi or azureFile"))]
pub struct VolumeBackend {
    /// A claim of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// An NFS export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NFSVolumeSource>,
    /// A folder of the node. Jobs of different nodes see different folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// An inline CSI volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CSIVolumeSource>,
    /// An Azure file share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_file: Option<AzureFileVolumeSource>,
    /// Folder on the volume; it is made when it is missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub path: String,
}

/// What is known of a repository.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the repository was opened with its password, as the spec is now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The repository's own id, 64 hex digits, since it was first opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub repository_id: Option<String>,
    /// How many times this generation was tried.
    #[serde(default)]
    #[schemars(with = "i32")]
    pub attempt: u32,
    /// When it is tried next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
}

/// Where the repository is, as whoever opens it is told; none when the spec names no backend, which the CRD refuses.
pub fn backend_config(repository: &RepositorySpec) -> Option<BackendConfig> {
    if let Some(S3Backend { endpoint, bucket, prefix, region, path_style, credentials: _ }) = &repository.s3 {
        return Some(BackendConfig::S3(S3Config {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            region: region.clone(),
            path_style: *path_style,
        }));
    }
    let volume = repository.volume.as_ref()?;
    let separator = if volume.path.is_empty() { "" } else { "/" };
    Some(BackendConfig::Folder { path: format!("{}{separator}{}", mounts::REPOSITORY_FOLDER, volume.path) })
}

fn default_password_key() -> String {
    "password".to_owned()
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_path_style() -> bool {
    true
}

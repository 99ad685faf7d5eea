//! The stores that a repository can be in, as the spec describes them.

use k8s_openapi::api::core::v1::{
    AzureFileVolumeSource, CSIVolumeSource, HostPathVolumeSource, NFSVolumeSource, PersistentVolumeClaimVolumeSource,
};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{shared::SecretKeyReference, store_location::StoreLocation};
use crate::model::{AzureConfig, BackendConfig, GcsConfig, RestConfig, S3Config, SftpConfig};

/// A bucket of an S3 service, or a folder in one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Backend {
    /// Base URL of the service without the bucket, for example `https://s3.eu-central-1.amazonaws.com`.
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub endpoint: String,
    /// Name of the bucket, which must exist.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"))]
    pub bucket: String,
    /// Prefix of the objects within the bucket (a folder).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub prefix: String,
    /// Region for which requests are signed. When absent, it is the region that the host name of `endpoint` contains,
    /// or `us-east-1`. If the service rejects a request and names another region, that region is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Use path-style URLs (`endpoint/bucket/key`) rather than `bucket.endpoint/key`. Nearly every service but AWS
    /// requires them, and AWS accepts both.
    #[serde(default = "default_path_style")]
    pub path_style: bool,
    /// Access keys. Without them, a run has the rights of its node or pod: an instance role, or a web identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<S3Credentials>,
}

/// Access keys of an S3 service, in Secrets of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3Credentials {
    /// The access key id.
    pub access_key_id_secret_ref: SecretKeyReference,
    /// The secret access key.
    pub secret_access_key_secret_ref: SecretKeyReference,
    /// The session token of temporary credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_secret_ref: Option<SecretKeyReference>,
}

/// A container of Azure Blob Storage, or a folder in one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AzureBackend {
    /// Name of the storage account.
    #[schemars(regex(pattern = r"^[a-z0-9]{3,24}$"))]
    pub account: String,
    /// Name of the container, which must exist.
    #[schemars(regex(pattern = r"^[a-z0-9](-?[a-z0-9]){2,62}$"))]
    pub container: String,
    /// Prefix of the blobs within the container (a folder).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub prefix: String,
    /// Base URL of the account's blobs without the container. When absent, `https://<account>.blob.core.windows.net`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+(/[A-Za-z0-9]+)?/?$"))]
    pub endpoint: Option<String>,
    /// Credentials of the account. Without them, a run has the rights of its node or pod: a managed or workload
    /// identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<AzureCredentials>,
}

/// Credentials of an Azure storage account, in a Secret of the same namespace: a key of the account, or a shared access
/// signature.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.accountKeySecretRef) != has(self.sasTokenSecretRef)")
    .message("set exactly one: accountKeySecretRef or sasTokenSecretRef"))]
pub struct AzureCredentials {
    /// A key of the account, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_key_secret_ref: Option<SecretKeyReference>,
    /// A shared access signature with the permissions read, add, create, write, delete and list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_token_secret_ref: Option<SecretKeyReference>,
}

/// A bucket of Google Cloud Storage, or a folder in one.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcsBackend {
    /// Name of the bucket, which must exist.
    #[schemars(length(max = 222), regex(pattern = r"^[a-z0-9][a-z0-9._-]+[a-z0-9]$"))]
    pub bucket: String,
    /// Prefix of the objects within the bucket (a folder).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub prefix: String,
    /// Base URL of the service without the bucket. When absent, `https://storage.googleapis.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Credentials of a run. Without them, a run has the rights of its node or pod, which the metadata server provides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GcsCredentials>,
}

/// Google credentials of a run, in a Secret of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcsCredentials {
    /// The JSON file of a service account, or of a workload identity federation.
    pub service_account_secret_ref: SecretKeyReference,
}

/// A repository on a server of restic's REST protocol.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestBackend {
    /// URL of the repository, for example `https://backup.example.org:8000/shop`, without user and password.
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+(/[A-Za-z0-9._~-]+)*/?$"))]
    pub url: String,
    /// User and password (HTTP basic authentication).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<RestCredentials>,
}

/// User and password of a REST server, in Secrets of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestCredentials {
    /// The user name.
    pub user_secret_ref: SecretKeyReference,
    /// The password.
    pub password_secret_ref: SecretKeyReference,
}

/// A directory on an SSH server that offers SFTP.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.hostKeys) && size(self.hostKeys) > 0, has(self.hostKeysSecretRef), has(self.insecureIgnoreHostKey) && self.insecureIgnoreHostKey].filter(given, given).size() == 1")
    .message("the server's host key must be known: set exactly one of hostKeys, hostKeysSecretRef and insecureIgnoreHostKey"))]
pub struct SftpBackend {
    /// Name or address of the server.
    #[schemars(regex(pattern = r"^[A-Za-z0-9:][A-Za-z0-9.:-]{0,252}$"))]
    pub host: String,
    /// Port of the server.
    #[serde(default = "default_sftp_port")]
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: u16,
    /// Name of the user on the server.
    #[schemars(regex(pattern = r"^[^\s:@/]{1,64}$"))]
    pub user: String,
    /// Path of the repository. A relative path starts in the user's home directory. A missing directory is created.
    #[schemars(
        length(max = 512),
        regex(pattern = r"^/?[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?$")
    )]
    pub path: String,
    /// Credentials of the user.
    pub credentials: SftpCredentials,
    /// The server's public keys, one per line as `ssh-keyscan` prints them. Host names before a key are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 2048)))]
    pub host_keys: Vec<String>,
    /// The server's public keys, from a Secret of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_keys_secret_ref: Option<SecretKeyReference>,
    /// Accept any host key. Insecure, because a server that impersonates the host receives the password and the data.
    /// The Repository then has the condition `InsecureTransport`.
    #[serde(default)]
    pub insecure_ignore_host_key: bool,
}

/// Credentials of a user on an SSH server, in a Secret of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.privateKeySecretRef) != has(self.passwordSecretRef)")
    .message("set exactly one: privateKeySecretRef or passwordSecretRef"))]
pub struct SftpCredentials {
    /// A private key without a passphrase, as `ssh-keygen` writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_secret_ref: Option<SecretKeyReference>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyReference>,
}

/// A directory on a volume. Exactly one volume source must be set, with the same fields as in a pod.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.persistentVolumeClaim), has(self.nfs), has(self.hostPath), has(self.csi), has(self.azureFile)].filter(present, present).size() == 1")
    .message("set exactly one volume source: persistentVolumeClaim, nfs, hostPath, csi or azureFile"))]
pub struct VolumeBackend {
    /// A claim of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// An NFS export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NFSVolumeSource>,
    /// A directory of the node. Jobs on different nodes see different directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// An inline CSI volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CSIVolumeSource>,
    /// An Azure file share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_file: Option<AzureFileVolumeSource>,
    /// Directory on the volume; it is created if it does not exist.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(max = 512),
        regex(pattern = r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$")
    )]
    pub path: String,
}

/// Maximum length of a volume's name in bytes. A status limits the location of an archive, which contains the name.
const MAX_NAME_BYTES: usize = 512;

impl VolumeBackend {
    /// The volume, without the directory on it, as the location of an archive names it. A claim has the form of the
    /// command line (`pvc:CLAIM`).
    pub fn name(&self) -> String {
        let Self { persistent_volume_claim, nfs, host_path, csi, azure_file, path: _ } = self;
        let mut name = if let Some(claim) = persistent_volume_claim {
            format!("pvc:{}", claim.claim_name)
        } else if let Some(nfs) = nfs {
            format!("nfs:{}:{}", nfs.server, nfs.path.trim_end_matches('/'))
        } else if let Some(host_path) = host_path {
            format!("hostPath:{}", host_path.path.trim_end_matches('/'))
        } else if let Some(csi) = csi {
            format!("csi:{}", csi.driver)
        } else if let Some(azure_file) = azure_file {
            format!("azureFile:{}", azure_file.share_name)
        } else {
            String::new()
        };
        name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
        name
    }
}

/// Returns where the store is, in the form that a run receives. `None` if the spec names no backend, which the CRD's
/// validation rejects.
pub fn backend_config<'a>(location: impl Into<StoreLocation<'a>>) -> Option<BackendConfig> {
    let location = location.into();
    if let Some(S3Backend { endpoint, bucket, prefix, region, path_style, credentials: _ }) = location.s3 {
        return Some(BackendConfig::S3(S3Config {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            region: S3Config::region_for(region.as_deref(), endpoint),
            path_style: *path_style,
        }));
    }
    if let Some(AzureBackend { account, container, prefix, endpoint, credentials: _ }) = location.azure {
        let given = endpoint.as_ref().map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        return Some(BackendConfig::Azure(AzureConfig {
            account: account.clone(),
            container: container.clone(),
            prefix: prefix.clone(),
            endpoint: given.unwrap_or_else(|| AzureConfig::endpoint_of(account, None)),
        }));
    }
    if let Some(GcsBackend { bucket, prefix, endpoint, credentials: _ }) = location.gcs {
        let endpoint = endpoint.as_deref().unwrap_or(GcsConfig::ENDPOINT);
        return Some(BackendConfig::Gcs(GcsConfig {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
        }));
    }
    if let Some(RestBackend { url, credentials: _ }) = location.rest {
        return Some(BackendConfig::Rest(RestConfig { url: url.trim_end_matches('/').to_owned() }));
    }
    if let Some(sftp) = location.sftp {
        return Some(BackendConfig::Sftp(SftpConfig {
            host: sftp.host.clone(),
            port: sftp.port,
            user: sftp.user.clone(),
            path: sftp.path.clone(),
        }));
    }
    let volume = location.volume?;
    let separator = if volume.path.is_empty() { "" } else { "/" };
    Some(BackendConfig::Folder { path: format!("{}{separator}{}", location.purpose.volume_folder(), volume.path) })
}

fn default_path_style() -> bool {
    true
}

fn default_sftp_port() -> u16 {
    SftpConfig::PORT
}

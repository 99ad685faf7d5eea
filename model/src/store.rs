//! The location of a repository, and the settings of the connection to its store. They contain no secrets: credentials
//! are only named here, and a run receives them as files or in its environment.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The location of a repository.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum BackendConfig {
    /// A bucket of an S3 service.
    S3(S3Config),
    /// A container of Azure Blob Storage.
    Azure(AzureConfig),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsConfig),
    /// A server of restic's REST protocol.
    Rest(RestConfig),
    /// A directory on an SSH server.
    Sftp(SftpConfig),
    /// A mounted volume or any directory.
    Folder {
        /// Path of the repository's root.
        path: String,
    },
}

/// An S3 bucket, or a prefix in one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Config {
    /// Base URL of the service, `http://` or `https://`, without the bucket.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Prefix within the bucket, without a leading slash; empty for the bucket's root.
    #[serde(default)]
    pub prefix: String,
    /// Region name for the signature.
    pub region: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
}

/// A container of Azure Blob Storage, or a prefix in one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureConfig {
    /// Name of the storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// Prefix within the container, without a leading slash; empty for its root.
    #[serde(default)]
    pub prefix: String,
    /// Base URL of the account, without the container.
    pub endpoint: String,
}

impl AzureConfig {
    /// The account's base URL in Microsoft's public cloud, or in the cloud whose blob service has this suffix.
    pub fn endpoint_of(account: &str, suffix: Option<&str>) -> String {
        format!("https://{account}.blob.{}", suffix.unwrap_or("core.windows.net"))
    }
}

/// A bucket of Google Cloud Storage, or a prefix in one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcsConfig {
    /// The bucket.
    pub bucket: String,
    /// Prefix within the bucket, without a leading slash; empty for the bucket's root.
    #[serde(default)]
    pub prefix: String,
    /// Base URL of the service, without the bucket.
    pub endpoint: String,
}

impl GcsConfig {
    /// The base URL of Google's service.
    pub const ENDPOINT: &str = "https://storage.googleapis.com";
}

/// A repository on a server of restic's REST protocol.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestConfig {
    /// URL of the repository's root, `http://` or `https://`, without credentials.
    pub url: String,
}

/// A directory on an SSH server that offers SFTP.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SftpConfig {
    /// Name or address of the server.
    pub host: String,
    pub port: u16,
    /// Name of the user on the server.
    pub user: String,
    /// Path of the repository's root; a relative path starts in the user's home directory.
    pub path: String,
}

impl SftpConfig {
    pub const PORT: u16 = 22;
}

impl BackendConfig {
    /// The URL of the store, if it is accessed over HTTP.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::S3(config) => Some(&config.endpoint),
            Self::Azure(config) => Some(&config.endpoint),
            Self::Gcs(config) => Some(&config.endpoint),
            Self::Rest(config) => Some(&config.url),
            Self::Sftp(_) | Self::Folder { .. } => None,
        }
    }
}

/// Settings of the connection to a store.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Connection {
    /// The credentials that must be present. Without any, the run has the identity of its node or pod.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub credentials: BTreeSet<Credential>,
    /// Certificates of the only authorities that are trusted, as PEM; in addition to
    /// [`Credential::CertificateAuthorities`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_authorities: String,
    /// Keys of the SSH server; in addition to [`Credential::HostKeys`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
    /// Skip verification of the server's identity.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// The repository is in a directory that runs of several users share.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared_folder: bool,
    #[serde(skip_serializing_if = "StoreLimits::is_none")]
    pub limits: StoreLimits,
}

impl Connection {
    /// Whether all settings are defaults.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of the network traffic of a run; no limit if absent.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoreLimits {
    /// Bytes per second that are written to the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_bytes_per_second: Option<u64>,
    /// Bytes per second that are read from the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_bytes_per_second: Option<u64>,
    /// Concurrent requests to the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
}

impl StoreLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A text with which one side of a connection proves its identity to the other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Credential {
    S3AccessKeyId,
    S3SecretAccessKey,
    S3SessionToken,
    /// A key of the Azure storage account, in base64.
    AzureAccountKey,
    /// A shared access signature, as the query string that Azure generates.
    AzureSasToken,
    /// The JSON file of a Google service account.
    GcsServiceAccount,
    /// An `OAuth2` access token of Google, valid for an hour.
    GcsAccessToken,
    RestUser,
    RestPassword,
    /// A private SSH key, as PEM.
    SftpPrivateKey,
    /// Password of the SSH user.
    SftpPassword,
    /// Lines of a `known_hosts` file or of public key files; only these keys of the SSH server are trusted.
    HostKeys,
    /// Certificates of authorities, as PEM; only these are trusted.
    CertificateAuthorities,
    /// The client certificate, with its intermediate certificates, as PEM.
    ClientCertificate,
    /// The private key of the client certificate, as PEM.
    ClientKey,
}

impl Credential {
    /// Name of the file in [`super::mounts::CREDENTIALS_FOLDER`].
    pub fn file(self) -> &'static str {
        match self {
            Self::S3AccessKeyId => "s3-access-key-id",
            Self::S3SecretAccessKey => "s3-secret-access-key",
            Self::S3SessionToken => "s3-session-token",
            Self::AzureAccountKey => "azure-account-key",
            Self::AzureSasToken => "azure-sas-token",
            Self::GcsServiceAccount => "gcs-service-account.json",
            Self::GcsAccessToken => "gcs-access-token",
            Self::RestUser => "rest-user",
            Self::RestPassword => "rest-password",
            Self::SftpPrivateKey => "sftp-private-key",
            Self::SftpPassword => "sftp-password",
            Self::HostKeys => "known-hosts",
            Self::CertificateAuthorities => "ca.crt",
            Self::ClientCertificate => "client.crt",
            Self::ClientKey => "client.key",
        }
    }

    /// The name for users.
    pub fn title(self) -> &'static str {
        match self {
            Self::S3AccessKeyId => "the S3 access key id",
            Self::S3SecretAccessKey => "the S3 secret access key",
            Self::S3SessionToken => "the S3 session token",
            Self::AzureAccountKey => "the Azure account key",
            Self::AzureSasToken => "the Azure SAS token",
            Self::GcsServiceAccount => "the Google service account's JSON",
            Self::GcsAccessToken => "the Google access token",
            Self::RestUser => "the REST server's user",
            Self::RestPassword => "the REST server's password",
            Self::SftpPrivateKey => "the private SSH key",
            Self::SftpPassword => "the SSH user's password",
            Self::HostKeys => "the SSH server's host keys",
            Self::CertificateAuthorities => "the CA's certificates",
            Self::ClientCertificate => "the client certificate",
            Self::ClientKey => "the client certificate's key",
        }
    }
}

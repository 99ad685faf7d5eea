//! How a Repository's store is accessed: TLS settings, credentials and limits. Secrets are only referred to here.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    repository::{PasswordSecretReference, RepositorySpec},
    shared::SecretKeyReference,
    store_location::{StoreLocation, StorePurpose},
};
use crate::model::{Connection, Credential, SecretKind, SecretSource, SecretSources, StoreLimits, mounts};

/// Certificate authorities and client certificate for HTTPS connections. Without certificate authorities here, those of
/// the image are trusted.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.caBundle), has(self.caSecretRef), has(self.caConfigMapRef)].filter(present, present).size() <= 1")
    .message("set at most one of caBundle, caSecretRef and caConfigMapRef"))]
#[x_kube(validation = Rule::new("has(self.clientCertificateSecretRef) == has(self.clientKeySecretRef)")
    .message("set clientCertificateSecretRef and clientKeySecretRef together"))]
pub struct Tls {
    /// Certificates of authorities, as PEM. Only these are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_bundle: Option<String>,
    /// Certificates of authorities, from a Secret of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
    /// Certificates of authorities, from a `ConfigMap` of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<SecretKeyReference>,
    /// The client certificate of a run, as PEM, with its intermediate certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<SecretKeyReference>,
    /// The private key of the client certificate, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_secret_ref: Option<SecretKeyReference>,
    /// Skip verification of the server's TLS certificate. Insecure. The Repository then has the condition
    /// `InsecureTransport`.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// Limits of the network traffic of one run. Several runs at the same time each have these limits.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryLimits {
    /// Bytes per second that are written to the store, for example `10Mi`. The limit is an average over the files of a
    /// repository (packs of about 4 MiB): a file is sent as fast as the network allows, and the next file is delayed
    /// accordingly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]{0,11}(k|Ki|M|Mi|G|Gi)?$"))]
    pub upload: Option<String>,
    /// Bytes per second that are read from the store, averaged in the same manner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]{0,11}(k|Ki|M|Mi|G|Gi)?$"))]
    pub download: Option<String>,
    /// Maximum number of concurrent requests to the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 256))]
    pub connections: Option<u16>,
}

/// The object and the key which hold a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialSource<'a> {
    Secret(&'a SecretKeyReference),
    ConfigMap(&'a SecretKeyReference),
}

impl<'a> CredentialSource<'a> {
    pub fn reference(self) -> &'a SecretKeyReference {
        match self {
            Self::Secret(reference) | Self::ConfigMap(reference) => reference,
        }
    }
}

/// Returns all credentials that the spec takes from other objects to open the store, and the path of each in the spec.
/// The password of a repository is not included.
pub fn credential_sources<'a>(
    location: impl Into<StoreLocation<'a>>,
) -> Vec<(Credential, CredentialSource<'a>, Vec<&'static str>)> {
    use Credential as C;
    let location = location.into();
    let mut found = Vec::new();
    let mut secret = |credential, reference: Option<&'a SecretKeyReference>, path: &[&'static str]| {
        found.extend(reference.map(|reference| (credential, CredentialSource::Secret(reference), path.to_vec())));
    };
    if let Some(keys) = location.s3.and_then(|s3| s3.credentials.as_ref()) {
        let at = |field| ["s3", "credentials", field];
        secret(C::S3AccessKeyId, Some(&keys.access_key_id_secret_ref), &at("accessKeyIdSecretRef"));
        secret(C::S3SecretAccessKey, Some(&keys.secret_access_key_secret_ref), &at("secretAccessKeySecretRef"));
        secret(C::S3SessionToken, keys.session_token_secret_ref.as_ref(), &at("sessionTokenSecretRef"));
    }
    if let Some(keys) = location.azure.and_then(|azure| azure.credentials.as_ref()) {
        let at = |field| ["azure", "credentials", field];
        secret(C::AzureAccountKey, keys.account_key_secret_ref.as_ref(), &at("accountKeySecretRef"));
        secret(C::AzureSasToken, keys.sas_token_secret_ref.as_ref(), &at("sasTokenSecretRef"));
    }
    if let Some(keys) = location.gcs.and_then(|gcs| gcs.credentials.as_ref()) {
        let path = ["gcs", "credentials", "serviceAccountSecretRef"];
        secret(C::GcsServiceAccount, Some(&keys.service_account_secret_ref), &path);
    }
    if let Some(keys) = location.rest.and_then(|rest| rest.credentials.as_ref()) {
        let at = |field| ["rest", "credentials", field];
        secret(C::RestUser, Some(&keys.user_secret_ref), &at("userSecretRef"));
        secret(C::RestPassword, Some(&keys.password_secret_ref), &at("passwordSecretRef"));
    }
    if let Some(sftp) = location.sftp {
        let (keys, at) = (&sftp.credentials, |field| ["sftp", "credentials", field]);
        secret(C::SftpPrivateKey, keys.private_key_secret_ref.as_ref(), &at("privateKeySecretRef"));
        secret(C::SftpPassword, keys.password_secret_ref.as_ref(), &at("passwordSecretRef"));
        secret(C::HostKeys, sftp.host_keys_secret_ref.as_ref(), &["sftp", "hostKeysSecretRef"]);
    }
    if let Some(tls) = location.tls {
        let certificate = tls.client_certificate_secret_ref.as_ref();
        secret(C::CertificateAuthorities, tls.ca_secret_ref.as_ref(), &["tls", "caSecretRef"]);
        secret(C::ClientCertificate, certificate, &["tls", "clientCertificateSecretRef"]);
        secret(C::ClientKey, tls.client_key_secret_ref.as_ref(), &["tls", "clientKeySecretRef"]);
        found.extend(tls.ca_config_map_ref.as_ref().map(|reference| {
            (C::CertificateAuthorities, CredentialSource::ConfigMap(reference), vec!["tls", "caConfigMapRef"])
        }));
    }
    found
}

/// Where the files of a store's credentials come from, by their paths in a run's pod.
pub fn secret_sources<'a>(location: impl Into<StoreLocation<'a>>) -> SecretSources {
    let location = location.into();
    let folder = location.purpose.credentials_folder();
    let sources = credential_sources(location).into_iter().map(|(credential, source, _)| {
        let (kind, SecretKeyReference { name, key }) = match source {
            CredentialSource::Secret(reference) => (SecretKind::Secret, reference),
            CredentialSource::ConfigMap(reference) => (SecretKind::ConfigMap, reference),
        };
        (format!("{folder}/{}", credential.file()), SecretSource { kind, name: name.clone(), key: key.clone() })
    });
    sources.collect()
}

/// Like [`secret_sources`] for the store of a Repository, with its password.
pub fn repository_secret_sources(spec: &RepositorySpec) -> SecretSources {
    let PasswordSecretReference { name, key, .. } = &spec.password_secret_ref;
    let password = SecretSource { kind: SecretKind::Secret, name: name.clone(), key: key.clone() };
    let mut sources = secret_sources(spec);
    sources.insert(format!("{}/{}", mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE), password);
    sources
}

pub fn connection<'a>(location: impl Into<StoreLocation<'a>>) -> Connection {
    let location = location.into();
    let (tls, sftp) = (location.tls, location.sftp);
    let limits = location.limits.cloned().unwrap_or_default();
    Connection {
        credentials: credential_sources(location).into_iter().map(|(credential, ..)| credential).collect(),
        certificate_authorities: tls.and_then(|tls| tls.ca_bundle.clone()).unwrap_or_default(),
        host_keys: sftp.map(|sftp| sftp.host_keys.clone()).unwrap_or_default(),
        insecure_skip_verify: tls.is_some_and(|tls| tls.insecure_skip_verify)
            || sftp.is_some_and(|sftp| sftp.insecure_ignore_host_key),
        // Runs of several users share a repository (a sidecar has the user of its app). An archive is not encrypted,
        // so only its own user may read it.
        shared_folder: location.volume.is_some() && location.purpose == StorePurpose::Repository,
        limits: StoreLimits {
            upload_bytes_per_second: limits.upload.as_deref().and_then(bytes_per_second),
            download_bytes_per_second: limits.download.as_deref().and_then(bytes_per_second),
            connections: limits.connections,
        },
    }
}

/// Parses a number of bytes with a Kubernetes suffix, in the form that the schema accepts.
pub fn bytes_per_second(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

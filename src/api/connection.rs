//! How a Repository's store is spoken to: whose word is trusted, with which Secrets, how fast.
//!
//! It must not know how that is carried out. Secrets appear here by name only.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    place::{Keeps, StorePlace},
    shared::SecretKeyReference,
};
use crate::model::{Connection, Credential, StoreLimits};

/// Whom to trust, and who we are, on connections by HTTPS. What is not said here: the authorities that the image knows.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.caBundle), has(self.caSecretRef), has(self.caConfigMapRef)].filter(present, present).size() <= 1")
    .message("at most one is wanted of caBundle, caSecretRef and caConfigMapRef"))]
#[x_kube(validation = Rule::new("has(self.clientCertificateSecretRef) == has(self.clientKeySecretRef)")
    .message("clientCertificateSecretRef and clientKeySecretRef are wanted together"))]
pub struct Tls {
    /// Certificates of authorities, as PEM. Only these are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_bundle: Option<String>,
    /// The same from a Secret of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
    /// The same from a `ConfigMap` of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_config_map_ref: Option<SecretKeyReference>,
    /// The certificate that a run shows to the server, as PEM, with what leads to its authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<SecretKeyReference>,
    /// Its private key, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_secret_ref: Option<SecretKeyReference>,
    /// Speak to whoever answers: the server's certificate is not looked at. The Repository then has the condition
    /// `InsecureTransport`.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// How much of the network one run may use. Several runs at the same time use so much each.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryLimits {
    /// Bytes a second that are written to the store, for example `10Mi`. On average: a file of the repository (most have
    /// 16 MiB or more) is sent as fast as the network allows, and the next one waits accordingly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]{0,11}(k|Ki|M|Mi|G|Gi)?$"))]
    pub upload: Option<String>,
    /// Bytes a second that are read from the store, in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]{0,11}(k|Ki|M|Mi|G|Gi)?$"))]
    pub download: Option<String>,
    /// Requests to the store at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 256))]
    pub connections: Option<u16>,
}

/// Which key of which object holds a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialSource<'a> {
    /// A Secret of the Repository's namespace.
    Secret(&'a SecretKeyReference),
    /// A `ConfigMap` of it.
    ConfigMap(&'a SecretKeyReference),
}

impl<'a> CredentialSource<'a> {
    /// Name and key.
    pub fn reference(self) -> &'a SecretKeyReference {
        match self {
            Self::Secret(reference) | Self::ConfigMap(reference) => reference,
        }
    }
}

/// All that the spec takes from other objects to open the store, with a repository's password left out, and where in the
/// spec each is named.
pub fn credential_sources<'a>(
    place: impl Into<StorePlace<'a>>,
) -> Vec<(Credential, CredentialSource<'a>, Vec<&'static str>)> {
    use Credential as C;
    let place = place.into();
    let mut found = Vec::new();
    let mut secret = |credential, reference: Option<&'a SecretKeyReference>, path: &[&'static str]| {
        found.extend(reference.map(|reference| (credential, CredentialSource::Secret(reference), path.to_vec())));
    };
    if let Some(keys) = place.s3.and_then(|s3| s3.credentials.as_ref()) {
        let at = |field| ["s3", "credentials", field];
        secret(C::S3AccessKeyId, Some(&keys.access_key_id_secret_ref), &at("accessKeyIdSecretRef"));
        secret(C::S3SecretAccessKey, Some(&keys.secret_access_key_secret_ref), &at("secretAccessKeySecretRef"));
        secret(C::S3SessionToken, keys.session_token_secret_ref.as_ref(), &at("sessionTokenSecretRef"));
    }
    if let Some(keys) = place.azure.and_then(|azure| azure.credentials.as_ref()) {
        let at = |field| ["azure", "credentials", field];
        secret(C::AzureAccountKey, keys.account_key_secret_ref.as_ref(), &at("accountKeySecretRef"));
        secret(C::AzureSasToken, keys.sas_token_secret_ref.as_ref(), &at("sasTokenSecretRef"));
    }
    if let Some(keys) = place.gcs.and_then(|gcs| gcs.credentials.as_ref()) {
        let path = ["gcs", "credentials", "serviceAccountSecretRef"];
        secret(C::GcsServiceAccount, Some(&keys.service_account_secret_ref), &path);
    }
    if let Some(keys) = place.rest.and_then(|rest| rest.credentials.as_ref()) {
        let at = |field| ["rest", "credentials", field];
        secret(C::RestUser, Some(&keys.user_secret_ref), &at("userSecretRef"));
        secret(C::RestPassword, Some(&keys.password_secret_ref), &at("passwordSecretRef"));
    }
    if let Some(sftp) = place.sftp {
        let (keys, at) = (&sftp.credentials, |field| ["sftp", "credentials", field]);
        secret(C::SftpPrivateKey, keys.private_key_secret_ref.as_ref(), &at("privateKeySecretRef"));
        secret(C::SftpPassword, keys.password_secret_ref.as_ref(), &at("passwordSecretRef"));
        secret(C::HostKeys, sftp.host_keys_secret_ref.as_ref(), &["sftp", "hostKeysSecretRef"]);
    }
    if let Some(tls) = place.tls {
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

/// How the store is spoken to, as whoever opens it is told.
pub fn connection<'a>(place: impl Into<StorePlace<'a>>) -> Connection {
    let place = place.into();
    let (tls, sftp) = (place.tls, place.sftp);
    let limits = place.limits.cloned().unwrap_or_default();
    Connection {
        credentials: credential_sources(place).into_iter().map(|(credential, ..)| credential).collect(),
        certificate_authorities: tls.and_then(|tls| tls.ca_bundle.clone()).unwrap_or_default(),
        host_keys: sftp.map(|sftp| sftp.host_keys.clone()).unwrap_or_default(),
        insecure_skip_verify: tls.is_some_and(|tls| tls.insecure_skip_verify)
            || sftp.is_some_and(|sftp| sftp.insecure_ignore_host_key),
        // Volumes are backed up by whoever can read them. What is in an archive is not encrypted.
        shared_folder: place.volume.is_some() && place.keeps == Keeps::Repository,
        limits: StoreLimits {
            upload_bytes_per_second: limits.upload.as_deref().and_then(bytes_per_second),
            download_bytes_per_second: limits.download.as_deref().and_then(bytes_per_second),
            connections: limits.connections,
        },
    }
}

/// A whole number of bytes with a suffix of Kubernetes, as the schema lets it through.
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

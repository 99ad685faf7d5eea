//! The objects which the mounted files of the pod come from.

use stowaway::model::{Credential, SecretKind, SecretSource, SecretSources, mounts};

/// Where the pod's password and credentials come from, as the webhook sets it.
pub fn secret_sources() -> String {
    let source = |name: &str, key: &str| SecretSource { kind: SecretKind::Secret, name: name.into(), key: key.into() };
    let credentials = [Credential::S3AccessKeyId, Credential::S3SecretAccessKey].map(|credential| {
        (format!("{}/{}", mounts::CREDENTIALS_FOLDER, credential.file()), source("store", credential.file()))
    });
    let password = (format!("{}/{}", mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE), source("key", "pass"));
    serde_json::to_string(&credentials.into_iter().chain([password]).collect::<SecretSources>()).unwrap()
}

//! What opens a repository without a cluster: restic's own environment variables, those of the clouds, and the files of
//! `ssh`.
//!
//! An edge: it reads environment and files, and decides nothing.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use super::{
    CliError, local,
    place::{Surroundings, parse_place},
};
use crate::{
    model::{BackendConfig, Connection, Credential, Secret},
    repository::{Access, Patience, known_host_keys},
};

/// The access to a repository in restic's notation.
pub(super) fn access(repository: &str, password_file: Option<&Path>) -> Result<Access, CliError> {
    let region = variable("AWS_DEFAULT_REGION").or_else(|| variable("AWS_REGION"));
    let backend = parse_place(
        repository,
        &Surroundings {
            region: region.unwrap_or_else(|| "us-east-1".to_owned()),
            azure_account: variable("AZURE_ACCOUNT_NAME"),
            azure_suffix: variable("AZURE_ENDPOINT_SUFFIX"),
            gcs_emulator: variable("STORAGE_EMULATOR_HOST"),
        },
    )?;
    let password = match password_file {
        Some(file) => text_of("the password file", file)?,
        None => Secret::new(variable("RESTIC_PASSWORD").ok_or_else(|| {
            let message = "the repository's password is missing; give it by RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or --password-file";
            CliError::Usage(message.to_owned())
        })?),
    };
    let mut credentials = credentials(&backend)?;
    let mut connection = Connection::default();
    if let Some(file) = variable("RESTIC_CACERT") {
        credentials.insert(Credential::CertificateAuthorities, text_of("the file of RESTIC_CACERT", Path::new(&file))?);
    }
    if let Some(file) = variable("RESTIC_TLS_CLIENT_CERT") {
        // Certificate and key in one file.
        let both = text_of("the file of RESTIC_TLS_CLIENT_CERT", Path::new(&file))?;
        credentials.insert(Credential::ClientCertificate, both);
    }
    connection.credentials = credentials.keys().copied().collect();
    Ok(Access {
        backend,
        password,
        connection,
        credentials,
        holder: local::lock_holder(),
        locks: local::lock_rules(),
        patience: Patience::default(),
        expected_ids: Vec::new(),
    })
}

fn credentials(backend: &BackendConfig) -> Result<BTreeMap<Credential, Secret>, CliError> {
    use Credential as C;
    let given = |variables: &[(Credential, &str)]| -> BTreeMap<Credential, Secret> {
        variables.iter().filter_map(|&(credential, name)| Some((credential, Secret::new(variable(name)?)))).collect()
    };
    match backend {
        BackendConfig::Folder { .. } => Ok(BTreeMap::new()),
        BackendConfig::S3(_) => {
            let found = given(&[
                (C::S3AccessKeyId, "AWS_ACCESS_KEY_ID"),
                (C::S3SecretAccessKey, "AWS_SECRET_ACCESS_KEY"),
                (C::S3SessionToken, "AWS_SESSION_TOKEN"),
            ]);
            both(&found, (C::S3AccessKeyId, "AWS_ACCESS_KEY_ID"), (C::S3SecretAccessKey, "AWS_SECRET_ACCESS_KEY"))?;
            Ok(found)
        }
        BackendConfig::Azure(_) => {
            Ok(given(&[(C::AzureAccountKey, "AZURE_ACCOUNT_KEY"), (C::AzureSasToken, "AZURE_ACCOUNT_SAS")]))
        }
        BackendConfig::Gcs(_) => {
            let mut found = given(&[(C::GcsAccessToken, "GOOGLE_ACCESS_TOKEN")]);
            if let Some(file) = variable("GOOGLE_APPLICATION_CREDENTIALS") {
                let text = text_of("the file of GOOGLE_APPLICATION_CREDENTIALS", Path::new(&file))?;
                found.insert(C::GcsServiceAccount, text);
            }
            Ok(found)
        }
        BackendConfig::Rest(_) => {
            let found = given(&[(C::RestUser, "RESTIC_REST_USERNAME"), (C::RestPassword, "RESTIC_REST_PASSWORD")]);
            both(&found, (C::RestUser, "RESTIC_REST_USERNAME"), (C::RestPassword, "RESTIC_REST_PASSWORD"))?;
            Ok(found)
        }
        BackendConfig::Sftp(config) => {
            let folder = PathBuf::from(variable("HOME").unwrap_or_default()).join(".ssh");
            let key =
                ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| folder.join(name)).into_iter().find(|key| key.exists());
            let key = key.ok_or_else(|| {
                CliError::Usage(format!("there is no private key in {}; make one with ssh-keygen", folder.display()))
            })?;
            let known = folder.join("known_hosts");
            let host_keys = known_host_keys(&config.host, config.port, &known).ok_or_else(|| {
                CliError::Usage(format!("{} has no key of {}; connect with ssh once", known.display(), config.host))
            })?;
            Ok(BTreeMap::from([
                (C::SftpPrivateKey, text_of("the private key", &key)?),
                (C::HostKeys, Secret::new(host_keys)),
            ]))
        }
    }
}

/// One without the other is a mistake, and no wish to go without.
fn both(
    found: &BTreeMap<Credential, Secret>,
    (one, its_name): (Credential, &str),
    (other, name): (Credential, &str),
) -> Result<(), CliError> {
    if found.contains_key(&one) == found.contains_key(&other) {
        return Ok(());
    }
    Err(CliError::Usage(format!("of {its_name} and {name} only one is in the environment; give both")))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// As restic does: a newline at the end of a password file is not part of the password.
pub(super) fn text_of(what: &str, file: &Path) -> Result<Secret, CliError> {
    let text = fs::read_to_string(file)
        .map_err(|error| CliError::Usage(format!("{what} {} cannot be read: {error}", file.display())))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

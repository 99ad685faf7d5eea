//! Password, credentials and connection of a repository that is used without a cluster. They come from restic's
//! environment variables, from those of the clouds, and from the files of `ssh`.

use std::{
    collections::BTreeMap,
    env,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    CliError, local,
    location::{ResticEnv, credentials_in, parse_location},
};
use crate::{
    model::{BackendConfig, Connection, Credential, DamagedPacks, Secret, StoredPassword},
    repository::{OpenOptions, Timeouts, known_host_keys},
};

/// How to open a repository whose location is in restic's notation.
pub(super) fn access(repository: &str, password_file: Option<&Path>) -> Result<OpenOptions, CliError> {
    let backend = parse_location(
        repository,
        &ResticEnv {
            region: variable("AWS_DEFAULT_REGION").or_else(|| variable("AWS_REGION")),
            azure_account: variable("AZURE_ACCOUNT_NAME"),
            azure_suffix: variable("AZURE_ENDPOINT_SUFFIX"),
            gcs_emulator: variable("STORAGE_EMULATOR_HOST"),
            user: variable("USER").or_else(|| variable("LOGNAME")),
        },
    )?;
    let StoredPassword { password, untrimmed } = match password_file {
        Some(file) => password_of("the password file", file)?,
        // A password in the environment is used unchanged, as in restic.
        None => StoredPassword {
            password: Secret::new(variable("RESTIC_PASSWORD").ok_or_else(|| {
                let message = "the repository's password is missing; give it by RESTIC_PASSWORD, RESTIC_PASSWORD_FILE or --password-file";
                CliError::Usage(message.to_owned())
            })?),
            untrimmed: None,
        },
    };
    let mut credentials = credentials_in(repository);
    if credentials.is_empty() {
        credentials = self::credentials(&backend)?;
    }
    let mut connection = Connection::default();
    if let Some(file) = variable("RESTIC_CACERT") {
        credentials.insert(Credential::CertificateAuthorities, text_of("the file of RESTIC_CACERT", Path::new(&file))?);
    }
    if let Some(file) = variable("RESTIC_TLS_CLIENT_CERT") {
        // The file holds both the certificate and the key.
        let both = text_of("the file of RESTIC_TLS_CLIENT_CERT", Path::new(&file))?;
        credentials.insert(Credential::ClientCertificate, both);
    }
    connection.credentials = credentials.keys().copied().collect();
    Ok(OpenOptions {
        backend,
        password,
        untrimmed_password: untrimmed,
        connection,
        credentials,
        holder: local::lock_holder(),
        locks: local::lock_rules(),
        timeouts: Timeouts::default(),
        expected_ids: Vec::new(),
        damaged_packs: DamagedPacks::default(),
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

/// Refuses one variable without the other, because that is a mistake and not a choice of anonymous access.
fn both(
    found: &BTreeMap<Credential, Secret>,
    (one, its_name): (Credential, &str),
    (other, name): (Credential, &str),
) -> Result<(), CliError> {
    if found.contains_key(&one) == found.contains_key(&other) {
        return Ok(());
    }
    Err(CliError::Usage(format!("only one of {its_name} and {name} is set; set both")))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The password in a file, as restic reads it.
pub(super) fn password_of(what: &str, file: &Path) -> Result<StoredPassword, CliError> {
    let unreadable = |why: &dyn Display| CliError::Usage(format!("{what} {} cannot be read: {why}", file.display()));
    let content = Zeroizing::new(fs::read(file).map_err(|error| unreadable(&error))?);
    StoredPassword::read(&content).ok_or_else(|| unreadable(&"it is neither UTF-8 nor UTF-16 with a byte order mark"))
}

/// The text in a file, without a newline at its end.
pub(super) fn text_of(what: &str, file: &Path) -> Result<Secret, CliError> {
    let text = fs::read_to_string(file)
        .map_err(|error| CliError::Usage(format!("{what} {} cannot be read: {error}", file.display())))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

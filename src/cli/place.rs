//! Where a repository is, as restic writes it: a path, or a URL of one of its backends. Pure: text in, backend out.

use std::path::PathBuf;

use crate::model::{AzureConfig, BackendConfig, GcsConfig, RestConfig, S3Config, SftpConfig};

/// A repository's place that could not be read, and what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlaceError {
    /// A scheme that restic knows and Stowaway does not.
    #[error("the backend {0:?} is not supported; use a path, or one of s3:, azure:, gs:, rest: and sftp:")]
    UnknownBackend(String),
    /// Something is missing or wrong in it.
    #[error("the repository's place names no {missing}; write {form}")]
    Incomplete {
        /// What was not found in it.
        missing: &'static str,
        /// How the place is written.
        form: &'static str,
    },
    /// The storage account is in the environment.
    #[error("the storage account is missing; give it by AZURE_ACCOUNT_NAME")]
    NoAccount,
    /// A password in the place: it would be seen in process lists and logs.
    #[error("the repository's place holds credentials; give them by {0} instead")]
    Credentials(&'static str),
}

/// What restic takes from its environment to find a repository.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Region that goes into S3 signatures.
    pub region: String,
    /// Name of the Azure storage account.
    pub azure_account: Option<String>,
    /// What follows `<account>.blob.` in the name of Azure's server.
    pub azure_suffix: Option<String>,
    /// Base URL of a server to use instead of Google's, or its host and port.
    pub gcs_emulator: Option<String>,
}

const S3_FORM: &str = "s3:https://HOST/BUCKET[/PREFIX] or s3:HOST/BUCKET[/PREFIX]";
const AZURE_FORM: &str = "azure:CONTAINER:/[PREFIX]";
const GCS_FORM: &str = "gs:BUCKET:/[PREFIX]";
const REST_FORM: &str = "rest:https://HOST[:PORT][/PATH]";
const SFTP_FORM: &str = "sftp:USER@HOST:PATH or sftp://USER@HOST[:PORT]//PATH";

/// Reads a place in restic's notation (its manual, "Preparing a new repository").
///
/// Path-style requests are made to every S3 endpoint but Amazon's own, as restic's `auto` bucket lookup does.
pub fn parse_place(text: &str, surroundings: &Surroundings) -> Result<BackendConfig, PlaceError> {
    let unknown_schemes = ["b2", "rclone", "swift"];
    match text.split_once(':') {
        Some(("s3", rest)) => parse_s3(rest.trim_start_matches("//"), &surroundings.region),
        Some(("azure", rest)) => {
            let (container, prefix) = bucket(rest, "container", AZURE_FORM)?;
            let account = surroundings.azure_account.clone().ok_or(PlaceError::NoAccount)?;
            let endpoint = AzureConfig::endpoint_of(&account, surroundings.azure_suffix.as_deref());
            Ok(BackendConfig::Azure(AzureConfig { account, container, prefix, endpoint }))
        }
        Some(("gs", rest)) => {
            let (bucket, prefix) = bucket(rest, "bucket", GCS_FORM)?;
            let endpoint = match &surroundings.gcs_emulator {
                None => GcsConfig::ENDPOINT.to_owned(),
                Some(server) if server.contains("://") => server.trim_end_matches('/').to_owned(),
                Some(server) => format!("http://{server}"),
            };
            Ok(BackendConfig::Gcs(GcsConfig { bucket, prefix, endpoint }))
        }
        Some(("rest", rest)) => parse_rest(rest),
        Some(("sftp", rest)) => parse_sftp(rest),
        Some((scheme, _)) if unknown_schemes.contains(&scheme) => Err(PlaceError::UnknownBackend(scheme.to_owned())),
        Some(("local", path)) => Ok(folder(path)),
        _ => Ok(folder(text)),
    }
}

fn folder(path: &str) -> BackendConfig {
    BackendConfig::Folder { path: PathBuf::from(path).to_string_lossy().into_owned() }
}

/// A bucket and a prefix in it.
fn bucket(rest: &str, missing: &'static str, form: &'static str) -> Result<(String, String), PlaceError> {
    let (bucket, prefix) = rest.split_once(':').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains('/') {
        return Err(PlaceError::Incomplete { missing, form });
    }
    Ok((bucket.to_owned(), prefix.trim_matches('/').to_owned()))
}

fn parse_s3(rest: &str, region: &str) -> Result<BackendConfig, PlaceError> {
    let no_bucket = || PlaceError::Incomplete { missing: "bucket", form: S3_FORM };
    let (scheme, rest) = rest.split_once("://").unwrap_or(("https", rest));
    let (host, path) = rest.split_once('/').ok_or_else(no_bucket)?;
    if host.contains('@') {
        return Err(PlaceError::Credentials("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if host.is_empty() || bucket.is_empty() {
        return Err(no_bucket());
    }
    Ok(BackendConfig::S3(S3Config {
        endpoint: format!("{scheme}://{host}"),
        bucket: bucket.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        region: region.to_owned(),
        path_style: !host.ends_with(".amazonaws.com"),
    }))
}

fn parse_rest(url: &str) -> Result<BackendConfig, PlaceError> {
    let no_host = || PlaceError::Incomplete { missing: "server", form: REST_FORM };
    let (scheme, rest) = url.split_once("://").ok_or_else(no_host)?;
    let host = rest.split('/').next().unwrap_or_default();
    if !["http", "https"].contains(&scheme) || host.is_empty() {
        return Err(no_host());
    }
    if host.contains('@') {
        return Err(PlaceError::Credentials("RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD"));
    }
    Ok(BackendConfig::Rest(RestConfig { url: url.trim_end_matches('/').to_owned() }))
}

/// `user@host:path`, or a URL with a port, whose path begins after the slash that ends the host.
fn parse_sftp(rest: &str) -> Result<BackendConfig, PlaceError> {
    let missing = |missing| PlaceError::Incomplete { missing, form: SFTP_FORM };
    let (login, path, port) = match rest.strip_prefix("//") {
        Some(url) => {
            let (login, path) = url.split_once('/').ok_or_else(|| missing("path"))?;
            match login.rsplit_once(':') {
                Some((login, port)) if !port.ends_with(']') && login.contains('@') => {
                    (login, path, port.parse().map_err(|_| missing("port"))?)
                }
                _ => (login, path, SftpConfig::PORT),
            }
        }
        None => {
            if rest.split_once('@').is_some_and(|(user, _)| user.contains(':')) {
                return Err(PlaceError::Credentials("a private key in ~/.ssh"));
            }
            let at = rest.find("]:").map_or_else(|| rest.find(':'), |at| Some(at + 1));
            let (login, path) = rest.split_at(at.ok_or_else(|| missing("path"))?);
            (login, &path[1..], SftpConfig::PORT)
        }
    };
    let (user, host) = login.rsplit_once('@').ok_or_else(|| missing("user"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if user.contains(':') {
        return Err(PlaceError::Credentials("a private key in ~/.ssh"));
    }
    if user.is_empty() || host.is_empty() || path.is_empty() {
        return Err(missing(if path.is_empty() { "path" } else { "user or host" }));
    }
    Ok(BackendConfig::Sftp(SftpConfig { host: host.to_owned(), port, user: user.to_owned(), path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings { region: "eu".into(), azure_account: Some("vault".into()), ..Surroundings::default() }
    }

    fn s3(endpoint: &str, bucket: &str, prefix: &str, path_style: bool) -> BackendConfig {
        BackendConfig::S3(S3Config {
            endpoint: endpoint.into(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            region: "eu".into(),
            path_style,
        })
    }

    fn azure(container: &str, prefix: &str) -> BackendConfig {
        BackendConfig::Azure(AzureConfig {
            account: "vault".into(),
            container: container.into(),
            prefix: prefix.into(),
            endpoint: "https://vault.blob.core.windows.net".into(),
        })
    }

    fn gcs(bucket: &str, prefix: &str) -> BackendConfig {
        let endpoint = GcsConfig::ENDPOINT.into();
        BackendConfig::Gcs(GcsConfig { bucket: bucket.into(), prefix: prefix.into(), endpoint })
    }

    fn rest(url: &str) -> BackendConfig {
        BackendConfig::Rest(RestConfig { url: url.into() })
    }

    fn sftp(host: &str, port: u16, path: &str) -> BackendConfig {
        BackendConfig::Sftp(SftpConfig { host: host.into(), port, user: "u".into(), path: path.into() })
    }

    #[test]
    fn places_are_read_as_restic_reads_them() {
        let folder = |path: &str| BackendConfig::Folder { path: path.into() };
        for (text, expected) in [
            ("/srv/backup", folder("/srv/backup")),
            ("backup", folder("backup")),
            ("local:backup", folder("backup")),
            ("s3:http://10.0.0.1:9000/bucket/a/b/", s3("http://10.0.0.1:9000", "bucket", "a/b", true)),
            ("s3:https://minio.example/bucket", s3("https://minio.example", "bucket", "", true)),
            ("s3:s3.amazonaws.com/bucket/x", s3("https://s3.amazonaws.com", "bucket", "x", false)),
            ("s3://s3.eu-west-1.amazonaws.com/bucket", s3("https://s3.eu-west-1.amazonaws.com", "bucket", "", false)),
            ("azure:barrels:/", azure("barrels", "")),
            ("azure:barrels:/year/one", azure("barrels", "year/one")),
            ("gs:barrels:/year", gcs("barrels", "year")),
            ("gs:barrels:year", gcs("barrels", "year")),
            ("rest:http://10.0.0.1:8000/", rest("http://10.0.0.1:8000")),
            ("rest:https://backup.example:8000/u/shop/", rest("https://backup.example:8000/u/shop")),
            ("sftp:u@h:/srv/x", sftp("h", 22, "/srv/x")),
            ("sftp:u@h:x/y", sftp("h", 22, "x/y")),
            ("sftp:u@[::1]:x", sftp("::1", 22, "x")),
            ("sftp://u@h//srv/x", sftp("h", 22, "/srv/x")),
            ("sftp://u@h:2222/x", sftp("h", 2222, "x")),
            ("sftp://u@[::1]:2222//x", sftp("::1", 2222, "/x")),
        ] {
            assert_eq!(parse_place(text, &surroundings()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn clouds_of_their_own_are_found_by_the_environment() {
        let surroundings = Surroundings {
            azure_suffix: Some("core.chinacloudapi.cn".into()),
            gcs_emulator: Some("127.0.0.1:4443".into()),
            ..surroundings()
        };
        let url = |place| parse_place(place, &surroundings).unwrap().url().unwrap().to_owned();
        assert_eq!(url("azure:barrels:/"), "https://vault.blob.core.chinacloudapi.cn");
        assert_eq!(url("gs:barrels:/"), "http://127.0.0.1:4443");
    }

    #[test]
    fn wrong_places_are_refused_with_the_right_form() {
        let parse = |text: &str| parse_place(text, &surroundings()).unwrap_err().to_string();
        assert_eq!(parse_place("b2:x", &surroundings()), Err(PlaceError::UnknownBackend("b2".into())));
        for text in ["s3:", "s3:host", "s3:https://host/", "s3:https:///bucket"] {
            assert!(parse(text).contains(S3_FORM), "{text}");
        }
        for (text, form) in [
            ("azure:", AZURE_FORM),
            ("azure:/x", AZURE_FORM),
            ("gs:", GCS_FORM),
            ("rest:", REST_FORM),
            ("rest:ftp://host/", REST_FORM),
            ("rest:http:///x", REST_FORM),
            ("sftp:", SFTP_FORM),
            ("sftp:host:/x", SFTP_FORM),
            ("sftp:u@h", SFTP_FORM),
            ("sftp:u@h:", SFTP_FORM),
            ("sftp://u@h", SFTP_FORM),
            ("sftp://u@h:port/x", SFTP_FORM),
        ] {
            assert!(parse(text).contains(form), "{text}: {}", parse(text));
        }
        assert_eq!(parse_place("azure:barrels:/", &Surroundings::default()), Err(PlaceError::NoAccount));
    }

    #[test]
    fn place_that_holds_a_password_is_refused_without_showing_it() {
        for text in
            ["s3:https://k:hush@host/bucket", "rest:https://u:hush@host/x", "sftp:u:hush@h:/x", "sftp://u:hush@h//x"]
        {
            let error = parse_place(text, &surroundings()).unwrap_err();
            assert!(matches!(error, PlaceError::Credentials(_)) && !error.to_string().contains("hush"), "{error}");
        }
    }
}

//! The location of a repository in restic's notation: a path, or a URL of one of its backends. Pure: text in, backend
//! out.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf};

use percent_encoding::percent_decode_str;

use crate::model::{
    AzureConfig, BackendConfig, Credential, GcsConfig, RestConfig, S3Config, Secret, SftpConfig, is_amazon,
};

/// A repository location that cannot be parsed, and the correct form.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LocationError {
    /// A scheme that restic supports and Stowaway does not, or that neither supports.
    #[error(
        "the backend {0:?} is not supported; use a path, or one of s3:, azure:, gs:, rest: and sftp: (local:PATH for a folder \
         whose name contains a colon)"
    )]
    UnknownBackend(String),
    /// A part is missing or invalid.
    #[error("the repository's location has no valid {missing}; write {form}")]
    Incomplete {
        /// The missing part.
        missing: &'static str,
        /// The correct form of a location.
        form: &'static str,
    },
    /// The environment does not name the storage account.
    #[error("the storage account is missing; give it by AZURE_ACCOUNT_NAME")]
    NoAccount,
    /// A password in the location, which process lists and logs would show.
    #[error("the repository's location contains credentials; give them by {0} instead")]
    Credentials(&'static str),
    /// The path leads out of the bucket.
    #[error("the repository's path leads out of the bucket by `..`; write {0}")]
    Outside(&'static str),
    /// restic stores objects under a name that begins with a slash, which is a different object for Amazon.
    #[error(
        "restic keeps the second slash after the bucket in the names of objects, and Stowaway cannot; move the objects to \
         a path without it, or write {S3_FORM}"
    )]
    LeadingSlash,
    /// SSH servers do not expand `~`; a shell does.
    #[error(
        "the path begins with `~`, which SSH servers take for a name; a path without a slash begins in the home \
         directory"
    )]
    Tilde,
}

/// restic's environment variables that belong to the location of a repository.
#[derive(Clone, Debug, Default)]
pub struct ResticEnv {
    /// Region for signing S3 requests. Default: the region of the endpoint.
    pub region: Option<String>,
    /// Name of the Azure storage account.
    pub azure_account: Option<String>,
    /// The part after `<account>.blob.` in the host name of Azure's server.
    pub azure_suffix: Option<String>,
    /// Base URL of a server to use instead of Google's, or its host and port.
    pub gcs_emulator: Option<String>,
    /// Name of the local user, which `ssh` uses if the location names no user.
    pub user: Option<String>,
}

const S3_FORM: &str = "s3:https://HOST/BUCKET[/PREFIX] or s3:HOST/BUCKET[/PREFIX]";
const AZURE_FORM: &str = "azure:CONTAINER:/[PREFIX]";
const GCS_FORM: &str = "gs:BUCKET:/[PREFIX]";
const REST_FORM: &str = "rest:https://[USER:PASSWORD@]HOST[:PORT][/PATH]";
const SFTP_FORM: &str = "sftp:[USER@]HOST:PATH or sftp://[USER@]HOST[:PORT]//PATH";

/// Parses a location in restic's notation (its manual, "Preparing a new repository").
///
/// Credentials in the URL of a REST server are not part of the result; see [`credentials_in`].
pub fn parse_location(text: &str, env: &ResticEnv) -> Result<BackendConfig, LocationError> {
    match text.split_once(':') {
        Some(("s3", rest)) => parse_s3(rest, env.region.as_deref()),
        Some(("azure", rest)) => {
            let (container, prefix) = bucket(rest, "container", AZURE_FORM)?;
            let account = env.azure_account.clone().ok_or(LocationError::NoAccount)?;
            let endpoint = AzureConfig::endpoint_of(&account, env.azure_suffix.as_deref());
            Ok(BackendConfig::Azure(AzureConfig { account, container, prefix, endpoint }))
        }
        Some(("gs", rest)) => {
            let (bucket, prefix) = bucket(rest, "bucket", GCS_FORM)?;
            let endpoint = match &env.gcs_emulator {
                None => GcsConfig::ENDPOINT.to_owned(),
                Some(server) if server.contains("://") => server.trim_end_matches('/').to_owned(),
                Some(server) => format!("http://{server}"),
            };
            Ok(BackendConfig::Gcs(GcsConfig { bucket, prefix, endpoint }))
        }
        Some(("rest", rest)) => parse_rest(rest),
        Some(("sftp", rest)) => parse_sftp(rest, env.user.as_deref()),
        Some(("local", path)) => Ok(folder(path)),
        // A colon after a slash is part of a file name.
        Some((scheme, _)) if !scheme.is_empty() && !scheme.contains('/') => {
            Err(LocationError::UnknownBackend(scheme.to_owned()))
        }
        _ => Ok(folder(text)),
    }
}

/// User and password in the URL of a REST server. They take precedence over those in the environment, as in restic.
pub fn credentials_in(text: &str) -> BTreeMap<Credential, Secret> {
    let url = text.strip_prefix("rest:").and_then(|url| url.split_once("://"));
    let Some(login) = url.and_then(|(_, rest)| authority(rest).login) else { return BTreeMap::new() };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if user.is_empty() && password.is_empty() {
        return BTreeMap::new();
    }
    let secret = |text: &str| Secret::new(percent_decode_str(text).decode_utf8_lossy().into_owned());
    BTreeMap::from([(Credential::RestUser, secret(user)), (Credential::RestPassword, secret(password))])
}

fn folder(path: &str) -> BackendConfig {
    BackendConfig::Folder { path: PathBuf::from(path).to_string_lossy().into_owned() }
}

/// A bucket and a prefix in it.
fn bucket(rest: &str, missing: &'static str, form: &'static str) -> Result<(String, String), LocationError> {
    let (bucket, prefix) = rest.split_once(':').unwrap_or((rest, ""));
    if bucket.is_empty() || bucket.contains('/') {
        return Err(LocationError::Incomplete { missing, form });
    }
    Ok((bucket.to_owned(), prefix_of(prefix, form)?))
}

fn parse_s3(rest: &str, region: Option<&str>) -> Result<BackendConfig, LocationError> {
    let no_bucket = || LocationError::Incomplete { missing: "bucket", form: S3_FORM };
    let (scheme, rest, is_url) = match rest.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest, true),
        Some(_) => return Err(no_bucket()),
        None => ("https", rest.strip_prefix("//").unwrap_or(rest), false),
    };
    let Authority { login, host, path } = authority(rest);
    if login.is_some() || !has_valid_port(host) && rest.contains('@') {
        return Err(LocationError::Credentials("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }
    // Like restic, decode only a URL.
    let path = if is_url { decoded(path) } else { path.to_owned() };
    let (bucket, prefix) = path.split_once('/').unwrap_or((path.as_str(), ""));
    if host.is_empty() || bucket.is_empty() || !has_valid_port(host) {
        return Err(no_bucket());
    }
    let endpoint = format!("{scheme}://{host}");
    if prefix.starts_with('/') && is_amazon(&endpoint) {
        return Err(LocationError::LeadingSlash);
    }
    Ok(BackendConfig::S3(S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix_of(prefix, S3_FORM)?,
        region: S3Config::region_for(region, &endpoint),
        path_style: !S3Config::is_virtual_hosted(&endpoint, bucket),
        endpoint,
    }))
}

fn parse_rest(url: &str) -> Result<BackendConfig, LocationError> {
    let no_host = || LocationError::Incomplete { missing: "server", form: REST_FORM };
    let (scheme, rest) = url.split_once("://").ok_or_else(no_host)?;
    if scheme == "http+unix" {
        return Err(LocationError::UnknownBackend("rest:http+unix".to_owned()));
    }
    let Authority { login: _, host, path } = authority(rest);
    if !has_valid_port(host) && rest.contains('@') {
        return Err(LocationError::Credentials("RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD"));
    }
    if !["http", "https"].contains(&scheme) || host.is_empty() || !has_valid_port(host) {
        return Err(no_host());
    }
    let url = format!("{scheme}://{host}/{path}");
    Ok(BackendConfig::Rest(RestConfig { url: url.trim_end_matches('/').to_owned() }))
}

/// Parses `user@host:path`, or a URL with a port. In a URL the path begins after the slash that ends the host.
fn parse_sftp(rest: &str, local_user: Option<&str>) -> Result<BackendConfig, LocationError> {
    let missing = |missing| LocationError::Incomplete { missing, form: SFTP_FORM };
    let credentials = || LocationError::Credentials("a private key in ~/.ssh");
    let (login, host, path, port) = if let Some(url) = rest.strip_prefix("//") {
        let Authority { login, host, path } = authority(url);
        let (host, port) = match split_port(host) {
            Some((host, "")) => (host, SftpConfig::PORT),
            Some((host, port)) => (host, port.parse().map_err(|_| missing("port"))?),
            None => return Err(missing("host")),
        };
        (login.map(decoded), host, decoded(path), port)
    } else {
        let at = rest.find("]:").map_or_else(|| rest.find(':'), |at| Some(at + 1));
        let (login, path) = rest.split_at(at.ok_or_else(|| missing("path"))?);
        let path = &path[1..];
        let (login, host) = login.rsplit_once('@').map_or((None, login), |(login, host)| (Some(login), host));
        // `user:password@host:path`, which restic takes for a host `user`.
        let first = path.split('/').next().unwrap_or_default();
        if login.is_none() && first.split_once('@').is_some_and(|(_, rest)| rest.contains(':')) {
            return Err(credentials());
        }
        (login.map(str::to_owned), host, path.to_owned(), SftpConfig::PORT)
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if login.as_ref().is_some_and(|login| login.contains(':')) {
        return Err(credentials());
    }
    let user = login.or_else(|| local_user.map(str::to_owned)).filter(|user| !user.is_empty());
    let path = clean(&path);
    if path.is_empty() {
        return Err(missing("path"));
    }
    if path.starts_with('~') {
        return Err(LocationError::Tilde);
    }
    if host.is_empty() {
        return Err(missing("host"));
    }
    let user = user.ok_or_else(|| missing("user"))?;
    Ok(BackendConfig::Sftp(SftpConfig { host: host.to_owned(), port, user, path }))
}

/// The parts of a URL after its scheme.
struct Authority<'a> {
    /// `user` or `user:password`.
    login: Option<&'a str>,
    /// Host, with the port.
    host: &'a str,
    /// Path, without the slash that ends the host.
    path: &'a str,
}

fn authority(rest: &str) -> Authority<'_> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = authority.rsplit_once('@').map_or((None, authority), |(login, host)| (Some(login), host));
    Authority { login, host, path }
}

/// Splits host and port. The port is empty if there is none; an IPv6 address is in brackets.
fn split_port(host: &str) -> Option<(&str, &str)> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (host, port) = host.split_at(end);
    if port.is_empty() { Some((host, "")) } else { Some((host, port.strip_prefix(':')?)) }
}

fn has_valid_port(host: &str) -> bool {
    split_port(host).is_some_and(|(_, port)| port.is_empty() || port.parse::<u16>().is_ok())
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Cleans a path within a bucket. An error if the path leaves the bucket.
fn prefix_of(path: &str, form: &'static str) -> Result<String, LocationError> {
    let prefix = clean(path).trim_start_matches('/').to_owned();
    if prefix == ".." || prefix.starts_with("../") { Err(LocationError::Outside(form)) } else { Ok(prefix) }
}

/// The shortest form of a path, like Go's `path.Clean`, except that an empty path stays empty.
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    format!("{}{}", if is_absolute { "/" } else { "" }, parts.join("/"))
}

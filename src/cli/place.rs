//! Where a repository is, as restic writes it: a path, or `s3:URL`. Pure: text in, backend out.

use std::path::PathBuf;

use crate::model::{BackendConfig, S3Config};

/// A repository's place that could not be read, and what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PlaceError {
    /// A scheme that restic knows and Stowaway does not yet.
    #[error("the backend {0:?} is not supported yet; use a path, or s3:https://HOST/BUCKET[/PREFIX]")]
    UnknownBackend(String),
    /// `s3:` without host or bucket.
    #[error("{0:?} names no bucket; write s3:https://HOST/BUCKET[/PREFIX] or s3:HOST/BUCKET[/PREFIX]")]
    NoBucket(String),
    /// A password in the place: it would be seen in process lists and logs.
    #[error(
        "the repository's place holds credentials; give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
    )]
    Credentials,
}

/// Reads a place in restic's notation (its manual, "Preparing a new repository"). `region` goes into S3 signatures.
///
/// Path-style requests are made to every endpoint but Amazon's own, as restic's `auto` bucket lookup does.
pub fn parse_place(text: &str, region: &str) -> Result<BackendConfig, PlaceError> {
    let known_schemes = ["azure", "b2", "gs", "rclone", "rest", "sftp", "swift"];
    match text.split_once(':') {
        Some(("s3", rest)) => parse_s3(text, rest.trim_start_matches("//"), region),
        Some((scheme, _)) if known_schemes.contains(&scheme) => Err(PlaceError::UnknownBackend(scheme.to_owned())),
        Some(("local", path)) => Ok(folder(path)),
        _ => Ok(folder(text)),
    }
}

fn folder(path: &str) -> BackendConfig {
    BackendConfig::Folder { path: PathBuf::from(path).to_string_lossy().into_owned() }
}

fn parse_s3(whole: &str, rest: &str, region: &str) -> Result<BackendConfig, PlaceError> {
    let (scheme, rest) = rest.split_once("://").unwrap_or(("https", rest));
    let (host, path) = rest.split_once('/').ok_or_else(|| PlaceError::NoBucket(whole.to_owned()))?;
    if host.contains('@') {
        return Err(PlaceError::Credentials);
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if host.is_empty() || bucket.is_empty() {
        return Err(PlaceError::NoBucket(whole.to_owned()));
    }
    Ok(BackendConfig::S3(S3Config {
        endpoint: format!("{scheme}://{host}"),
        bucket: bucket.to_owned(),
        prefix: prefix.trim_matches('/').to_owned(),
        region: region.to_owned(),
        path_style: !host.ends_with(".amazonaws.com"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(endpoint: &str, bucket: &str, prefix: &str, path_style: bool) -> BackendConfig {
        BackendConfig::S3(S3Config {
            endpoint: endpoint.into(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            region: "eu".into(),
            path_style,
        })
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
        ] {
            assert_eq!(parse_place(text, "eu"), Ok(expected), "{text}");
        }
    }

    #[test]
    fn wrong_places_are_refused_with_the_right_form() {
        assert_eq!(parse_place("sftp:u@h:/x", "eu"), Err(PlaceError::UnknownBackend("sftp".into())));
        for text in ["s3:", "s3:host", "s3:https://host/", "s3:https:///bucket"] {
            assert_eq!(parse_place(text, "eu"), Err(PlaceError::NoBucket(text.into())), "{text}");
        }
        assert_eq!(parse_place("s3:https://key:secret@host/bucket", "eu"), Err(PlaceError::Credentials));
    }
}

//! The location of an archive on the command line: `pvc:CLAIM[/FOLDER]` or `s3:https://HOST/BUCKET[/PREFIX]`. All other
//! locations need a Restore object.

use std::str::FromStr;

use k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource;

use super::location::{LocationError, ResticEnv, parse_location};
use crate::{
    api::{RestoreArchive, S3Backend, S3Credentials, SecretKeyReference, VolumeBackend},
    model::{ArchiveFormat, BackendConfig},
};

/// Where an archive is written.
#[derive(Clone, Debug, PartialEq)]
pub enum ArchiveLocation {
    /// A directory in a claim of the namespace.
    Claim(VolumeBackend),
    /// A bucket.
    Bucket(S3Backend),
}

/// A location that cannot be parsed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ArchiveLocationError {
    /// An unknown scheme.
    #[error(
        "{0:?} is not a supported archive location: write pvc:CLAIM[/FOLDER] or s3:https://HOST/BUCKET[/PREFIX], or create a Restore for another location"
    )]
    Unknown(String),
    /// An S3 URL that cannot be parsed.
    #[error(transparent)]
    Location(#[from] LocationError),
}

impl FromStr for ArchiveLocation {
    type Err = ArchiveLocationError;

    fn from_str(text: &str) -> Result<Self, ArchiveLocationError> {
        let unknown = || ArchiveLocationError::Unknown(text.to_owned());
        if let Some(rest) = text.strip_prefix("pvc:") {
            let (claim, folder) = rest.split_once('/').unwrap_or((rest, ""));
            if claim.is_empty() {
                return Err(unknown());
            }
            let source = PersistentVolumeClaimVolumeSource { claim_name: claim.to_owned(), read_only: None };
            let volume = VolumeBackend {
                persistent_volume_claim: Some(source),
                nfs: None,
                host_path: None,
                csi: None,
                azure_file: None,
                path: folder.trim_matches('/').to_owned(),
            };
            return Ok(Self::Claim(volume));
        }
        let BackendConfig::S3(config) = parse_location(text, &ResticEnv::default())? else { return Err(unknown()) };
        Ok(Self::Bucket(S3Backend {
            endpoint: config.endpoint,
            bucket: config.bucket,
            prefix: config.prefix,
            // The region comes from the endpoint, or from the store.
            region: None,
            path_style: config.path_style,
            credentials: None,
        }))
    }
}

impl ArchiveLocation {
    /// The location as the field `spec.to.archive` of a Restore. The Secret holds `access-key-id` and
    /// `secret-access-key` of a bucket.
    pub fn archive(&self, format: ArchiveFormat, overwrite: bool, secret: Option<&str>) -> RestoreArchive {
        let archive = RestoreArchive { format, overwrite, ..RestoreArchive::default() };
        match self {
            Self::Claim(volume) => RestoreArchive { volume: Some(volume.clone()), ..archive },
            Self::Bucket(s3) => {
                let key = |name: &str, key: &str| SecretKeyReference { name: name.to_owned(), key: key.to_owned() };
                let credentials = secret.map(|name| S3Credentials {
                    access_key_id_secret_ref: key(name, "access-key-id"),
                    secret_access_key_secret_ref: key(name, "secret-access-key"),
                    session_token_secret_ref: None,
                });
                RestoreArchive { s3: Some(S3Backend { credentials, ..s3.clone() }), ..archive }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn archive(text: &str) -> serde_json::Value {
        let location: ArchiveLocation = text.parse().unwrap();
        serde_json::to_value(location.archive(ArchiveFormat::Tar, true, Some("handover"))).unwrap()
    }

    #[test]
    fn claims_and_buckets_are_locations_of_archives() {
        let claim = json!({ "persistentVolumeClaim": { "claimName": "away" }, "path": "year/may" });
        assert_eq!(archive("pvc:away/year/may/"), json!({ "format": "tar", "overwrite": true, "volume": claim }));
        let bucket = archive("s3:https://s3.example.com/handover/shop");
        let key = |key: &str| json!({ "name": "handover", "key": key });
        assert_eq!(
            bucket["s3"],
            json!({
                "endpoint": "https://s3.example.com", "bucket": "handover", "prefix": "shop", "pathStyle": true,
                "credentials": {
                    "accessKeyIdSecretRef": key("access-key-id"), "secretAccessKeySecretRef": key("secret-access-key"),
                },
            })
        );
    }

    #[test]
    fn other_locations_are_refused() {
        for wrong in ["away", "pvc:", "/srv/away", "azure:away:/", "s3:https://s3.example.com"] {
            assert!(wrong.parse::<ArchiveLocation>().is_err(), "{wrong}");
        }
    }
}

//! The place of a repository or of an archive: one view of both, so that all that places have in common is said once.
//!
//! It must not know how a store is spoken to.

use super::{
    archive::RestoreArchive,
    backends::{AzureBackend, GcsBackend, RestBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
    repository::RepositorySpec,
};
use crate::model::mounts;

/// What is kept at a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keeps {
    /// A repository.
    Repository,
    /// An archive.
    Archive,
}

impl Keeps {
    /// Where a run finds its volume, if it is on one.
    pub fn volume_folder(self) -> &'static str {
        match self {
            Self::Repository => mounts::REPOSITORY_FOLDER,
            Self::Archive => mounts::ARCHIVE_FOLDER,
        }
    }

    /// Where a run finds its credentials.
    pub fn credentials_folder(self) -> &'static str {
        match self {
            Self::Repository => mounts::CREDENTIALS_FOLDER,
            Self::Archive => mounts::ARCHIVE_CREDENTIALS_FOLDER,
        }
    }
}

/// The fields of a spec that say where something is kept.
#[derive(Clone, Copy, Debug)]
pub struct StorePlace<'a> {
    /// What is kept there.
    pub keeps: Keeps,
    /// A bucket of an S3 service.
    pub s3: Option<&'a S3Backend>,
    /// A container of Azure Blob Storage.
    pub azure: Option<&'a AzureBackend>,
    /// A bucket of Google Cloud Storage.
    pub gcs: Option<&'a GcsBackend>,
    /// A server of restic's REST protocol.
    pub rest: Option<&'a RestBackend>,
    /// A folder of an SSH server.
    pub sftp: Option<&'a SftpBackend>,
    /// A folder on a volume.
    pub volume: Option<&'a VolumeBackend>,
    /// Whom to trust.
    pub tls: Option<&'a Tls>,
    /// How much of the network may be used.
    pub limits: Option<&'a RepositoryLimits>,
}

impl<'a> From<&'a RepositorySpec> for StorePlace<'a> {
    fn from(spec: &'a RepositorySpec) -> Self {
        Self {
            keeps: Keeps::Repository,
            s3: spec.s3.as_ref(),
            azure: spec.azure.as_ref(),
            gcs: spec.gcs.as_ref(),
            rest: spec.rest.as_ref(),
            sftp: spec.sftp.as_ref(),
            volume: spec.volume.as_ref(),
            tls: spec.tls.as_ref(),
            limits: spec.limits.as_ref(),
        }
    }
}

impl<'a> From<&'a RestoreArchive> for StorePlace<'a> {
    fn from(to: &'a RestoreArchive) -> Self {
        Self {
            keeps: Keeps::Archive,
            s3: to.s3.as_ref(),
            azure: to.azure.as_ref(),
            gcs: to.gcs.as_ref(),
            rest: None,
            sftp: to.sftp.as_ref(),
            volume: to.volume.as_ref(),
            tls: to.tls.as_ref(),
            limits: to.limits.as_ref(),
        }
    }
}

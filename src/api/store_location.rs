//! The location of a repository or of an archive: one view of both specs, so that code for stores exists only once.

use super::{
    archive::RestoreArchive,
    backends::{AzureBackend, GcsBackend, RestBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
    repository::RepositorySpec,
};
use crate::model::mounts;

/// The purpose of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StorePurpose {
    Repository,
    Archive,
}

impl StorePurpose {
    /// Mount path of the store's volume in a run, if the store is on a volume.
    pub fn volume_folder(self) -> &'static str {
        match self {
            Self::Repository => mounts::REPOSITORY_FOLDER,
            Self::Archive => mounts::ARCHIVE_FOLDER,
        }
    }

    /// Mount path of the store's credentials in a run.
    pub fn credentials_folder(self) -> &'static str {
        match self {
            Self::Repository => mounts::CREDENTIALS_FOLDER,
            Self::Archive => mounts::ARCHIVE_CREDENTIALS_FOLDER,
        }
    }
}

/// The fields of a spec that locate a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLocation<'a> {
    pub purpose: StorePurpose,
    pub s3: Option<&'a S3Backend>,
    pub azure: Option<&'a AzureBackend>,
    pub gcs: Option<&'a GcsBackend>,
    pub rest: Option<&'a RestBackend>,
    pub sftp: Option<&'a SftpBackend>,
    pub volume: Option<&'a VolumeBackend>,
    pub tls: Option<&'a Tls>,
    pub limits: Option<&'a RepositoryLimits>,
}

impl<'a> From<&'a RepositorySpec> for StoreLocation<'a> {
    fn from(spec: &'a RepositorySpec) -> Self {
        Self {
            purpose: StorePurpose::Repository,
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

impl<'a> From<&'a RestoreArchive> for StoreLocation<'a> {
    fn from(to: &'a RestoreArchive) -> Self {
        Self {
            purpose: StorePurpose::Archive,
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

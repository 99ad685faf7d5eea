//! `spec.to.archive` of a Restore: the store that an archive of a snapshot is written to, and the archive's format. The
//! stores are those of a Repository, see [`super::backends`], without restic's REST server.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{
    backends::{AzureBackend, GcsBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
};
use crate::model::ArchiveFormat;

/// The store and the format of an archive. Exactly one store must be set.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.azure), has(self.gcs), has(self.sftp), has(self.volume)].filter(present, present).size() == 1")
    .message("set exactly one store: s3, azure, gcs, sftp or volume (a restic REST server accepts only files of a repository)"))]
#[x_kube(validation = Rule::new("!has(self.tls) || !(has(self.sftp) || has(self.volume))")
    .message("tls is only for stores which are accessed over HTTPS: s3, azure and gcs"))]
pub struct RestoreArchive {
    /// A tar archive, plain or compressed.
    #[serde(default)]
    pub format: ArchiveFormat,
    /// Name of the object or file within the store, for example `shop/data.tar.zst`. When absent, the name contains the
    /// source, the time and the id of the snapshot, and `status.archive` reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"))]
    pub name: Option<String>,
    /// Replace an existing object or file of that name. When false, the Restore fails if there is one, and nothing is
    /// written.
    #[serde(default)]
    pub overwrite: bool,
    /// A bucket of an S3 service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Backend>,
    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureBackend>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsBackend>,
    /// A directory on an SSH server that offers SFTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<SftpBackend>,
    /// A directory on a volume, which the Job mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBackend>,
    /// Certificate authorities and client certificate for stores which are accessed over HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Limits of the network traffic for the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RepositoryLimits>,
}

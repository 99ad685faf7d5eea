//! `spec.to.archive` of a Restore: the place that an archive of a snapshot is made at, and as what.
//!
//! It must not know how that is carried out. The places are those of a Repository; see [`super::backends`].

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{
    backends::{AzureBackend, GcsBackend, S3Backend, SftpBackend, VolumeBackend},
    connection::{RepositoryLimits, Tls},
};
use crate::model::ArchiveFormat;

/// Where to, and as what. Exactly one place.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.azure), has(self.gcs), has(self.sftp), has(self.volume)].filter(present, present).size() == 1")
    .message("exactly one place is wanted: s3, azure, gcs, sftp or volume (a restic REST server takes only files of repositories)"))]
#[x_kube(validation = Rule::new("!has(self.tls) || !(has(self.sftp) || has(self.volume))")
    .message("tls is for stores that are spoken to by HTTPS: s3, azure and gcs"))]
pub struct RestoreArchive {
    /// A tar, plain or compressed.
    #[serde(default)]
    pub format: ArchiveFormat,
    /// Name of the object or file below the place, for example `shop/data.tar.zst`; when absent, one that says source,
    /// time and id of the snapshot. `status.archive` tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"))]
    pub name: Option<String>,
    /// Replace what is there under that name. Otherwise the Restore fails, and nothing is written.
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
    /// A folder of an SSH server that offers SFTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sftp: Option<SftpBackend>,
    /// A folder on a volume, which the Job mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeBackend>,
    /// Whom to trust, and who we are, where the store is spoken to by HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How much of the network the run may use for the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RepositoryLimits>,
}

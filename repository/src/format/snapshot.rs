//! Snapshot files. Source: restic's design document, section "Snapshots", and `internal/data/snapshot.go` of restic.
//! The summary also has the fields which rustic adds to restic's.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Id, TreeId, time};

/// A snapshot.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SnapshotFile {
    /// The id of the snapshot file, which the reader sets. It is not a part of the file.
    #[serde(skip)]
    pub id: Id,
    #[serde(serialize_with = "time::utc")]
    pub time: Timestamp,
    /// The program which made the snapshot, and its version, separated by a space.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// The snapshot with which the folder was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    pub tree: TreeId,
    pub paths: BTreeSet<String>,
    /// The exclude patterns of the backup. They are written only for the users of restic, so they are not read.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The statistics of the backup; restic writes them since 0.17.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SnapshotSummary>,
}

/// The statistics of a backup. Lengths are in bytes; a length which is "packed" is that of the compressed and encrypted
/// data. Fields which a program did not write are 0.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct SnapshotSummary {
    /// Entries other than folders, by their comparison with the parent snapshot.
    pub files_new: u64,
    pub files_changed: u64,
    pub files_unmodified: u64,
    pub total_files_processed: u64,
    /// Bytes of all files.
    pub total_bytes_processed: u64,
    pub dirs_new: u64,
    pub dirs_changed: u64,
    pub dirs_unmodified: u64,
    pub total_dirs_processed: u64,
    /// Bytes of all trees.
    pub total_dirsize_processed: u64,
    /// Blobs that the backup added to the repository, and their lengths.
    pub data_blobs: u64,
    pub tree_blobs: u64,
    pub data_added: u64,
    pub data_added_packed: u64,
    pub data_added_files: u64,
    pub data_added_files_packed: u64,
    pub data_added_trees: u64,
    pub data_added_trees_packed: u64,
    /// The command line of rustic. Stowaway leaves it empty.
    pub command: String,
    #[serde(serialize_with = "time::utc")]
    pub backup_start: Timestamp,
    #[serde(serialize_with = "time::utc")]
    pub backup_end: Timestamp,
    /// Seconds.
    pub backup_duration: f64,
    pub total_duration: f64,
}

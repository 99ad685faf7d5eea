//! The results of storing and restoring a folder.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::owner::MetadataTarget;
use crate::{
    Lacking, RepositoryError,
    format::{Metadata, NodeType},
};
use stowaway_model::{Shrinkage, VolumeExtent};

/// How many paths a list names; all paths are counted.
pub const LISTED: usize = 20;

/// Paths with a problem. All are counted; the first [`LISTED`] are named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Troubles {
    pub count: u64,
    pub first: Vec<Trouble>,
}

/// A path and its problem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// Relative to the folder, in the form of [`escape_name`](stowaway_model::escape_name).
    pub path: String,
    /// The action which failed, and its error.
    pub reason: String,
}

/// A stored folder. Its snapshot is visible, and the snapshot file was read back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoredFolder {
    /// The snapshot's id, 64 hex digits.
    pub snapshot: String,
    /// Entries other than folders.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes which the run added to the store.
    pub added_bytes: u64,
    /// Entries which could not be read, or not completely. If there are any, the snapshot has the tag
    /// [`INCOMPLETE`](stowaway_model::SnapshotIdentity::INCOMPLETE) and never counts as the newest.
    pub unreadable: Troubles,
    /// Mount points of other file systems, of which nothing is stored. They make the snapshot incomplete, too.
    pub mounts: Troubles,
    /// Files whose content is stored, but whose attributes could not all be read. If there are any, the snapshot has
    /// the tag [`WITHOUT_ATTRIBUTES`](stowaway_model::SnapshotIdentity::WITHOUT_ATTRIBUTES).
    pub without_attributes: Troubles,
    /// The error with which the listing of attributes failed, if it failed with the same error for all entries of a
    /// class: the file system does not support attributes.
    pub attributes_refused: Option<String>,
    /// Files which changed while they were read. The stored content of each may mix old and new data.
    pub changed: Troubles,
    /// Folders which changed between their listing and the end of the walk through them. An entry which was created in, or
    /// moved into, such a folder meanwhile may be missing from the snapshot.
    pub changed_folders: Troubles,
    /// Entries which were deleted between the listing of their folder and the moment they were read, as happens in a
    /// folder in use.
    pub vanished: u64,
    /// The folders among them. Everything in such a folder is missing from the snapshot, too.
    pub vanished_folders: Troubles,
    /// Entries of the storage system in the root of the volume, which are not stored.
    pub passed_over: Troubles,
    /// Entries which [`FolderRules::excludes`](super::FolderRules::excludes) matches. A folder counts once, together with
    /// its content.
    pub left_out: u64,
    /// Packs and index files of earlier runs which were already missing or damaged when the run began.
    pub lacking: Lacking,
    /// How the folder lost its content since its last good snapshot, if it did. The snapshot then has the tag
    /// [`SHRUNKEN`](stowaway_model::SnapshotIdentity::SHRUNKEN). Unless the loss is accepted, it also has
    /// [`SUSPECT`](stowaway_model::SnapshotIdentity::SUSPECT) and never counts as the newest.
    pub shrunken: Option<Shrunken>,
    /// How the folder lost its content in several backups of the last week, each of which lost too little to be
    /// suspicious. The snapshot stays good.
    pub declined: Option<Shrunken>,
}

/// How a folder compares with the last good snapshot of its source, if it shrank suspiciously.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shrunken {
    pub kind: Shrinkage,
    /// The folder's extent now.
    pub now: VolumeExtent,
    /// The extent of the good snapshot with which the folder is compared.
    pub before: VolumeExtent,
    /// Id of that snapshot, 64 hex digits.
    pub last_good: String,
    pub last_good_time: Timestamp,
    /// Whether [`FolderRules::accept_shrunken`](super::FolderRules::accept_shrunken) accepts the loss.
    pub is_accepted: bool,
}

/// A folder which was restored, verified byte by byte, and flushed to disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RestoredFolder {
    /// Entries other than folders.
    pub files: u64,
    /// Bytes of all files. A file with several names counts once.
    pub bytes: u64,
    /// Owners, modes, attributes, links, pipes, sockets and devices which could not be restored, because the process
    /// lacks the right or the file system the support. Contents are always complete.
    pub not_kept: Troubles,
    /// The part of `not_kept` which an app may depend on. Not counted are the metadata of the restored folder itself,
    /// sockets, times, hard links which became copies, and `security.*` and `system.*` attributes other than access
    /// lists.
    /// Owners do not count if all entries had the same owner and the process, which then owns all of them, is not root.
    pub essential: Troubles,
    /// How many entries have a time which is rounded by less than 2 s, because the file system cannot store a finer
    /// one.
    pub rounded_times: u64,
    /// The restored paths below the folder, if not all were restored.
    pub only: Vec<PathBuf>,
    /// The metadata of the folder itself, if all of it was restored.
    pub own: Option<FolderMetadata>,
}

/// Owner, mode, times and attributes of the folder itself. Serialized as the metadata of a restic tree node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct FolderMetadata(pub(super) Metadata);

impl FolderMetadata {
    /// Applies the metadata to a folder. Returns descriptions of what could not be set for lack of rights.
    pub fn apply_to(&self, folder: &Path) -> Result<Vec<String>, RepositoryError> {
        let failed =
            |(action, source)| RepositoryError::Unwritable { action, path: folder.display().to_string(), source };
        let open = File::open(folder).map_err(|error| failed(("open", error)))?;
        let applied = MetadataTarget::Open(&open).apply(&self.0, &NodeType::Dir).map_err(failed)?;
        Ok(applied.losses.into_iter().map(|loss| loss.what).collect())
    }
}

//! Stores folders (volumes) as snapshots and restores them: names, contents, holes, links, owners, modes, times and
//! attributes. Entries that cannot be read are counted and listed, and make the snapshot `incomplete`. An entry whose
//! content cannot be written fails the restore.

mod archive;
mod backup_stats;
mod extents;
mod file;
mod last_good;
mod linked;
mod listing;
mod metadata;
mod open_folder;
mod opened;
mod owner;
mod parent;
mod refusal;
mod restore;
mod restore_marks;
mod storage;
mod store;
mod tar;
mod tree_reader;
mod walk;
mod write;

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::listing::{Listed, Listing};
pub use self::refusal::{is_refusal, is_refusal_of_attribute};
pub use self::storage::{file_system_of, is_systems_own};
pub use self::tar::TarContent;
pub(super) use self::{last_good::LastGood, metadata::permissions, restore::write_tar};
use super::{
    Lacking, Progress, Repository, RepositoryError,
    format::{Metadata, NodeType},
};
use stowaway_model::{Excludes, Shrinkage, SnapshotIdentity, VolumeExtent, unescape_name};

/// How many paths a list names; all paths are counted.
pub const LISTED: usize = 20;

/// The default of [`FolderRules::settle`].
const SETTLE: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Debug)]
pub struct FolderRules {
    /// The snapshot's time.
    pub time: Timestamp,
    /// The patterns of the entries which are not stored.
    pub excludes: Excludes,
    /// Accept a folder which is empty, or much smaller than the last good snapshot of its source.
    pub accept_shrunken: bool,
    /// A file whose ctime is younger than this is read again by the next run, because the file could have changed once
    /// more without a new ctime: the clock of a file server may be late, and writes to a memory-mapped file within
    /// about half a minute update the ctime only once.
    pub settle: SignedDuration,
}

impl FolderRules {
    /// Rules which store the whole folder.
    pub fn whole(time: Timestamp) -> Self {
        Self { time, excludes: Excludes::default(), accept_shrunken: false, settle: SETTLE }
    }
}

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
    /// [`SnapshotIdentity::INCOMPLETE`] and never counts as the newest.
    pub unreadable: Troubles,
    /// Mount points of other file systems, of which nothing is stored. They make the snapshot incomplete, too.
    pub mounts: Troubles,
    /// Files whose content is stored, but whose attributes could not all be read. If there are any, the snapshot has
    /// the tag [`SnapshotIdentity::WITHOUT_ATTRIBUTES`].
    pub without_attributes: Troubles,
    /// The error with which the listing of attributes failed, if it failed with the same error for all entries of a
    /// class: the file system does not support attributes.
    pub attributes_refused: Option<String>,
    /// Files which changed while they were read. The stored content of each may mix old and new data.
    pub changed: Troubles,
    /// Entries which were deleted between the listing of their folder and the moment they were read, as happens in a
    /// folder in use.
    pub vanished: u64,
    /// The folders among them. Everything in such a folder is missing from the snapshot, too.
    pub vanished_folders: Troubles,
    /// Entries of the storage system in the root of the volume, which are not stored.
    pub passed_over: Troubles,
    /// Entries which [`FolderRules::excludes`] matches. A folder counts once, together with its content.
    pub left_out: u64,
    /// Packs and index files of earlier runs which were already missing or damaged when the run began.
    pub lacking: Lacking,
    /// How the folder lost its content since its last good snapshot, if it did. The snapshot then has the tag
    /// [`SnapshotIdentity::SHRUNKEN`]. Unless the loss is accepted, it also has [`SnapshotIdentity::SUSPECT`] and never
    /// counts as the newest.
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
    /// Whether [`FolderRules::accept_shrunken`] accepts the loss.
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
pub struct FolderMetadata(Metadata);

impl FolderMetadata {
    /// Applies the metadata to a folder. Returns descriptions of what could not be set for lack of rights.
    pub fn apply_to(&self, folder: &Path) -> Result<Vec<String>, RepositoryError> {
        let failed =
            |(action, source)| RepositoryError::Unwritable { action, path: folder.display().to_string(), source };
        let open = File::open(folder).map_err(|error| failed(("open", error)))?;
        let applied = owner::MetadataTarget::Open(&open).apply(&self.0, &NodeType::Dir).map_err(failed)?;
        Ok(applied.losses.into_iter().map(|loss| loss.what).collect())
    }
}

impl Repository {
    /// Stores a folder as a new snapshot with the path `identity.path` and the identity's tags. Files which have not
    /// changed since the newest snapshot of the same host and path are not read again. The snapshot becomes visible
    /// only after all its data is in the store.
    ///
    /// Other file systems which are mounted in the folder are not stored. Entries of the storage system
    /// ([`StorageEntry`](stowaway_model::StorageEntry)) and of a restore
    /// ([`RESTORE_MARKS`](stowaway_model::injected::RESTORE_MARKS)) in the root of the folder are left out, and so are
    /// entries at any depth which the excludes of `rules` match.
    ///
    /// Errors: [`RepositoryError::RestoreUnfinished`] when a restore into the folder has not ended, unless this is a
    /// safety copy; [`RepositoryError::Unreadable`] when the folder itself cannot be read;
    /// [`RepositoryError::AllExcluded`] when `rules` exclude all its files; [`RepositoryError::CommitUnknown`] when
    /// the snapshot may be visible in spite of the error. After all other errors no snapshot is visible.
    pub async fn store_folder(
        &self,
        identity: &SnapshotIdentity,
        rules: &FolderRules,
        folder: &Path,
        progress: Arc<Progress>,
    ) -> Result<StoredFolder, RepositoryError> {
        self.with_lock(|run| async move { store::store_folder(self, &run, identity, rules, folder, progress).await })
            .await
    }

    /// Restores the folder at `path` of a snapshot into `target`, which must exist and be empty. `snapshot` is a full
    /// id, see [`Repository::find`]. The target itself gets the owner, mode, times and attributes of the folder, too.
    ///
    /// Errors: [`RepositoryError::FileNotFound`] when the snapshot has no such folder; [`RepositoryError::Unwritable`]
    /// with the path when the target cannot be written; [`RepositoryError::Damaged`] when a blob is not what was
    /// stored. After an error the target may hold a part of the folder.
    pub async fn restore_folder(
        &self,
        snapshot: &str,
        path: &str,
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<RestoredFolder, RepositoryError> {
        self.with_lock(|run| async move {
            let selection = restore::Selection::Folder;
            restore::restore_folder(self, &run, (snapshot, path), selection, target, progress).await
        })
        .await
    }

    /// Restores the folder or file at `path` of a snapshot into `target`, which must exist and be empty: a folder with
    /// its own metadata, a file under its own name. If `only` is not empty, only these paths relative to the folder are
    /// restored, each with its parent folders, and the metadata of the target does not change. Names may be escaped as
    /// by [`escape_name`](stowaway_model::escape_name), or literal.
    ///
    /// Errors: as [`Repository::restore_folder`]. A missing path is reported before anything is written.
    pub async fn restore_some(
        &self,
        (snapshot, path): (&str, &str),
        only: &[String],
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<RestoredFolder, RepositoryError> {
        check_inside(only)?;
        let selection = restore::Selection::Some(only.to_vec());
        self.with_lock(|run| async move {
            restore::restore_folder(self, &run, (snapshot, path), selection, target, progress).await
        })
        .await
    }

    /// Checks that the snapshot contains everything which [`Repository::restore_some`] would restore. Nothing is
    /// written, and no content is read.
    ///
    /// Errors: [`RepositoryError::FileNotFound`] with the first missing path.
    pub async fn check_stored(&self, from: (&str, &str), only: &[String]) -> Result<(), RepositoryError> {
        check_inside(only)?;
        let selection = restore::Selection::Some(only.to_vec());
        self.with_lock(|run| async move { restore::check_stored(self, &run, from, selection).await }).await
    }
}

/// Checks that each path is relative and cannot lead out of the folder.
fn check_inside(paths: &[String]) -> Result<(), RepositoryError> {
    let is_plain = |name: &[u8]| metadata::is_plain(OsStr::from_bytes(name));
    let is_inside =
        |path: &String| path.split('/').all(|name| is_plain(name.as_bytes()) && is_plain(&unescape_name(name)));
    match paths.iter().find(|path| !is_inside(path)) {
        Some(path) => Err(RepositoryError::InvalidRequest(format!(
            "{path:?} is not a path within a snapshot: such a path is relative, without empty components, . or .."
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Folders into and out of snapshots: a volume as it is, names, owners, modes, times, attributes, links and holes.
//!
//! It must not know what a volume is to Kubernetes. What cannot be read is counted and listed, and makes the snapshot
//! `incomplete`; what cannot be written fails a restore.

mod archive;
mod extents;
mod file;
mod last_good;
mod ledger;
mod linked;
mod listing;
mod metadata;
mod opened;
mod owner;
mod parent;
mod refusal;
mod restore;
mod restore_marks;
mod storage;
mod store;
mod tar;
mod unfold;
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
use rustic_core::repofile::{Metadata, NodeType};
use serde::{Deserialize, Serialize};

pub(crate) use self::listing::{Listed, Listing};
pub use self::refusal::{is_refusal, is_refusal_of_attribute};
pub use self::storage::is_systems_own;
pub use self::tar::TarContent;
pub(super) use self::{last_good::LastGood, metadata::permissions, restore::write_tar};
use super::{Lacking, Progress, Repository, RepositoryError};
use crate::model::{Excludes, Shrinkage, SnapshotIdentity, VolumeExtent, unescape_name};

/// How many paths are listed by name; all are counted.
pub const LISTED: usize = 20;

/// The usual [`FolderRules::settle`].
const SETTLE: SignedDuration = SignedDuration::from_mins(5);

/// How a folder is stored.
#[derive(Clone, Debug)]
pub struct FolderRules {
    /// The snapshot's time.
    pub time: Timestamp,
    /// What is left out.
    pub excludes: Excludes,
    /// Whether it may be empty, or much smaller than its last good snapshot.
    pub accept_shrunken: bool,
    /// A file that changed so shortly before it was read is read again by the next run, because it could have changed once
    /// more without a new ctime: the clock of a file server may be behind, and what a program writes into mapped memory
    /// changes the ctime once, for all that it writes in the following half minute.
    pub settle: SignedDuration,
}

impl FolderRules {
    /// All of it.
    pub fn whole(time: Timestamp) -> Self {
        Self { time, excludes: Excludes::default(), accept_shrunken: false, settle: SETTLE }
    }
}

/// Paths that something was wrong with: all are counted, the first [`LISTED`] are named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Troubles {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Trouble>,
}

/// A path, and what was wrong with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// Relative to the folder, in the form of [`escape_name`](crate::model::escape_name).
    pub path: String,
    /// What was tried, and why it failed.
    pub reason: String,
}

/// A folder that is stored, visible, and was read back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoredFolder {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// Entries that are no folders.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that the run added to the store.
    pub added_bytes: u64,
    /// What could not be read. If there is any, the snapshot has the tag [`SnapshotIdentity::INCOMPLETE`], and is never the
    /// newest.
    pub unreadable: Troubles,
    /// Folders at which other file systems are mounted, of which nothing is stored. They make the snapshot incomplete, too.
    pub mounts: Troubles,
    /// Files whose content is stored, and some or all of whose attributes could not be read. If there are any, the snapshot
    /// has the tag [`SnapshotIdentity::WITHOUT_ATTRIBUTES`].
    pub without_attributes: Troubles,
    /// What all entries answered when their attributes were to be listed, if it was the same error for all: the file system
    /// has none.
    pub attributes_refused: Option<String>,
    /// Files that changed while they were read: the content of each may be a mixture.
    pub changed: Troubles,
    /// Entries that were gone when their turn came, as happens in a folder that is in use.
    pub vanished: u64,
    /// Those of them that were folders, with all that was in them.
    pub vanished_folders: Troubles,
    /// Entries which storage systems put into the root of a volume.
    pub passed_over: Troubles,
    /// Entries that [`FolderRules::excludes`] names; a folder counts once, with all that is in it.
    pub left_out: u64,
    /// What the repository lacked when the run began, and earlier runs had stored.
    pub lacking: Lacking,
    /// Whether the folder has lost its content since its last good snapshot. The snapshot then has the tag
    /// [`SnapshotIdentity::SHRUNKEN`]; and without consent [`SnapshotIdentity::SUSPECT`], so that it is never the newest.
    pub shrunken: Option<Shrunken>,
}

/// How a folder compares with the last good snapshot of its source, where that is a reason for doubt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shrunken {
    /// What is gone.
    pub kind: Shrinkage,
    /// What is there.
    pub now: VolumeExtent,
    /// What the last good snapshot holds.
    pub before: VolumeExtent,
    /// Id of that snapshot, 64 hex digits.
    pub last_good: String,
    /// When that snapshot was made.
    pub last_good_time: Timestamp,
    /// Whether [`FolderRules::accept_shrunken`] accepts it.
    pub is_accepted: bool,
}

/// A folder that was restored, every byte of it verified, and is durable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RestoredFolder {
    /// Entries that are no folders.
    pub files: u64,
    /// Bytes of all files, those of a file with several names once.
    pub bytes: u64,
    /// What could not be kept for lack of rights, or of support by the file system: owners, modes, attributes, links, pipes,
    /// sockets, devices. Contents are always whole.
    pub not_kept: Troubles,
    /// Those of them that an app may depend on, but for the folder itself: all but sockets, times, hard links that are copies,
    /// and attributes of the system (`security.*`); and but for owners, if all entries had one and the same, and the process,
    /// which is not root, owns all of them now.
    pub essential: Troubles,
    /// How many entries have a time that is rounded, by less than 2 s, because the file system holds no finer ones.
    pub rounded_times: u64,
    /// The paths below the folder that were restored, if only some were.
    pub only: Vec<PathBuf>,
    /// What the folder itself got, if all of it was restored.
    pub own: Option<FolderMetadata>,
}

/// Owner, mode, times and attributes of a folder itself; as JSON in the form of restic's trees.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct FolderMetadata(Metadata);

impl FolderMetadata {
    /// Gives a folder all of it; what could not be kept for lack of rights is told.
    pub fn apply_to(&self, folder: &Path) -> Result<Vec<String>, RepositoryError> {
        let failed =
            |(action, source)| RepositoryError::Unwritable { action, path: folder.display().to_string(), source };
        let open = File::open(folder).map_err(|error| failed(("open", error)))?;
        let applied = owner::Place::Open(&open).apply(&self.0, &NodeType::Dir).map_err(failed)?;
        Ok(applied.lost.into_iter().map(|lost| lost.what).collect())
    }
}

impl Repository {
    /// Stores a folder as a new snapshot, at the path `identity.path` in it, with the identity's tags. What did not change
    /// since the newest snapshot of the same host and path is not read again. The snapshot becomes visible only after all
    /// that was written is there.
    ///
    /// One file system. Left out are, of the folder itself, what is a storage system's own ([`StorageEntry`](crate::model::StorageEntry))
    /// and the entries of a restore ([`RESTORE_MARKS`](crate::model::injected::RESTORE_MARKS)); and what `rules` name, at any depth.
    ///
    /// Errors: [`RepositoryError::RestoreUnfinished`] when a restore into the folder has not ended, unless a safety copy is made; [`RepositoryError::Unreadable`] when the folder itself cannot be read; [`RepositoryError::InvalidRequest`] when
    /// `rules` leave no file of it; [`RepositoryError::CommitUnknown`] when the snapshot may be visible all the same; in all other cases nothing is.
    pub async fn store_folder(
        &self,
        identity: &SnapshotIdentity,
        rules: &FolderRules,
        folder: &Path,
        progress: Arc<Progress>,
    ) -> Result<StoredFolder, RepositoryError> {
        self.while_locked(|run| async move { store::store_folder(self, &run, identity, rules, folder, progress).await })
            .await
    }

    /// Restores the folder at `path` of a snapshot into `target`, which must be there and empty. `snapshot` is a whole id,
    /// see [`Repository::find`]. The target gets the folder's own owner, mode, times and attributes, too.
    ///
    /// Errors: [`RepositoryError::FileNotFound`] when the snapshot has no such folder;
    /// [`RepositoryError::Unwritable`] with the path when the target cannot be written; [`RepositoryError::Damaged`] when a
    /// part is not what was stored. The target then holds a part of the folder.
    pub async fn restore_folder(
        &self,
        snapshot: &str,
        path: &str,
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<RestoredFolder, RepositoryError> {
        self.while_locked(|run| async move {
            let wanted = restore::Wanted::Folder;
            restore::restore_folder(self, &run, (snapshot, path), wanted, target, progress).await
        })
        .await
    }

    /// Restores what is at `path` of a snapshot into `target`, which must be there and empty: a folder with its own
    /// metadata, or a file under its own name. With `only`, paths relative to that folder, nothing else of it, each in the
    /// folders that it is in, and the target stays as it is. Names are in the form of [`escape_name`](crate::model::escape_name), or as they are.
    ///
    /// Errors: as [`Repository::restore_folder`]. What is not there is told before anything is written.
    pub async fn restore_some(
        &self,
        (snapshot, path): (&str, &str),
        only: &[String],
        target: &Path,
        progress: Arc<Progress>,
    ) -> Result<RestoredFolder, RepositoryError> {
        check_inside(only)?;
        let wanted = restore::Wanted::Some(only.to_vec());
        self.while_locked(|run| async move {
            restore::restore_folder(self, &run, (snapshot, path), wanted, target, progress).await
        })
        .await
    }

    /// Whether all that a call of [`Repository::restore_some`] requests is in the snapshot. Nothing is written, and no content
    /// is read.
    ///
    /// Errors: [`RepositoryError::FileNotFound`] with the first path that is not there.
    pub async fn check_stored(&self, place: (&str, &str), only: &[String]) -> Result<(), RepositoryError> {
        check_inside(only)?;
        let wanted = restore::Wanted::Some(only.to_vec());
        self.while_locked(|run| async move { restore::check_stored(self, &run, place, wanted).await }).await
    }
}

/// Whether each path leads to something below where it begins.
fn check_inside(paths: &[String]) -> Result<(), RepositoryError> {
    let is_plain = |name: &[u8]| metadata::is_plain(OsStr::from_bytes(name));
    let is_inside =
        |path: &String| path.split('/').all(|name| is_plain(name.as_bytes()) && is_plain(&unescape_name(name)));
    match paths.iter().find(|path| !is_inside(path)) {
        Some(path) => Err(RepositoryError::InvalidRequest(format!(
            "{path:?} is no path within a snapshot: it is relative, and has no empty parts, . or .."
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

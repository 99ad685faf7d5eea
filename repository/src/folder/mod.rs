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
mod report;
mod restore;
mod restore_marks;
mod rules;
mod storage;
mod store;
mod tar;
mod tree_reader;
mod walk;
mod write;

use std::{path::Path, sync::Arc};

use self::restore::check_inside;
pub(super) use self::{last_good::LastGood, metadata::permissions, restore::write_tar};
pub use self::{
    listing::{Listed, Listing},
    refusal::{is_refusal, is_refusal_of_attribute},
    report::{FolderMetadata, LISTED, RestoredFolder, Shrunken, StoredFolder, Trouble, Troubles},
    rules::FolderRules,
    storage::{file_system_of, is_systems_own},
    tar::TarContent,
};
use super::{Progress, Repository, RepositoryError};
use stowaway_model::SnapshotIdentity;

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

#[cfg(test)]
mod tests;

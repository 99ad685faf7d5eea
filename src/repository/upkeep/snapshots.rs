//! All snapshots with the trees that they begin with, each file held against its name.
//!
//! It must not know what is done about one that cannot be read.

use rustic_core::Id;

use super::findings::{Finding, Findings};
use crate::repository::{
    Repository, RepositoryError, SnapshotSummary, UnreadableFile, snapshot_files::read_each, store::Store,
};

/// A snapshot that was read.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: Id,
    pub tree: Id,
    pub summary: SnapshotSummary,
}

/// Reads all snapshots, oldest first. Those that cannot be read become findings; what the store does not answer is an error.
pub(super) async fn read(
    repository: &Repository,
    store: &Store,
    findings: &mut Findings,
) -> Result<Vec<Known>, RepositoryError> {
    let mut snapshots = Vec::new();
    read_each(store, &repository.cipher, |read| match read {
        Ok(file) => snapshots.push(Known { id: *file.id, tree: *file.tree, summary: SnapshotSummary::of(&file) }),
        Err(UnreadableFile { path, why }) => findings.add(Finding::Unreadable { file: path, why }),
    })
    .await?;
    snapshots.sort_by_key(|one| (one.summary.time, one.id));
    Ok(snapshots)
}

/// The same where one that cannot be read is an error.
pub(super) async fn read_strictly(repository: &Repository, store: &Store) -> Result<Vec<Known>, RepositoryError> {
    let mut findings = Findings::default();
    let snapshots = read(repository, store, &mut findings).await?;
    if findings.is_empty() {
        return Ok(snapshots);
    }
    Err(store.damaged(format!(
        "{findings}; nothing was forgotten or removed, because nobody knows what these snapshots need: bring the files back \
         from a copy of the repository, or remove them from the store if there is none"
    )))
}

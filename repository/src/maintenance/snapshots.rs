//! Reads all snapshots and their root trees, and verifies that the content of each snapshot file matches its name.

use super::findings::{Finding, Findings};
use crate::{
    Repository, RepositoryError, SnapshotSummary, UnreadableFile, format::Id, snapshots::snapshot_files::read_each,
    store::Store,
};

/// A snapshot and its root tree.
#[derive(Clone, Debug)]
pub(super) struct SnapshotRoot {
    pub id: Id,
    pub tree: Id,
    pub summary: SnapshotSummary,
}

/// Reads all snapshots, oldest first. A snapshot which cannot be read becomes a finding. A failure of the store is an
/// error.
pub(super) async fn read(
    repository: &Repository,
    store: &Store,
    findings: &mut Findings,
) -> Result<Vec<SnapshotRoot>, RepositoryError> {
    let mut snapshots = Vec::new();
    read_each(store, &repository.cipher, |read| match read {
        Ok(file) => {
            snapshots.push(SnapshotRoot { id: file.id, tree: *file.tree, summary: SnapshotSummary::of(&file) });
        }
        Err(UnreadableFile { path, why }) => findings.add(Finding::Unreadable { file: path, why }),
    })
    .await?;
    snapshots.sort_by_key(|one| (one.summary.time, one.id));
    Ok(snapshots)
}

/// Reads all snapshots, oldest first. A snapshot which cannot be read is an error.
pub(super) async fn read_strictly(
    repository: &Repository,
    store: &Store,
) -> Result<Vec<SnapshotRoot>, RepositoryError> {
    let mut findings = Findings::default();
    let snapshots = read(repository, store, &mut findings).await?;
    if findings.is_empty() {
        return Ok(snapshots);
    }
    Err(store.damaged(format!(
        "{findings}; nothing was forgotten or removed, because it is unknown which data these snapshots need; \
         restore the files from a copy of the repository, or remove them from the store if there is no copy"
    )))
}

//! All snapshots with the trees that they begin with, each file held against its name.
//!
//! It must not know what is done about one that cannot be read.

use futures::{StreamExt, stream};
use rustic_core::{Id, repofile::SnapshotFile};

use super::findings::{Finding, Findings};
use crate::repository::{
    Repository, RepositoryError, SnapshotSummary, crypto,
    store::{Kind, Store},
};

/// How many snapshots are read at a time; they are small.
const PARALLEL_READS: usize = 16;

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
    let listed = store.list(Kind::Snapshot).await?;
    let reads = listed.into_iter().map(|(id, _)| async move { (id, store.read(Kind::Snapshot, &id).await) });
    let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
    let mut snapshots = Vec::new();
    while let Some((id, content)) = reads.next().await {
        let known = match content? {
            Some(content) => parse(repository, id, &content),
            None => Err("it is gone since it was listed".to_owned()),
        };
        match known {
            Ok(known) => snapshots.push(known),
            Err(why) => findings.add(Finding::Unreadable { file: Kind::Snapshot.path(&id), why }),
        }
    }
    snapshots.sort_by_key(|one| (one.summary.time, one.id));
    Ok(snapshots)
}

/// The same where one that cannot be read is an error.
pub(super) async fn read_strictly(repository: &Repository, store: &Store) -> Result<Vec<Known>, RepositoryError> {
    let mut findings = Findings::default();
    let snapshots = read(repository, store, &mut findings).await?;
    if findings.is_empty() { Ok(snapshots) } else { Err(store.damaged(findings.to_string())) }
}

fn parse(repository: &Repository, id: Id, content: &[u8]) -> Result<Known, String> {
    if crypto::id_of(content) != id {
        return Err("it is not what was written".to_owned());
    }
    let json = repository.cipher.decrypt_file(content).map_err(|error| error.to_string())?;
    let mut file: SnapshotFile =
        serde_json::from_slice(&json).map_err(|error| format!("it is no snapshot: {error}"))?;
    file.id = id.into();
    Ok(Known { id, tree: *file.tree, summary: SnapshotSummary::of(&file) })
}

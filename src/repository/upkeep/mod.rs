//! Upkeep of a repository: check what is stored, forget snapshots, prune what no snapshot needs any more.
//!
//! The engine (`rustic_core` 0.13) is used for none of it. Its prune counts the blobs of a pack in 16 bits (restic packs
//! more of small files), removes before it has looked whether its lock still holds, and marks packs in index files in a
//! way that restic does not know; its check reads a pack as a whole and says neither what is harmed nor where. It must not
//! know why a snapshot is to go, nor when anything is due.

mod check;
mod findings;
mod forget;
mod index;
mod pack_table;
mod prune;
mod reach;
mod snapshots;
#[cfg(test)]
mod tests;

use futures::{StreamExt, TryStreamExt, stream};
use rustic_core::Id;

use super::{
    Repository, RepositoryError,
    store::{Kind, Store},
};

pub use self::{
    check::CheckReport,
    findings::{Finding, Findings, HarmedSnapshot},
    forget::Forget,
    prune::{PruneReport, PruneRules, RepackReport, Unused, UnusedError},
};

/// How many files are removed between two looks at our lock, and at a time.
const BATCH: usize = 128;
const PARALLEL_REMOVALS: usize = 16;

/// Removes files as long as our lock holds.
async fn remove(repository: &Repository, store: &Store, kind: Kind, files: &[Id]) -> Result<(), RepositoryError> {
    for batch in files.chunks(BATCH) {
        repository.lock.check(store).await?;
        let removals = batch.iter().map(|id| store.remove(kind, id));
        stream::iter(removals).buffer_unordered(PARALLEL_REMOVALS).try_collect::<()>().await?;
    }
    Ok(())
}

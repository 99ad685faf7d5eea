//! Maintenance of a repository: checks what is stored, forgets snapshots, and prunes data which no snapshot needs.

mod check;
mod findings;
mod forget;
mod harmed;
mod index;
mod pack_table;
mod prune;
mod snapshots;
#[cfg(test)]
mod tests;
mod used_blobs;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Repository, RepositoryError,
    format::Id,
    store::{Kind, Store},
};

pub use self::{
    check::CheckReport,
    findings::{Finding, Findings},
    forget::Forget,
    harmed::HarmedSnapshot,
    prune::{PruneReport, PruneRules, RepackReport, Unused, UnusedError},
};

/// How many files are removed before the lock is checked again, and how many are removed in parallel.
const BATCH: usize = 128;
const PARALLEL_REMOVALS: usize = 16;

/// Removes files while the lock is held.
async fn remove(repository: &Repository, store: &Store, kind: Kind, files: &[Id]) -> Result<(), RepositoryError> {
    for batch in files.chunks(BATCH) {
        repository.lock.check(store).await?;
        let removals = batch.iter().map(|id| store.remove(kind, id));
        stream::iter(removals).buffer_unordered(PARALLEL_REMOVALS).try_collect::<()>().await?;
    }
    Ok(())
}

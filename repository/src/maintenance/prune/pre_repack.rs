//! Repacks, before a prune, the packs which the prune would repack. This needs only a shared lock, so other clients can
//! read and write meanwhile, and the exclusive phase of the prune becomes short.
//!
//! Nothing is removed here. Until the prune, each copied blob exists twice. The prune makes a plan of its own: it keeps
//! the better copy, and removes the packs which are not needed any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    PruneReport, PruneRules, make_verified_plan,
    plan::PackAction,
    read_used,
    repack::{self, Repacked},
    replace_index,
};
use crate::{Repository, RepositoryError, maintenance::snapshots, store::Store};

/// The result of repacking before a prune.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepackReport {
    /// Packs whose needed blobs are now in other packs, too, so that the prune can remove them.
    pub packs: u64,
    pub new_packs: u64,
    /// Bytes of the new packs.
    pub new_bytes: u64,
}

impl Repository {
    /// Repacks what [`Repository::prune`] would repack by these rules after the snapshots `forgotten` (ids of 64 hex
    /// digits) were removed. The repository need not be open exclusively. If the store has too little space, nothing is
    /// repacked, because the prune will free space first.
    ///
    /// Errors: [`RepositoryError::Damaged`] as for the prune. The repository is sound after every error.
    pub async fn repack(
        &self,
        forgotten: &BTreeSet<String>,
        rules: &PruneRules,
    ) -> Result<RepackReport, RepositoryError> {
        self.with_lock(|run| async move { repack_before_prune(self, &run, forgotten, rules).await }).await
    }
}

async fn repack_before_prune(
    repository: &Repository,
    store: &Store,
    forgotten: &BTreeSet<String>,
    rules: &PruneRules,
) -> Result<RepackReport, RepositoryError> {
    let mut roots = snapshots::read_strictly(repository, store).await?;
    roots.retain(|snapshot| !forgotten.contains(&snapshot.summary.id));
    let mut contents = read_used(repository, store, &roots).await?;
    let plan = make_verified_plan(repository, store, &mut contents, rules).await?;
    let mut repacked = Repacked::default();
    match repack::repack(repository, store, &contents.index, &plan, &mut repacked).await {
        Err(error @ RepositoryError::StoreFull { .. }) => {
            tracing::warn!("not enough space to repack before the prune, which will free some: {error}");
            // Other clients may already use packs which an index file lists, so those are left to the prune.
            let unnamed = repacked.unnamed.packs.iter().map(|pack| pack.id).collect();
            replace_index::remove_packs(repository, store, unnamed).await?;
            return Ok(RepackReport::default());
        }
        repacking => repacking?,
    }
    repacked.write_index(repository, store).await?;
    Ok(RepackReport {
        packs: plan.actions.iter().filter(|action| **action == PackAction::Repack).count() as u64,
        new_packs: repacked.packs.len() as u64,
        new_bytes: repacked.bytes,
    })
}

impl PruneReport {
    /// Combines the report of a prune with that of the repacking before it, as if the prune had done both.
    #[must_use]
    pub fn after(self, ahead: RepackReport) -> Self {
        Self {
            packs_before: self.packs_before.saturating_sub(ahead.new_packs),
            bytes_before: self.bytes_before.saturating_sub(ahead.new_bytes),
            packs_removed: self.packs_removed.saturating_sub(ahead.packs),
            packs_repacked: self.packs_repacked + ahead.packs,
            ..self
        }
    }
}

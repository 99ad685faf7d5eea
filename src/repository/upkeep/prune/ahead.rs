//! What a prune would pack anew, packed anew before it: beside others that read and write, which the prune itself keeps off.
//!
//! Nothing goes here, and nothing is decided. Until the prune each blob that was copied is there twice; the prune looks at
//! everything anew, takes the better copy, and removes packs of which then nothing is needed. It must not know when that is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    PruneReport, PruneRules, look,
    plan::Fate,
    planned,
    repack::{self, Repacked},
    switch,
};
use crate::repository::{Repository, RepositoryError, store::Store, upkeep::snapshots};

/// What was packed anew ahead of a prune.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepackReport {
    /// Packs whose needed blobs are now in others, too, so that the prune removes them.
    pub packs: u64,
    /// New packs.
    pub new_packs: u64,
    /// Bytes of those.
    pub new_bytes: u64,
}

impl Repository {
    /// Packs anew what [`Repository::prune`] would by these rules, once those snapshots (64 hex digits) are forgotten. The
    /// repository need not be open exclusively. Without room in the store nothing is done, since a prune makes some.
    ///
    /// Errors: [`RepositoryError::Damaged`] as that of the prune. After any error the repository is sound.
    pub async fn repack(&self, going: &BTreeSet<String>, rules: &PruneRules) -> Result<RepackReport, RepositoryError> {
        self.while_locked(|run| async move { repack_ahead(self, &run, going, rules).await }).await
    }
}

async fn repack_ahead(
    repository: &Repository,
    store: &Store,
    going: &BTreeSet<String>,
    rules: &PruneRules,
) -> Result<RepackReport, RepositoryError> {
    let mut known = snapshots::read_strictly(repository, store).await?;
    known.retain(|snapshot| !going.contains(&snapshot.summary.id));
    let (index, used) = look(repository, store, &known).await?;
    let plan = planned(store, &index, &used, rules)?;
    let mut repacked = Repacked::default();
    match repack::repack(repository, store, &index, &plan, &mut repacked).await {
        Err(error @ RepositoryError::StoreFull { .. }) => {
            tracing::warn!("no room to pack anew ({error}): the prune will make some");
            // What an index file names already may be relied on by others, and is left to the prune.
            let unnamed = repacked.unnamed.packs.iter().map(|pack| pack.id).collect();
            switch::remove_packs(repository, store, unnamed).await?;
            return Ok(RepackReport::default());
        }
        repacking => repacking?,
    }
    repacked.name(repository, store).await?;
    Ok(RepackReport {
        packs: plan.fates.iter().filter(|fate| **fate == Fate::Repack).count() as u64,
        new_packs: repacked.packs.len() as u64,
        new_bytes: repacked.bytes,
    })
}

impl PruneReport {
    /// Of both as one: as if the prune had packed anew what was packed anew ahead of it.
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

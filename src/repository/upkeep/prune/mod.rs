//! Prune: packs that no snapshot needs go, and those that are needed in part are packed anew.
//!
//! Killed at any point it leaves a sound repository: new packs, then indexes that name them and all that stays, then a look
//! at each of them; only then old indexes go, and last the packs that no index names any more. It must not know when a
//! prune is due.

mod ahead;
mod plan;
mod repack;
mod rules;
mod switch;

use serde::{Deserialize, Serialize};

pub use self::{
    ahead::RepackReport,
    rules::{PruneRules, Unused, UnusedError},
};
use self::{
    plan::{Fate, Plan, PlanError},
    repack::Repacked,
};
use super::{
    findings::Findings,
    index::Index,
    reach::{Lost, Reach},
    snapshots::{self, Known},
};
use crate::repository::{Repository, RepositoryError, blob_table::Marks, part::Fetcher, store::Store};

/// With no snapshot at all, packs of more than this are not taken for rubbish: rather somebody has lost the snapshots.
const RUBBISH_BYTES: u64 = 64 << 20;

/// What a prune has done; or what one would do, and then as far as that can be told before.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// Snapshots that it kept the data of.
    pub snapshots: u64,
    /// Packs in the store before.
    pub packs_before: u64,
    /// Bytes of them.
    pub bytes_before: u64,
    /// Packs in the store after.
    pub packs_after: u64,
    /// Bytes of them.
    pub bytes_after: u64,
    /// Packs that nothing needed.
    pub packs_removed: u64,
    /// Packs that were needed in part, or small, and were packed anew.
    pub packs_repacked: u64,
    /// Bytes that nothing needs and that stay, in packs that are needed in part.
    pub unused_bytes: u64,
}

impl PruneReport {
    /// Bytes that the store has got back.
    pub fn freed_bytes(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

impl Repository {
    /// Removes what no snapshot needs. The repository must be open exclusively: whatever is written meanwhile would count as
    /// not needed.
    ///
    /// Errors, before anything is removed: [`RepositoryError::Damaged`] when a snapshot, an index or a tree cannot be read,
    /// or something that a snapshot needs is missing; [`RepositoryError::InvalidRequest`] when there is data and no snapshot,
    /// and the rules do not allow that. After any error the repository is sound, and the next prune goes on.
    pub async fn prune(&self, rules: &PruneRules) -> Result<PruneReport, RepositoryError> {
        self.must_be_exclusive("prune")?;
        self.while_locked(|run| async move { prune(self, &run, rules).await }).await
    }
}

async fn prune(repository: &Repository, store: &Store, rules: &PruneRules) -> Result<PruneReport, RepositoryError> {
    let known = snapshots::read_strictly(repository, store).await?;
    let (index, used) = look(repository, store, &known).await?;
    let bytes: u64 = index.packs.iter().filter_map(|pack| pack.size).sum();
    if known.is_empty() && bytes > RUBBISH_BYTES && !rules.allow_no_snapshots {
        return Err(RepositoryError::InvalidRequest(format!(
            "{} holds no snapshot, and {bytes} bytes of data: nothing was pruned, since the snapshots may be lost; if they \
             are not, allow a prune without snapshots",
            store.place()
        )));
    }
    carry_out(repository, store, rules, &index, &used, known.len() as u64).await
}

/// What there is, and what those snapshots need of it.
async fn look(repository: &Repository, store: &Store, known: &[Known]) -> Result<(Index, Marks), RepositoryError> {
    let mut findings = Findings::default();
    let index = Index::read(repository, store, &mut findings).await?;
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    let used = Reach { index: &index, fetcher }.mark(known, &mut Lost::default(), &mut findings).await?;
    if findings.is_empty() { Ok((index, used)) } else { Err(store.damaged(format!("{findings}; nothing was pruned"))) }
}

fn planned(store: &Store, index: &Index, used: &Marks, rules: &PruneRules) -> Result<Plan, RepositoryError> {
    Plan::new(index, used, rules).map_err(|error| match error {
        PlanError::Damaged(why) => store.damaged(why),
        PlanError::Index(error) => error,
    })
}

async fn carry_out(
    repository: &Repository,
    store: &Store,
    rules: &PruneRules,
    index: &Index,
    used: &Marks,
    snapshots: u64,
) -> Result<PruneReport, RepositoryError> {
    let mut plan = planned(store, index, used, rules)?;
    if rules.dry_run {
        return Ok(report(index, &plan, snapshots, None));
    }
    store.remove_leftovers().await;
    let mut repacked = Repacked::default();
    match repack::repack(repository, store, index, &plan, &mut repacked).await {
        // Removing needs little room, and makes some.
        Err(error @ RepositoryError::StoreFull { .. }) if plan.removes(index) => {
            tracing::warn!("no room to pack anew ({error}): this prune only removes");
            switch::take_back(repository, store, std::mem::take(&mut repacked)).await?;
            plan = planned(store, index, used, &PruneRules { max_repack: Some(0), ..rules.clone() })?;
        }
        repacking => repacking?,
    }
    switch::switch(repository, store, index, &plan, &mut repacked).await?;
    Ok(report(index, &plan, snapshots, Some(&repacked)))
}

/// What was done, or, without what was packed anew, about what would be.
fn report(index: &Index, plan: &Plan, snapshots: u64, repacked: Option<&Repacked>) -> PruneReport {
    let mut report = PruneReport { snapshots, unused_bytes: plan.unused_bytes, ..PruneReport::default() };
    for (pack, fate) in index.packs.iter().zip(&plan.fates) {
        let Some(size) = pack.size else { continue };
        report.packs_before += 1;
        report.bytes_before += size;
        match fate {
            Fate::Keep => {
                report.packs_after += 1;
                report.bytes_after += size;
            }
            Fate::Repack => report.packs_repacked += 1,
            Fate::Remove => report.packs_removed += 1,
        }
    }
    match repacked {
        Some(repacked) => {
            report.packs_after += repacked.packs.len() as u64;
            report.bytes_after += repacked.bytes;
        }
        None => {
            report.packs_after += plan.repacked_bytes.div_ceil(repack::PACK_BYTES as u64);
            report.bytes_after += plan.repacked_bytes;
        }
    }
    report
}

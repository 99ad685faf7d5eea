//! Prune: removes packs which no snapshot needs, and repacks packs which are needed in part.
//!
//! The order of the steps leaves a sound repository if the process is killed at any point. First come new packs, then
//! index files which list the new packs and the packs which are kept. All new files are verified to be in the store.
//! Only then the old index files are removed, and at last the packs which no index lists any more.

mod doubts;
mod plan;
mod pre_repack;
mod repack;
mod replace_index;
mod rules;

use serde::{Deserialize, Serialize};

use self::{
    doubts::Doubts,
    plan::{PackAction, Plan, PlanError},
    repack::Repacked,
};
pub use self::{
    pre_repack::RepackReport,
    rules::{PruneRules, Unused, UnusedError},
};
use super::{
    findings::Findings,
    index::Index,
    snapshots::{self, SnapshotRoot},
    used_blobs::{LostBlobs, UsedBlobScan},
};
use crate::{
    Repository, RepositoryError,
    index::{blob_table::Marks, fetcher::Fetcher, lacking::LOST_INDEX},
    store::Store,
};

/// If there is no snapshot at all, more data than this, and any tree, is not taken for leftovers, because the snapshots
/// may have been lost.
const LEFTOVER_BYTES: u64 = 64 << 20;

/// The result of a prune. For a dry run, what a prune would do, as far as that can be predicted.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// Snapshots whose data was kept.
    pub snapshots: u64,
    /// Packs in the store before the prune.
    pub packs_before: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Packs in the store after the prune.
    pub packs_after: u64,
    /// Their bytes.
    pub bytes_after: u64,
    /// Packs which were removed because no snapshot needs them.
    pub packs_removed: u64,
    /// Packs which were repacked because they were small, or needed only in part.
    pub packs_repacked: u64,
    /// Unused bytes which stay, in packs which are needed in part.
    pub unused_bytes: u64,
}

impl PruneReport {
    /// Bytes which the prune freed in the store.
    pub fn freed_bytes(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

impl Repository {
    /// Removes what no snapshot needs. The repository must be open exclusively, because data which another client
    /// writes meanwhile would count as unused.
    ///
    /// Errors, before anything is removed: [`RepositoryError::Damaged`] when a snapshot, an index or a tree cannot be
    /// read, or when data which a snapshot needs is missing; [`RepositoryError::InvalidRequest`] when there is data but
    /// no snapshot, unless the rules allow that. The repository is sound after every error, and the next prune
    /// continues.
    pub async fn prune(&self, rules: &PruneRules) -> Result<PruneReport, RepositoryError> {
        self.must_be_exclusive("prune")?;
        self.with_lock(|run| async move { prune(self, &run, rules).await }).await
    }
}

async fn prune(repository: &Repository, store: &Store, rules: &PruneRules) -> Result<PruneReport, RepositoryError> {
    let roots = snapshots::read_strictly(repository, store).await?;
    let mut contents = read_used(repository, store, &roots).await?;
    let index = &contents.index;
    let bytes: u64 = index.packs.iter().filter_map(|pack| pack.size).sum();
    let may_be_lost = roots.is_empty() && (bytes > LEFTOVER_BYTES || index.has_trees()?);
    if may_be_lost && !rules.allow_no_snapshots {
        return Err(RepositoryError::InvalidRequest(format!(
            "{} holds no snapshot, but {bytes} bytes of data; nothing was pruned, because the snapshots may have been \
             lost; if they were removed on purpose, allow a prune without snapshots",
            store.location()
        )));
    }
    carry_out(repository, store, rules, &mut contents, roots.len() as u64).await
}

/// The index, and which of its blobs and packs matter for a prune.
struct Contents {
    index: Index,
    /// The row numbers of the first copies of all needed blobs.
    used: Marks,
    doubts: Doubts,
}

/// Reads the index, finds the blobs which these snapshots need, and verifies the copies of blobs in damaged packs.
async fn read_used(
    repository: &Repository,
    store: &Store,
    roots: &[SnapshotRoot],
) -> Result<Contents, RepositoryError> {
    let mut findings = Findings::default();
    let index = Index::read(repository, store, &mut findings).await?;
    let fetcher = Fetcher::new(store, &repository.cipher);
    let scan = UsedBlobScan { index: &index, fetcher: fetcher.clone() };
    let used = scan.mark(roots, &mut LostBlobs::default(), &mut findings).await?;
    if !findings.is_empty() {
        let next = if findings.has_missing() { format!("; {LOST_INDEX}") } else { String::new() };
        return Err(store.damaged(format!("{findings}; nothing was pruned{next}")));
    }
    let (found, reported) = (&findings.damaged_packs, &repository.damaged_packs);
    let doubts = Doubts::find(&fetcher, &index, &used, found, reported).await?;
    Ok(Contents { index, used, doubts })
}

/// Makes a plan that gives up copies only for copies that were read, unless there are too many.
async fn make_verified_plan(
    repository: &Repository,
    store: &Store,
    contents: &mut Contents,
    rules: &PruneRules,
) -> Result<Plan, RepositoryError> {
    let fetcher = Fetcher::new(store, &repository.cipher);
    loop {
        let plan = make_plan(store, contents, rules)?;
        let Contents { index, used, doubts } = contents;
        if !doubts.verify_kept_copies(&fetcher, index, used, &plan.chosen).await? {
            return Ok(plan);
        }
    }
}

fn make_plan(store: &Store, contents: &Contents, rules: &PruneRules) -> Result<Plan, RepositoryError> {
    let Contents { index, used, doubts } = contents;
    Plan::new(index, used, doubts, rules).map_err(|error| match error {
        PlanError::Damaged(why) => store.damaged(why),
        PlanError::Index(error) => error,
    })
}

async fn carry_out(
    repository: &Repository,
    store: &Store,
    rules: &PruneRules,
    contents: &mut Contents,
    snapshots: u64,
) -> Result<PruneReport, RepositoryError> {
    let mut plan = make_verified_plan(repository, store, contents, rules).await?;
    let index = &contents.index;
    if rules.dry_run {
        return Ok(report(index, &plan, snapshots, None));
    }
    store.remove_leftovers().await;
    let mut repacked = Repacked::default();
    match repack::repack(repository, store, index, &plan, &mut repacked).await {
        // Removing packs needs little space, and frees some.
        Err(error @ RepositoryError::StoreFull { .. }) if plan.has_removals(index) => {
            tracing::warn!("not enough space to repack, so this prune only removes packs: {error}");
            replace_index::remove_repacked(repository, store, std::mem::take(&mut repacked)).await?;
            plan = make_plan(store, contents, &PruneRules { max_repack: Some(0), ..rules.clone() })?;
        }
        repacking => repacking?,
    }
    replace_index::replace_indexes(repository, store, index, &plan, &mut repacked).await?;
    Ok(report(index, &plan, snapshots, Some(&repacked)))
}

/// Reports what was done. Without `repacked`, the numbers of a dry run are estimated.
fn report(index: &Index, plan: &Plan, snapshots: u64, repacked: Option<&Repacked>) -> PruneReport {
    let mut report = PruneReport { snapshots, unused_bytes: plan.unused_bytes, ..PruneReport::default() };
    for (pack, action) in index.packs.iter().zip(&plan.actions) {
        let Some(size) = pack.size else { continue };
        report.packs_before += 1;
        report.bytes_before += size;
        match action {
            PackAction::Keep => {
                report.packs_after += 1;
                report.bytes_after += size;
            }
            PackAction::Repack => report.packs_repacked += 1,
            PackAction::Remove => report.packs_removed += 1,
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

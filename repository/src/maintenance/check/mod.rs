//! Checks a repository: whether snapshots, trees, indexes and packs are complete and consistent, and whether the bytes
//! of a part of the packs are still those which were written. Successive checks can read different parts.

mod data;

use std::pin::pin;

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    findings::{Finding, Findings, hex_id},
    harmed::HarmedSnapshot,
    index::Index,
    snapshots,
    used_blobs::{LostBlobs, UsedBlobScan},
};
use crate::{
    Repository, RepositoryError, crypto,
    index::{
        blob_table::{Copy, Marks},
        damaged_packs,
        fetcher::Fetcher,
        index_file::PARALLEL_READS,
    },
    store::{Kind, Store},
};
use stowaway_model::{DamagedPacks, DataPart};

/// How many packs are read at a time. Memory for each pack: the bytes of one request, and one blob.
const PACKS_AT_ONCE: usize = 2;
/// How many damaged snapshots a report names.
const NAMED: usize = 100;

/// The result of a check.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// How many key files there are.
    pub keys: u32,
    /// How many snapshots could be read.
    pub snapshots: u64,
    /// How many packs the indexes list.
    pub packs: u64,
    /// How many blobs these packs contain. Each copy counts.
    pub blobs: u64,
    /// How many packs were read completely.
    pub packs_read: u64,
    /// The bytes of the packs which were read.
    pub bytes_read: u64,
    /// Packs in the store which no index lists. Failed runs leave them; they are harmless, and the next prune removes
    /// them.
    pub unreferenced_packs: u64,
    pub findings: Findings,
    /// The ids of the packs whose content is damaged, as far as data was read; at most 1000.
    #[serde(default)]
    pub damaged_packs: Vec<String>,
    /// How many snapshots cannot be restored completely, as far as data was read. A snapshot file which cannot be read
    /// is a finding and does not count here.
    pub harmed_snapshots: u64,
    /// The first 100 damaged snapshots, oldest first.
    pub harmed: Vec<HarmedSnapshot>,
}

impl CheckReport {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Repository {
    /// Checks the whole structure, and the bytes of a part of the packs. Other clients may write at the same time.
    ///
    /// Damage is not an error, but part of the report. Errors are failures of the check itself, such as a store which
    /// does not respond.
    pub async fn check(&self, data: Option<DataPart>) -> Result<CheckReport, RepositoryError> {
        self.with_lock(|run| async move { check(self, &run, data).await }).await
    }
}

async fn check(repository: &Repository, store: &Store, data: Option<DataPart>) -> Result<CheckReport, RepositoryError> {
    let mut findings = Findings::default();
    let keys = check_keys(store, &mut findings).await?;
    // Snapshots are read before indexes, because an index lists a snapshot's data before the snapshot is written.
    let snapshots = snapshots::read(repository, store, &mut findings).await?;
    let index = Index::read(repository, store, &mut findings).await?;
    let mut report = CheckReport { keys, snapshots: snapshots.len() as u64, ..CheckReport::default() };
    report.blobs = index.len() as u64;
    check_packs(&index, &mut report, &mut findings);

    let mut lost = LostBlobs::default();
    let scan = UsedBlobScan { index: &index, fetcher: Fetcher::new(store, &repository.cipher) };
    scan.mark(&snapshots, &mut lost, &mut findings).await?;
    if let Some(part) = data {
        read_data(repository, store, &index, part, &mut report, &mut lost, &mut findings).await?;
    }
    if !lost.is_empty() {
        let harmed = scan.damaged_snapshots(&snapshots, &lost).await?;
        report.harmed_snapshots = harmed.len() as u64;
        report.harmed = harmed.into_iter().take(NAMED).map(HarmedSnapshot::of).collect();
    }
    report.damaged_packs =
        findings.damaged_packs.iter().take(DamagedPacks::MOST_COUNTED).map(|id| hex_id(*id)).collect();
    report.findings = findings;
    Ok(report)
}

/// Verifies that the content of each key file matches its name. Returns the number of key files. The config was already
/// verified when the repository was opened.
async fn check_keys(store: &Store, findings: &mut Findings) -> Result<u32, RepositoryError> {
    let keys = store.list(Kind::Key).await?;
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let reads = keys.into_iter().map(|(id, _)| async move { (id, store.read(Kind::Key, &id).await) });
    let mut reads = pin!(stream::iter(reads).buffer_unordered(PARALLEL_READS));
    while let Some((id, content)) = reads.next().await {
        // A key file which no longer exists was removed meanwhile.
        if content?.is_some_and(|content| crypto::id_of(&content) != id) {
            let why = "its content does not match its name".to_owned();
            findings.add(Finding::Unreadable { file: Kind::Key.path(&id), why });
        }
    }
    Ok(count)
}

/// Compares the index with the packs in the store.
fn check_packs(index: &Index, report: &mut CheckReport, findings: &mut Findings) {
    for pack in &index.packs {
        if pack.files.is_empty() {
            report.unreferenced_packs += 1;
            continue;
        }
        report.packs += 1;
        match pack.size {
            // rustic removes a marked pack before it removes the mark.
            None if pack.is_marked => {}
            None => findings.add(Finding::MissingPack { pack: hex_id(pack.id) }),
            // rustic marks packs without listing their blobs.
            Some(_) if pack.is_marked && pack.content.blobs == 0 => {}
            Some(found) if pack.content.size != Some(found) => {
                findings.add(Finding::PackSize { pack: hex_id(pack.id), found });
            }
            Some(_) => {}
        }
    }
}

/// Reads all packs of the part and verifies every byte.
async fn read_data(
    repository: &Repository,
    store: &Store,
    index: &Index,
    part: DataPart,
    report: &mut CheckReport,
    lost: &mut LostBlobs,
    findings: &mut Findings,
) -> Result<(), RepositoryError> {
    let due = (0..).zip(&index.packs).filter(|(_, pack)| !pack.files.is_empty() && !pack.is_marked);
    let due = due.filter_map(|(number, pack)| Some((number, pack, pack.size?)));
    let due = due.filter(|(_, pack, _)| damaged_packs::is_in(&pack.id, part));
    let reads = due.map(|(number, pack, size)| async move {
        let blobs = index.blobs_in(number)?.into_iter().map(|numbered| numbered.blob).collect();
        let damage = data::verify_with_retry(store, &repository.cipher, pack.id, size, blobs).await?;
        Ok::<_, RepositoryError>((number, pack, size, damage))
    });
    let mut reads = pin!(stream::iter(reads).buffer_unordered(PACKS_AT_ONCE));
    let (mut damaged, mut is_any_damaged) = (Marks::new(index.len()), false);
    while let Some(read) = reads.next().await {
        let (number, pack, size, damage) = read?;
        (report.packs_read, report.bytes_read) = (report.packs_read + 1, report.bytes_read + size);
        let Some(damage) = damage else { continue };
        findings.damaged_packs.insert(pack.id);
        findings.add(Finding::DamagedPack { pack: hex_id(pack.id), why: damage.why });
        let blobs = index.blobs_in(number)?;
        for numbered in damage.blobs.iter().filter_map(|blob| blobs.get(*blob)) {
            is_any_damaged |= damaged.set(numbered.row_number);
        }
    }
    // A blob is lost only if no copy is intact. A copy which was not read this time counts as intact.
    if !is_any_damaged {
        return Ok(());
    }
    for copies in index.blobs() {
        let copies = copies?;
        let is_whole = |copy: &Copy| !damaged.has(copy.row_number) && index.pack_of(copy).size.is_some();
        if copies.iter().any(|copy| damaged.has(copy.row_number)) && !copies.iter().any(is_whole) {
            let blob = copies[0].row.blob;
            lost.insert(blob.kind, blob.id)?;
        }
    }
    Ok(())
}

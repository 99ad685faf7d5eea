//! The check: are snapshots, trees, indexes and packs whole and of one mind; and are the bytes of some of the packs, each
//! time of others, still those that were written.
//!
//! It must not know when which part is due.

mod data;
mod part;

use std::pin::pin;

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{
    findings::{Finding, Findings, HarmedSnapshot, text},
    index::Index,
    reach::{Lost, Reach},
    snapshots,
};
use crate::{
    model::DataPart,
    repository::{
        Repository, RepositoryError,
        blob_table::{Copy, Marks},
        crypto,
        index_file::PARALLEL_READS,
        part::Fetcher,
        store::{Kind, Store},
    },
};

/// How many packs are read at a time; of each, what is read at once and one blob are in memory.
const PACKS_AT_ONCE: usize = 2;
/// How many harmed snapshots are named.
const NAMED: usize = 100;

/// What a check has looked at, and what it found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Keys, each of which a password opens.
    pub keys: u32,
    /// Snapshots that could be read.
    pub snapshots: u64,
    /// Packs that an index names.
    pub packs: u64,
    /// Blobs in them, each copy counted.
    pub blobs: u64,
    /// Packs whose every byte was read.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Packs in the store that no index names: left by runs that failed; harmless, and removed by the next prune.
    pub unreferenced_packs: u64,
    /// All that is wrong.
    pub findings: Findings,
    /// How many snapshots cannot be restored as a whole, as far as was read. A snapshot file that cannot be read is a
    /// finding, and not counted here.
    pub harmed_snapshots: u64,
    /// The first 100 of them, oldest first.
    pub harmed: Vec<HarmedSnapshot>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl Repository {
    /// Checks the structure wholly, and the bytes of one part of the packs. Others may write meanwhile.
    ///
    /// What is damaged is in the report, and no error; errors are what kept the check from looking, such as a store that does
    /// not answer.
    pub async fn check(&self, data: Option<DataPart>) -> Result<CheckReport, RepositoryError> {
        self.while_locked(|run| async move { check(self, &run, data).await }).await
    }
}

async fn check(repository: &Repository, store: &Store, data: Option<DataPart>) -> Result<CheckReport, RepositoryError> {
    let mut findings = Findings::default();
    let keys = check_keys(store, &mut findings).await?;
    // Snapshots before indexes: what a snapshot needs was indexed before it was made.
    let snapshots = snapshots::read(repository, store, &mut findings).await?;
    let index = Index::read(repository, store, &mut findings).await?;
    let mut report = CheckReport { keys, snapshots: snapshots.len() as u64, ..CheckReport::default() };
    report.blobs = index.len() as u64;
    check_packs(&index, &mut report, &mut findings);

    let mut lost = Lost::default();
    let reach = Reach { index: &index, fetcher: Fetcher { store: store.clone(), cipher: repository.cipher.clone() } };
    reach.mark(&snapshots, &mut lost, &mut findings).await?;
    if let Some(part) = data {
        read_data(repository, store, &index, part, &mut report, &mut lost, &mut findings).await?;
    }
    if !lost.is_empty() {
        let harmed = reach.harmed(&snapshots, &lost).await?;
        report.harmed_snapshots = harmed.len() as u64;
        report.harmed = harmed.into_iter().take(NAMED).map(HarmedSnapshot::of).collect();
    }
    report.findings = findings;
    Ok(report)
}

/// Every key file is what its name says, and how many there are; the config was read when the repository was opened.
async fn check_keys(store: &Store, findings: &mut Findings) -> Result<u32, RepositoryError> {
    let keys = store.list(Kind::Key).await?;
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let reads = keys.into_iter().map(|(id, _)| async move { (id, store.read(Kind::Key, &id).await) });
    let mut reads = pin!(stream::iter(reads).buffer_unordered(PARALLEL_READS));
    while let Some((id, content)) = reads.next().await {
        // One that is gone was removed meanwhile.
        if content?.is_some_and(|content| crypto::id_of(&content) != id) {
            let why = "it is not what was written".to_owned();
            findings.add(Finding::Unreadable { file: Kind::Key.path(&id), why });
        }
    }
    Ok(count)
}

/// Holds the index against the listing of packs.
fn check_packs(index: &Index, report: &mut CheckReport, findings: &mut Findings) {
    for pack in &index.packs {
        if pack.files.is_empty() {
            report.unreferenced_packs += 1;
            continue;
        }
        report.packs += 1;
        match pack.size {
            // rustic removes a marked pack before the mark.
            None if pack.is_marked => {}
            None => findings.add(Finding::MissingPack { pack: text(pack.id) }),
            // rustic marks packs without saying what is in them.
            Some(_) if pack.is_marked && pack.content.blobs == 0 => {}
            Some(found) if pack.content.size != Some(found) => {
                findings.add(Finding::PackSize { pack: text(pack.id), found });
            }
            Some(_) => {}
        }
    }
}

/// Reads all packs of one part, byte by byte.
async fn read_data(
    repository: &Repository,
    store: &Store,
    index: &Index,
    part: DataPart,
    report: &mut CheckReport,
    lost: &mut Lost,
    findings: &mut Findings,
) -> Result<(), RepositoryError> {
    let due = (0..).zip(&index.packs).filter(|(_, pack)| !pack.files.is_empty() && !pack.is_marked);
    let due = due.filter_map(|(number, pack)| Some((number, pack, pack.size?)));
    let due = due.filter(|(_, pack, _)| part::has(part, &pack.id));
    let reads = due.map(|(number, pack, size)| async move {
        let blobs = index.blobs_in(number)?.into_iter().map(|placed| placed.blob).collect();
        let damage = data::read_twice_if_damaged(store, &repository.cipher, pack.id, size, blobs).await?;
        Ok::<_, RepositoryError>((number, pack, size, damage))
    });
    let mut reads = pin!(stream::iter(reads).buffer_unordered(PACKS_AT_ONCE));
    let (mut damaged, mut is_any_damaged) = (Marks::new(index.len()), false);
    while let Some(read) = reads.next().await {
        let (number, pack, size, damage) = read?;
        (report.packs_read, report.bytes_read) = (report.packs_read + 1, report.bytes_read + size);
        let Some(damage) = damage else { continue };
        findings.add(Finding::DamagedPack { pack: text(pack.id), why: damage.why });
        let blobs = index.blobs_in(number)?;
        for placed in damage.blobs.iter().filter_map(|blob| blobs.get(*blob)) {
            is_any_damaged |= damaged.set(placed.place);
        }
    }
    // Lost is only what has no copy left; one that was not read this time counts as whole.
    if !is_any_damaged {
        return Ok(());
    }
    for copies in index.blobs() {
        let copies = copies?;
        let is_whole = |copy: &Copy| !damaged.has(copy.place) && index.pack_of(copy).size.is_some();
        if copies.iter().any(|copy| damaged.has(copy.place)) && !copies.iter().any(is_whole) {
            let blob = copies[0].row.blob;
            lost.insert(blob.kind, blob.id)?;
        }
    }
    Ok(())
}

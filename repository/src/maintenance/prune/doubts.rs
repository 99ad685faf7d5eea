//! The packs that are believed to be damaged, and which of their blobs have a copy in another pack that was read and is
//! intact.
//!
//! A prune keeps one copy of each blob. It must not keep the damaged one. But a check's list of damaged packs is no
//! proof, so a copy in such a pack is given up only for a copy that the prune itself has read. Nor does the list name
//! damage that no check has found yet, so that the prune also reads the copies that it keeps instead of others.

use std::{collections::BTreeSet, pin::pin};

use futures::{StreamExt, stream};

use super::super::index::Index;
use crate::{
    RepositoryError,
    format::{BlobKind, Id},
    index::{
        blob_location::{self, BlobLocation},
        blob_table::{Copy, Marks},
        damaged_packs,
        fetcher::Fetcher,
    },
};
use stowaway_model::DamagedPacks;

/// How many requests for blobs run in parallel. Each reads at most 4 MiB, or a single blob.
const REQUESTS: usize = 4;
/// The longest blob that is read, before compression. A longer one is not verified, so that all of its copies stay.
const LONGEST_BYTES: u32 = 16 << 20;
/// Up to this number of bytes, the kept copies of file contents are read, too. There are more only where data was repacked
/// ahead of the prune, which verified it then.
const MAX_DATA_BYTES: u64 = 1 << 30;
/// How many copies are read at a time, so that memory is bounded.
const BATCH_COPIES: usize = 10_000;

#[derive(Debug)]
pub(super) struct Doubts {
    /// The packs of the index that are believed to be damaged.
    packs: Marks,
    /// The row numbers of copies that were read and are intact, of blobs that are in such a pack, too.
    verified: Marks,
}

impl Doubts {
    /// Without any damaged pack.
    #[cfg(test)]
    pub fn none(index: &Index) -> Self {
        Self { packs: Marks::new(index.packs.len()), verified: Marks::new(index.len()) }
    }

    /// For tests of the plan: these packs are damaged, and these copies were read.
    #[cfg(test)]
    pub fn of(index: &Index, packs: &[usize], verified: &[usize]) -> Self {
        let mut doubts = Self::none(index);
        for pack in packs {
            doubts.packs.set(*pack);
        }
        for row_number in verified {
            doubts.verified.set(*row_number);
        }
        doubts
    }

    /// Reads the other copies of the blobs of damaged packs. `used` has the row numbers of the first copies of all
    /// needed blobs. `found` are the packs which turned out to be damaged when the trees were read, and `reported` are
    /// those that a check found. If there are more than the check could list, all packs of that part of the data count
    /// as damaged, and nothing is read for them, so that all copies of their blobs stay.
    pub async fn find(
        fetcher: &Fetcher,
        index: &Index,
        used: &Marks,
        found: &BTreeSet<Id>,
        reported: &DamagedPacks,
    ) -> Result<Self, RepositoryError> {
        let mut listed: BTreeSet<usize> =
            damaged_packs::listed(index.packs.iter().map(|pack| &pack.id), reported).into_iter().collect();
        let numbered = || index.packs.iter().enumerate();
        listed.extend(numbered().filter(|(_, pack)| found.contains(&pack.id)).map(|(number, _)| number));
        let mut packs = Marks::new(index.packs.len());
        for number in &listed {
            packs.set(*number);
        }
        if let Some(part) = reported.more_in {
            for (number, _) in numbered().filter(|(_, pack)| damaged_packs::is_in(&pack.id, part)) {
                packs.set(number);
            }
        }
        let mut doubts = Self { packs, verified: Marks::new(index.len()) };
        for number in listed {
            doubts.verify_other_copies(fetcher, index, used, u32::try_from(number).unwrap_or(u32::MAX)).await?;
        }
        Ok(doubts)
    }

    pub fn has(&self, pack: usize) -> bool {
        self.packs.has(pack)
    }

    /// Whether a copy of the blob is in a pack that is believed to be damaged.
    pub fn concern(&self, copies: &[Copy]) -> bool {
        copies.iter().any(|copy| self.has(copy.row.pack as usize))
    }

    /// The copy that was read and is intact, if there is one.
    pub fn verified<'a>(&self, copies: &'a [Copy]) -> Option<&'a Copy> {
        copies.iter().find(|copy| self.verified.has(copy.row_number))
    }

    async fn verify_other_copies(
        &mut self,
        fetcher: &Fetcher,
        index: &Index,
        used: &Marks,
        pack: u32,
    ) -> Result<(), RepositoryError> {
        let mut parts = Vec::new();
        for numbered in index.blobs_in(pack)? {
            let copies = index.copies(numbered.blob.kind, numbered.blob.id)?;
            let is_needed = copies.first().is_some_and(|first| used.has(first.row_number));
            if !is_needed || self.verified(&copies).is_some() {
                continue;
            }
            let other = copies.iter().find(|copy| {
                let is_short = copy.row.blob.plain_length() <= LONGEST_BYTES;
                is_short && !self.has(copy.row.pack as usize) && index.is_whole(copy)
            });
            parts.extend(other.map(|copy| (index.part(&copy.row), copy.row_number, copy.row.pack as usize)));
        }
        let intact = read_all(fetcher, parts.iter().map(|(part, ..)| *part).collect()).await?;
        for (part, row_number, pack) in parts {
            if intact.contains(&(part.pack, part.offset)) {
                self.verified.set(row_number);
            } else {
                self.packs.set(pack);
            }
        }
        Ok(())
    }

    /// Reads the kept copy of each blob of which other copies are given up, because the damage of a pack may not be known
    /// yet. Returns whether further packs are believed to be damaged, so that the choice has to be made again.
    pub async fn verify_kept_copies(
        &mut self,
        fetcher: &Fetcher,
        index: &Index,
        used: &Marks,
        chosen: &Marks,
    ) -> Result<bool, RepositoryError> {
        let mut data_bytes = 0;
        for copies in index.blobs() {
            let copies = copies?;
            let kept = self.kept_instead_of_others(index, used, chosen, &copies);
            data_bytes += kept
                .filter(|kept| kept.row.blob.kind == BlobKind::Data)
                .map_or(0, |kept| u64::from(kept.row.blob.length));
        }
        let (mut batch, mut is_new) = (Vec::new(), false);
        for copies in index.blobs() {
            let copies = copies?;
            let Some(kept) = self.kept_instead_of_others(index, used, chosen, &copies) else { continue };
            if kept.row.blob.kind == BlobKind::Data && data_bytes > MAX_DATA_BYTES {
                continue;
            }
            let pack = kept.row.pack as usize;
            if kept.row.blob.plain_length() > LONGEST_BYTES {
                is_new |= self.packs.set(pack);
                continue;
            }
            batch.push((index.part(&kept.row), pack));
            if batch.len() == BATCH_COPIES {
                is_new |= self.doubt_unreadable(fetcher, std::mem::take(&mut batch)).await?;
            }
        }
        Ok(self.doubt_unreadable(fetcher, batch).await? || is_new)
    }

    /// The chosen copy of a needed blob without doubts, if other whole copies are given up.
    fn kept_instead_of_others<'a>(
        &self,
        index: &Index,
        used: &Marks,
        chosen: &Marks,
        copies: &'a [Copy],
    ) -> Option<&'a Copy> {
        let is_needed = copies.first().is_some_and(|first| used.has(first.row_number));
        let are_several = copies.iter().filter(|copy| index.is_whole(copy)).count() > 1;
        if !is_needed || !are_several || self.concern(copies) {
            return None;
        }
        copies.iter().find(|copy| chosen.has(copy.row_number))
    }

    async fn doubt_unreadable(
        &mut self,
        fetcher: &Fetcher,
        parts: Vec<(BlobLocation, usize)>,
    ) -> Result<bool, RepositoryError> {
        let intact = read_all(fetcher, parts.iter().map(|(part, _)| *part).collect()).await?;
        let mut is_new = false;
        for (part, pack) in parts {
            if !intact.contains(&(part.pack, part.offset)) {
                is_new |= self.packs.set(pack);
            }
        }
        Ok(is_new)
    }
}

/// Reads blobs, and returns the packs and the offsets of those that are intact.
async fn read_all(fetcher: &Fetcher, parts: Vec<BlobLocation>) -> Result<BTreeSet<(Id, u32)>, RepositoryError> {
    let requests = blob_location::requests(parts);
    let mut reads = pin!(stream::iter(requests).map(|request| read(fetcher, request)).buffer_unordered(REQUESTS));
    let mut intact = BTreeSet::new();
    while let Some(read) = reads.next().await {
        intact.extend(read?);
    }
    Ok(intact)
}

/// Reads blobs of one pack, and returns the pack and the offset of those that are intact.
async fn read(fetcher: &Fetcher, parts: Vec<BlobLocation>) -> Result<Vec<(Id, u32)>, RepositoryError> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Vec::new()) };
    let sealed = match fetcher.store.read_range(&first.pack, first.offset, last.end() - first.offset).await {
        Err(RepositoryError::Damaged { .. }) => return Ok(Vec::new()),
        read => read?,
    };
    let intact = parts.iter().filter(|part| fetcher.open_within(part, &sealed, first.offset).is_ok());
    Ok(intact.map(|part| (part.pack, part.offset)).collect())
}

//! Plans what a prune does with each pack and each index file. Pure: a function of the index, the used blobs and the
//! rules.

use std::cmp::Reverse;

use super::{
    super::index::{Index, Pack},
    doubts::Doubts,
    rules::PruneRules,
};
use crate::{
    RepositoryError,
    format::BlobKind,
    index::blob_table::{Copy, Marks},
};

/// Packs below this size are small. If there are this many small packs of a kind, they are repacked together, because
/// each backup leaves one or two.
const SMALL_PACK_BYTES: u64 = 1 << 20;
const MANY_SMALL_PACKS: usize = 16;
/// The same limits for index files.
const SMALL_INDEX_BLOBS: usize = 1000;
const MANY_SMALL_INDEXES: usize = 16;

/// A pack with a blob longer than this is not repacked, because each blob is verified in memory. Such blobs are the
/// trees of folders with very many entries. Stowaway stores each of them in a pack of its own.
const LONGEST_REPACKED_BYTES: u32 = 16 << 20;

/// The action of a prune for a pack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PackAction {
    Keep,
    /// Copy the needed blobs to new packs, and remove this one.
    Repack,
    Remove,
}

#[derive(Debug)]
pub(super) struct Plan {
    /// The action for each pack of [`Index::packs`].
    pub actions: Vec<PackAction>,
    /// For each file of [`Index::files`], whether it is removed. Its entries for packs which are kept are written to a
    /// new index file.
    pub obsolete_files: Vec<bool>,
    /// The row number of the copy which is kept, for each needed blob. If it is not known which copy is intact, all
    /// copies are kept.
    pub chosen: Marks,
    /// Bytes which are copied to new packs.
    pub repacked_bytes: u64,
    /// Unused bytes which stay.
    pub unused_bytes: u64,
}

/// Bytes which blobs and their header entries take in a pack.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    used: u64,
    unused: u64,
}

impl Plan {
    /// Makes a plan. `used` has the row numbers of the first copies of all needed blobs.
    pub fn new(index: &Index, used: &Marks, doubts: &Doubts, rules: &PruneRules) -> Result<Self, PlanError> {
        let chosen = choose(index, used, doubts)?;
        let mut bytes = vec![Bytes::default(); index.packs.len()];
        for copies in index.blobs() {
            for Copy { row_number, row } in copies? {
                let bytes = &mut bytes[row.pack as usize];
                let sum = if chosen.has(row_number) { &mut bytes.used } else { &mut bytes.unused };
                *sum += u64::from(row.blob.length) + row.blob.entry_bytes();
            }
        }
        let mut actions: Vec<PackAction> =
            bytes.iter().map(|bytes| if bytes.used > 0 { PackAction::Keep } else { PackAction::Remove }).collect();
        repack(index, &bytes, doubts, rules, &mut actions);
        let sum = |action: PackAction, of: fn(&Bytes) -> u64| {
            let packs = bytes.iter().zip(&actions).filter(|(_, planned)| **planned == action);
            packs.map(|(bytes, _)| of(bytes)).sum()
        };
        let repacked_bytes = sum(PackAction::Repack, |bytes| bytes.used);
        let unused_bytes = sum(PackAction::Keep, |bytes| bytes.unused);
        let obsolete_files = obsolete(index, &actions);
        Ok(Self { actions, obsolete_files, chosen, repacked_bytes, unused_bytes })
    }

    /// Whether the plan removes a pack of the store without repacking it.
    pub fn has_removals(&self, index: &Index) -> bool {
        index.packs.iter().zip(&self.actions).any(|(pack, action)| pack.size.is_some() && *action == PackAction::Remove)
    }
}

/// Why a plan is impossible.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// A needed blob has no intact copy.
    #[error("{0}")]
    Damaged(String),
    /// The index could not be read again.
    #[error(transparent)]
    Index(#[from] RepositoryError),
}

/// Chooses the copy of each needed blob which is kept. Copies in packs which are not marked as removable come first,
/// then copies in packs with the highest share of needed bytes, then copies in packs with the most needed bytes. So a
/// copy in a pack which was already repacked is preferred to the original.
///
/// A copy in a pack which may be damaged is given up only for a copy which was read.
fn choose(index: &Index, used: &Marks, doubts: &Doubts) -> Result<Marks, PlanError> {
    let mut needed_bytes = vec![0_u64; index.packs.len()];
    for copies in index.blobs() {
        let copies = copies?;
        if used.has(copies[0].row_number) {
            for copy in &copies {
                needed_bytes[copy.row.pack as usize] += u64::from(copy.row.blob.length);
            }
        }
    }
    // In thousandths, because floats do not implement `Ord`.
    let shares = index.packs.iter().zip(&needed_bytes);
    let needed_shares: Vec<u64> = shares.map(|(pack, needed)| needed * 1000 / pack.content.blob_bytes.max(1)).collect();
    let mut chosen = Marks::new(index.len());
    for copies in index.blobs() {
        let copies = copies?;
        if !used.has(copies[0].row_number) {
            continue;
        }
        if doubts.concern(&copies) && copies.iter().any(|copy| index.is_whole(copy)) {
            match doubts.verified(&copies) {
                Some(verified) => {
                    chosen.set(verified.row_number);
                }
                None => {
                    for copy in copies.iter().filter(|copy| index.is_whole(copy)) {
                        chosen.set(copy.row_number);
                    }
                }
            }
            continue;
        }
        let best = copies.iter().filter(|copy| index.is_whole(copy)).min_by_key(|copy| {
            let pack = copy.row.pack as usize;
            (index.pack_of(copy).is_marked, Reverse((needed_shares[pack], needed_bytes[pack])), copy.row_number)
        });
        let best = best.ok_or_else(|| {
            let (blob, pack) = (copies[0].row.blob.id.to_hex(), index.pack_of(&copies[0]).id.to_hex());
            PlanError::Damaged(format!(
                "pack {} with the needed blob {} is missing, or its length does not match the index",
                pack.as_str(),
                blob.as_str()
            ))
        })?;
        chosen.set(best.row_number);
    }
    Ok(chosen)
}

/// Selects packs which are repacked, among those which are kept.
///
/// A pack which may be damaged is not one of them, because a damaged blob cannot be copied.
fn repack(index: &Index, bytes: &[Bytes], doubts: &Doubts, rules: &PruneRules, actions: &mut [PackAction]) {
    let mut room = rules.max_repack.unwrap_or(u64::MAX);
    let used = bytes.iter().map(|bytes| bytes.used).sum();
    let allowed = rules.max_unused.limit(used);

    let may_be_repacked =
        |pack: usize| index.packs[pack].content.longest <= LONGEST_REPACKED_BYTES && !doubts.has(pack);
    let mut partly: Vec<usize> = (0..bytes.len())
        .filter(|pack| actions[*pack] == PackAction::Keep && bytes[*pack].unused > 0 && may_be_repacked(*pack))
        .collect();
    // Packs with the highest share of unused bytes come first, because they free the most space per copied byte. In
    // thousandths, because floats do not implement `Ord`.
    partly.sort_by_key(|pack| {
        let Bytes { used, unused } = bytes[*pack];
        (Reverse(unused * 1000 / (used + unused).max(1)), *pack)
    });
    let mut unused: u64 = bytes
        .iter()
        .zip(&*actions)
        .filter(|(_, action)| **action == PackAction::Keep)
        .map(|(bytes, _)| bytes.unused)
        .sum();
    for pack in partly {
        if unused <= allowed {
            break;
        }
        if bytes[pack].used <= room {
            room -= bytes[pack].used;
            unused -= bytes[pack].unused;
            actions[pack] = PackAction::Repack;
        }
    }

    for kind in [BlobKind::Tree, BlobKind::Data] {
        let is_small = |(number, pack): &(usize, &Pack)| {
            actions[*number] != PackAction::Remove
                && pack.size.is_some_and(|size| size < SMALL_PACK_BYTES)
                && pack.content.kind == Some(kind)
        };
        let small: Vec<usize> = index.packs.iter().enumerate().filter(is_small).map(|(number, _)| number).collect();
        if small.len() < MANY_SMALL_PACKS {
            continue;
        }
        for pack in small {
            if actions[pack] == PackAction::Keep && bytes[pack].used <= room && may_be_repacked(pack) {
                room -= bytes[pack].used;
                actions[pack] = PackAction::Repack;
            }
        }
    }
}

/// Returns which index files are removed: a file which lists a pack that is not kept, or that another file lists, too;
/// a file which marks packs as removable; and all small files, if there are many of them.
fn obsolete(index: &Index, actions: &[PackAction]) -> Vec<bool> {
    let is_small: Vec<bool> = index.files.iter().map(|file| file.blobs < SMALL_INDEX_BLOBS).collect();
    let many = is_small.iter().filter(|is_small| **is_small).count() >= MANY_SMALL_INDEXES;
    let mut obsolete: Vec<bool> =
        index.files.iter().zip(&is_small).map(|(file, is_small)| file.has_marks || many && *is_small).collect();
    for (pack, action) in index.packs.iter().zip(actions) {
        if *action != PackAction::Keep || pack.files.len() > 1 {
            for file in &pack.files {
                obsolete[*file as usize] = true;
            }
        }
    }
    obsolete
}

#[cfg(test)]
mod tests;

//! What becomes of each pack and each index file. Pure: a function of the index, of what snapshots reach, and of the rules.

use std::cmp::Reverse;

use super::{
    super::index::{Index, Pack},
    rules::PruneRules,
};
use crate::repository::{
    RepositoryError,
    blob_table::{Copy, Marks},
    pack::BlobKind,
};

/// A pack below this is small, and so many small ones of a kind are packed together: each backup leaves one or two.
const SMALL_PACK_BYTES: u64 = 1 << 20;
const MANY_SMALL_PACKS: usize = 16;
/// The same for index files.
const SMALL_INDEX_BLOBS: usize = 1000;
const MANY_SMALL_INDEXES: usize = 16;

/// A pack with a longer blob is not packed again, because a blob is verified in memory on the way. Such blobs are the trees of
/// folders with many entries; Stowaway packs each of them alone.
const LONGEST_REPACKED_BYTES: u32 = 16 << 20;

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Keep,
    /// What is needed of it is packed anew, and it goes.
    Repack,
    Remove,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// By the pack's place.
    pub fates: Vec<Fate>,
    /// By the file's place: it goes, and what it says of packs that stay is written anew.
    pub obsolete_files: Vec<bool>,
    /// The one copy of each needed blob that stays, by its place.
    pub chosen: Marks,
    /// Bytes that are packed anew.
    pub repacked_bytes: u64,
    /// Bytes that nothing needs and that stay.
    pub unused_bytes: u64,
}

/// Bytes that blobs and their entries take in a pack.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    used: u64,
    unused: u64,
}

impl Plan {
    /// Plans. `used` are the places of the first copies of all needed blobs.
    pub fn new(index: &Index, used: &Marks, rules: &PruneRules) -> Result<Self, PlanError> {
        let chosen = choose(index, used)?;
        let mut bytes = vec![Bytes::default(); index.packs.len()];
        for copies in index.blobs() {
            for Copy { place, row } in copies? {
                let bytes = &mut bytes[row.pack as usize];
                let sum = if chosen.has(place) { &mut bytes.used } else { &mut bytes.unused };
                *sum += u64::from(row.blob.length) + row.blob.entry_bytes();
            }
        }
        let mut fates: Vec<Fate> =
            bytes.iter().map(|bytes| if bytes.used > 0 { Fate::Keep } else { Fate::Remove }).collect();
        repack(index, &bytes, rules, &mut fates);
        let sum = |fate: Fate, of: fn(&Bytes) -> u64| {
            let packs = bytes.iter().zip(&fates).filter(|(_, planned)| **planned == fate);
            packs.map(|(bytes, _)| of(bytes)).sum()
        };
        let repacked_bytes = sum(Fate::Repack, |bytes| bytes.used);
        let unused_bytes = sum(Fate::Keep, |bytes| bytes.unused);
        let obsolete_files = obsolete(index, &fates);
        Ok(Self { fates, obsolete_files, chosen, repacked_bytes, unused_bytes })
    }

    /// Whether a pack that is there goes without being packed anew.
    pub fn removes(&self, index: &Index) -> bool {
        index.packs.iter().zip(&self.fates).any(|(pack, fate)| pack.size.is_some() && *fate == Fate::Remove)
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    /// The needed blobs are not all there.
    #[error("{0}")]
    Damaged(String),
    /// The index could not be read again.
    #[error(transparent)]
    Index(#[from] RepositoryError),
}

/// Of each needed blob the copy that stays: not in a marked pack if there is another, in a pack of which as much as can be is
/// needed, and then in the one with more in it: what was packed again before, and not what that was made of.
fn choose(index: &Index, used: &Marks) -> Result<Marks, PlanError> {
    let is_whole = |copy: &Copy| {
        let pack = index.pack_of(copy);
        pack.size.is_some() && pack.content.size == pack.size
    };
    let mut needed_bytes = vec![0_u64; index.packs.len()];
    for copies in index.blobs() {
        let copies = copies?;
        if used.has(copies[0].place) {
            for copy in &copies {
                needed_bytes[copy.row.pack as usize] += u64::from(copy.row.blob.length);
            }
        }
    }
    // In thousandths: floats have no order.
    let shares = index.packs.iter().zip(&needed_bytes);
    let needed_shares: Vec<u64> = shares.map(|(pack, needed)| needed * 1000 / pack.content.blob_bytes.max(1)).collect();
    let mut chosen = Marks::new(index.len());
    for copies in index.blobs() {
        let copies = copies?;
        if !used.has(copies[0].place) {
            continue;
        }
        let best = copies.iter().filter(|copy| is_whole(copy)).min_by_key(|copy| {
            let pack = copy.row.pack as usize;
            (index.pack_of(copy).is_marked, Reverse((needed_shares[pack], needed_bytes[pack])), copy.place)
        });
        let best = best.ok_or_else(|| {
            let (blob, pack) = (copies[0].row.blob.id.to_hex(), index.pack_of(&copies[0]).id.to_hex());
            PlanError::Damaged(format!(
                "pack {} with the needed blob {} is missing, or not as long as its index says",
                pack.as_str(),
                blob.as_str()
            ))
        })?;
        chosen.set(best.place);
    }
    Ok(chosen)
}

/// Decides which of the packs that stay are packed anew.
fn repack(index: &Index, bytes: &[Bytes], rules: &PruneRules, fates: &mut [Fate]) {
    let mut room = rules.max_repack.unwrap_or(u64::MAX);
    let used = bytes.iter().map(|bytes| bytes.used).sum();
    let allowed = rules.max_unused.beside(used);

    let may_be_repacked = |pack: usize| index.packs[pack].content.longest <= LONGEST_REPACKED_BYTES;
    let mut partly: Vec<usize> = (0..bytes.len())
        .filter(|pack| fates[*pack] == Fate::Keep && bytes[*pack].unused > 0 && may_be_repacked(*pack))
        .collect();
    // Most is won for least where most of a pack is unused. In thousandths: floats have no order.
    partly.sort_by_key(|pack| {
        let Bytes { used, unused } = bytes[*pack];
        (Reverse(unused * 1000 / (used + unused).max(1)), *pack)
    });
    let mut unused: u64 =
        bytes.iter().zip(&*fates).filter(|(_, fate)| **fate == Fate::Keep).map(|(bytes, _)| bytes.unused).sum();
    for pack in partly {
        if unused <= allowed {
            break;
        }
        if bytes[pack].used <= room {
            room -= bytes[pack].used;
            unused -= bytes[pack].unused;
            fates[pack] = Fate::Repack;
        }
    }

    for kind in [BlobKind::Tree, BlobKind::Data] {
        let is_small = |(number, pack): &(usize, &Pack)| {
            fates[*number] != Fate::Remove
                && pack.size.is_some_and(|size| size < SMALL_PACK_BYTES)
                && pack.content.kind == Some(kind)
        };
        let small: Vec<usize> = index.packs.iter().enumerate().filter(is_small).map(|(number, _)| number).collect();
        if small.len() < MANY_SMALL_PACKS {
            continue;
        }
        for pack in small {
            if fates[pack] == Fate::Keep && bytes[pack].used <= room && may_be_repacked(pack) {
                room -= bytes[pack].used;
                fates[pack] = Fate::Repack;
            }
        }
    }
}

/// An index file goes when it names a pack that goes, or one that another file names, too; when it marks packs; and when
/// there are many small ones.
fn obsolete(index: &Index, fates: &[Fate]) -> Vec<bool> {
    let is_small: Vec<bool> = index.files.iter().map(|file| file.blobs < SMALL_INDEX_BLOBS).collect();
    let many = is_small.iter().filter(|is_small| **is_small).count() >= MANY_SMALL_INDEXES;
    let mut obsolete: Vec<bool> =
        index.files.iter().zip(&is_small).map(|(file, is_small)| file.has_marks || many && *is_small).collect();
    for (pack, fate) in index.packs.iter().zip(fates) {
        if *fate != Fate::Keep || pack.files.len() > 1 {
            for file in &pack.files {
                obsolete[*file as usize] = true;
            }
        }
    }
    obsolete
}

#[cfg(test)]
mod tests;

//! What becomes of each pack and each index file. Pure: a function of the index, of what snapshots reach, and of the rules.

use std::cmp::Reverse;

use super::{
    super::index::{Index, Marks, Pack},
    rules::PruneRules,
};
use crate::repository::pack::BlobKind;

/// A pack below this is small, and so many small ones of a kind are packed together: each backup leaves one or two.
const SMALL_PACK_BYTES: u64 = 1 << 20;
const MANY_SMALL_PACKS: usize = 16;
/// The same for index files.
const SMALL_INDEX_BLOBS: usize = 1000;
const MANY_SMALL_INDEXES: usize = 16;

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
    /// Plans. `used` are the places of the first copies of all needed blobs. Errors: why the needed blobs are not all there.
    pub fn new(index: &Index, used: &Marks, rules: &PruneRules) -> Result<Self, String> {
        let chosen = choose(index, used)?;
        let mut bytes = vec![Bytes::default(); index.packs.len()];
        for (place, row) in index.rows().iter().enumerate() {
            let bytes = &mut bytes[row.pack as usize];
            let sum = if chosen.has(place) { &mut bytes.used } else { &mut bytes.unused };
            *sum += u64::from(row.blob.length) + row.blob.entry_bytes();
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

/// Of each needed blob the copy that stays: not in a marked pack if there is another, in a pack of which as much as can be is
/// needed, and then in the one with more in it: what was packed anew before, and not what that was made of.
fn choose(index: &Index, used: &Marks) -> Result<Marks, String> {
    let is_whole: Vec<bool> = (0..)
        .zip(&index.packs)
        .map(|(number, pack)| pack.size.is_some() && index.expected_size(number) == pack.size)
        .collect();
    let needed = || (0..index.rows().len()).filter(|place| used.has(*place));
    let copies_of = |place: usize| {
        let blob = index.rows()[place].blob;
        index.copies(blob.kind, blob.id)
    };
    let mut needed_bytes = vec![0_u64; index.packs.len()];
    for copy in needed().flat_map(copies_of) {
        let row = &index.rows()[copy];
        needed_bytes[row.pack as usize] += u64::from(row.blob.length);
    }
    // In thousandths: floats have no order.
    let needed_share = |pack: u32| {
        let bytes: u64 = index.blobs_in(pack).map(|blob| u64::from(blob.length)).sum();
        needed_bytes[pack as usize] * 1000 / bytes.max(1)
    };
    let needed_shares: Vec<u64> = (0..).map(needed_share).take(index.packs.len()).collect();
    let mut chosen = Marks::new(index.rows().len());
    for place in needed() {
        let whole = copies_of(place).filter(|copy| is_whole[index.rows()[*copy].pack as usize]);
        let best = whole.min_by_key(|copy| {
            let row = &index.rows()[*copy];
            let pack = row.pack as usize;
            (index.pack_of(row).is_marked, Reverse((needed_shares[pack], needed_bytes[pack])), *copy)
        });
        let best = best.ok_or_else(|| {
            let row = &index.rows()[place];
            let (blob, pack) = (row.blob.id.to_hex(), index.pack_of(row).id.to_hex());
            format!("pack {} with the needed blob {} is missing, or not as long as its index says", &*pack, &*blob)
        })?;
        chosen.set(best);
    }
    Ok(chosen)
}

/// Decides which of the packs that stay are packed anew.
fn repack(index: &Index, bytes: &[Bytes], rules: &PruneRules, fates: &mut [Fate]) {
    let mut room = rules.max_repack.unwrap_or(u64::MAX);
    let used = bytes.iter().map(|bytes| bytes.used).sum();
    let allowed = rules.max_unused.beside(used);

    let mut partly: Vec<usize> =
        (0..bytes.len()).filter(|pack| fates[*pack] == Fate::Keep && bytes[*pack].unused > 0).collect();
    // Most is won for least where most of a pack is unused. In thousandths: floats have no order.
    partly.sort_by_key(|pack| {
        let Bytes { used, unused } = bytes[*pack];
        (Reverse(unused * 1000 / (used + unused).max(1)), *pack)
    });
    let mut unused: u64 = partly.iter().map(|pack| bytes[*pack].unused).sum();
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
            let first = u32::try_from(*number).ok().and_then(|number| index.blobs_in(number).next());
            fates[*number] != Fate::Remove
                && pack.size.is_some_and(|size| size < SMALL_PACK_BYTES)
                && first.is_some_and(|blob| blob.kind == kind)
        };
        let small: Vec<usize> = index.packs.iter().enumerate().filter(is_small).map(|(number, _)| number).collect();
        if small.len() < MANY_SMALL_PACKS {
            continue;
        }
        for pack in small {
            if fates[pack] == Fate::Keep && bytes[pack].used <= room {
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

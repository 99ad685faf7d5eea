//! Checks that packs are in the store, with the length that follows from their index files.
//!
//! One listing covers all packs. A pack that the listing does not confirm is checked with a request of its own before
//! it counts as missing, because some stores list files without sizes.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    RepositoryError,
    format::{Id, PackedBlob},
    pack::HEADER_BYTES,
    store::{Kind, Store},
};

/// How many files are checked in parallel.
pub(crate) const PARALLEL_STATS: usize = 16;
/// The number of unconfirmed packs that are checked first. If none of them is in the store, the others are not checked
/// one by one.
const SAMPLE: usize = 64;
/// Up to this number of packs are checked one by one; more packs are checked with a listing.
const FEW: usize = 64;

/// The length that a pack must have, which follows from the blobs that its index file lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PackLength {
    Exactly(u64),
    /// The index file does not list all blobs of the pack.
    AtLeast(u64),
}

impl PackLength {
    pub fn of(blobs: &[PackedBlob]) -> Self {
        let mut ranges: Vec<(u32, u32)> = blobs.iter().map(|blob| (blob.offset, blob.end())).collect();
        ranges.sort_unstable();
        let end = ranges.iter().map(|(_, end)| u64::from(*end)).max().unwrap_or(0);
        let has_gaps =
            ranges.first().is_none_or(|(start, _)| *start != 0) || ranges.windows(2).any(|pair| pair[0].1 != pair[1].0);
        if has_gaps {
            return Self::AtLeast(end);
        }
        let entries: u64 = blobs.iter().map(PackedBlob::entry_bytes).sum();
        Self::Exactly(end + HEADER_BYTES + entries)
    }

    pub fn fits(self, size: u64) -> bool {
        match self {
            Self::Exactly(bytes) => bytes == size,
            Self::AtLeast(bytes) => bytes <= size,
        }
    }
}

/// Returns the length of each pack in the store. The length is none if the pack is missing or has a wrong length.
pub(crate) async fn sizes(
    store: &Store,
    packs: &[Id],
    lengths: &[PackLength],
) -> Result<Vec<Option<u64>>, RepositoryError> {
    if packs.is_empty() {
        return Ok(Vec::new());
    }
    let listed: HashMap<Id, u64> = store.list(Kind::Pack).await?.into_iter().collect();
    let both = packs.iter().zip(lengths);
    let mut sizes: Vec<Option<u64>> =
        both.map(|(id, length)| listed.get(id).copied().filter(|size| length.fits(*size))).collect();
    drop(listed);
    let unconfirmed: Vec<usize> =
        sizes.iter().enumerate().filter(|(_, size)| size.is_none()).map(|(index, _)| index).collect();
    let (sample, others) = unconfirmed.split_at(unconfirmed.len().min(SAMPLE));
    for indices in [sample, others] {
        let requests = indices.iter().map(|index| async move {
            let size = store.stat(Kind::Pack, &packs[*index]).await?;
            Ok::<_, RepositoryError>((*index, size.filter(|size| lengths[*index].fits(*size))))
        });
        let results: Vec<_> = stream::iter(requests).buffer_unordered(PARALLEL_STATS).try_collect().await?;
        let is_any_found = results.iter().any(|(_, size)| size.is_some());
        for (index, size) in results {
            sizes[index] = size;
        }
        if !is_any_found {
            break;
        }
    }
    Ok(sizes)
}

/// Fails unless each pack, which a new snapshot needs, is in the store and has this length.
pub(crate) async fn look_for_packs(store: &Store, packs: &[(Id, u64)]) -> Result<(), RepositoryError> {
    if packs.len() <= FEW {
        let files: Vec<(Kind, Id, u64)> = packs.iter().map(|(id, size)| (Kind::Pack, *id, *size)).collect();
        return look_for(store, &files).await;
    }
    let (ids, lengths): (Vec<Id>, Vec<PackLength>) =
        packs.iter().map(|(id, size)| (*id, PackLength::Exactly(*size))).unzip();
    let sizes = sizes(store, &ids, &lengths).await?;
    match packs.iter().zip(&sizes).find(|(_, size)| size.is_none()) {
        None => Ok(()),
        Some(((id, size), _)) => Err(lost(store, Kind::Pack, id, *size, None)),
    }
}

/// Fails unless each file is in the store and has this length.
pub(crate) async fn look_for(store: &Store, files: &[(Kind, Id, u64)]) -> Result<(), RepositoryError> {
    let requests = files.iter().map(|(kind, id, size)| async move {
        match store.stat(*kind, id).await? {
            Some(found) if found == *size => Ok(()),
            found => Err(lost(store, *kind, id, *size, found)),
        }
    });
    stream::iter(requests).buffer_unordered(PARALLEL_STATS).try_collect().await
}

fn lost(store: &Store, kind: Kind, id: &Id, size: u64, found: Option<u64>) -> RepositoryError {
    let path = kind.path(id);
    let found = found.map_or_else(
        || format!("{path} of {size} bytes is needed but is missing from the store"),
        |found| format!("{path} is needed with {size} bytes but has {found}"),
    );
    store.damaged(format!(
        "{found}: find out what removes or truncates files of the store (a lifecycle rule, a copy tool, a failing \
         disk), then run it again; a backup stores missing data again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BlobKind;

    fn blob(offset: u32, length: u32, is_compressed: bool) -> PackedBlob {
        let uncompressed_length = is_compressed.then_some(1);
        PackedBlob { id: Id::new([7; 32]), kind: BlobKind::Data, offset, length, uncompressed_length }
    }

    #[test]
    fn length_of_a_pack_follows_from_its_blobs() {
        let whole = PackLength::of(&[blob(10, 5, true), blob(0, 10, false)]);
        assert_eq!(whole, PackLength::Exactly(15 + HEADER_BYTES + 37 + 41));
        assert!(whole.fits(15 + HEADER_BYTES + 78) && !whole.fits(15) && !whole.fits(0));
        for in_part in
            [&[blob(1, 5, true)][..], &[blob(0, 2, true), blob(3, 5, true)], &[blob(0, 9, true), blob(3, 5, true)]]
        {
            let length = PackLength::of(in_part);
            assert!(matches!(length, PackLength::AtLeast(6..=9)), "{length:?}");
            assert!(length.fits(100) && !length.fits(5));
        }
    }
}

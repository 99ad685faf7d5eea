//! Whether packs are in the store, and as long as their index files say.
//!
//! One listing answers for all of them; a pack that the listing does not confirm is looked at on its own before it counts as
//! missing, because some stores list files without sizes. It must not know what is in the packs.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use rustic_core::Id;

use super::{
    RepositoryError,
    pack::{HEADER_BYTES, PackedBlob},
    store::{Kind, Store},
};

/// How many files are looked at at the same time.
pub(super) const PARALLEL_LOOKS: usize = 16;
/// If none of so many packs that the listing lacks is there, the others are not looked at one by one.
const SAMPLE: usize = 64;
/// Up to so many packs are looked at one by one, more of them by a listing.
const FEW: usize = 64;

/// How long a pack must be, from the entries of its blobs in an index file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PackLength {
    /// So many bytes.
    Exactly(u64),
    /// The index file does not name all that is in it.
    AtLeast(u64),
}

impl PackLength {
    pub fn of(blobs: &[PackedBlob]) -> Self {
        let mut places: Vec<(u32, u32)> = blobs.iter().map(|blob| (blob.offset, blob.end())).collect();
        places.sort_unstable();
        let end = places.iter().map(|(_, end)| u64::from(*end)).max().unwrap_or(0);
        let has_gaps =
            places.first().is_none_or(|(start, _)| *start != 0) || places.windows(2).any(|pair| pair[0].1 != pair[1].0);
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

/// The length of each of these packs in the store; none of those that are missing or have not the length that they must
/// have.
pub(super) async fn sizes(
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
    let doubtful: Vec<usize> =
        sizes.iter().enumerate().filter(|(_, size)| size.is_none()).map(|(place, _)| place).collect();
    let (sample, others) = doubtful.split_at(doubtful.len().min(SAMPLE));
    for places in [sample, others] {
        let looks = places.iter().map(|place| async move {
            let size = store.stat(Kind::Pack, &packs[*place]).await?;
            Ok::<_, RepositoryError>((*place, size.filter(|size| lengths[*place].fits(*size))))
        });
        let looks: Vec<_> = stream::iter(looks).buffer_unordered(PARALLEL_LOOKS).try_collect().await?;
        let is_any_there = looks.iter().any(|(_, size)| size.is_some());
        for (place, size) in looks {
            sizes[place] = size;
        }
        if !is_any_there {
            break;
        }
    }
    Ok(sizes)
}

/// Fails unless each of these packs, which a snapshot is about to need, is in the store and has that length.
pub(super) async fn look_for_packs(store: &Store, packs: &[(Id, u64)]) -> Result<(), RepositoryError> {
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

/// Fails unless each file is there, and as long as it must be.
pub(super) async fn look_for(store: &Store, files: &[(Kind, Id, u64)]) -> Result<(), RepositoryError> {
    let looks = files.iter().map(|(kind, id, size)| async move {
        match store.stat(*kind, id).await? {
            Some(found) if found == *size => Ok(()),
            found => Err(lost(store, *kind, id, *size, found)),
        }
    });
    stream::iter(looks).buffer_unordered(PARALLEL_LOOKS).try_collect().await
}

fn lost(store: &Store, kind: Kind, id: &Id, size: u64, found: Option<u64>) -> RepositoryError {
    let path = kind.path(id);
    let found = found.map_or_else(
        || format!("{path} of {size} bytes is needed and is not there any more"),
        |found| format!("{path} is needed with {size} bytes and has {found}"),
    );
    store.damaged(format!(
        "{found}: find out what removes or cuts files of the store (a lifecycle rule, a copy tool, a failing disk), then run \
         it again; a backup stores again what is missing"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::pack::BlobKind;

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

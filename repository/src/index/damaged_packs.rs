//! Finds out which packs of a repository a run must not rely on: those that a check has listed, and the damaged ones of
//! a part of the data in which a check found more damage than it could list.

use std::pin::pin;

use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::{RepositoryError, format::Id, store::Store};
use stowaway_model::{DamagedPacks, DataPart};

/// How many packs are read at a time, and how much of a pack one request reads.
const PACKS_AT_ONCE: usize = 4;
const REQUEST_BYTES: u64 = 4 << 20;

/// Returns the indices of those packs that the list contains. `packs` are the packs' ids.
pub(crate) fn listed<'a>(packs: impl IntoIterator<Item = &'a Id>, reported: &DamagedPacks) -> Vec<usize> {
    let prefixes = reported.prefixes();
    if prefixes.is_empty() {
        return Vec::new();
    }
    let is_listed = |id: &Id| {
        let bytes = id.bytes();
        bytes.first_chunk().is_some_and(|first| prefixes.contains(&u64::from_be_bytes(*first)))
    };
    packs.into_iter().enumerate().filter(|(_, id)| is_listed(id)).map(|(index, _)| index).collect()
}

/// Whether a pack belongs to a part of the data.
pub(crate) fn is_in(pack: &Id, part: DataPart) -> bool {
    part.has(pack.bytes()[0])
}

/// Reads all of these packs, and returns the indices of those whose content does not match their id. Each pack has its
/// index, id and length.
pub(crate) async fn find(store: &Store, packs: Vec<(usize, Id, u64)>) -> Result<Vec<usize>, RepositoryError> {
    let reads = packs.into_iter().map(|(index, id, size)| async move {
        // A damaged pack is read again, because a bit may have flipped in transit.
        let is_intact = is_intact(store, id, size).await? || is_intact(store, id, size).await?;
        Ok::<_, RepositoryError>((index, is_intact))
    });
    let mut reads = pin!(stream::iter(reads).buffer_unordered(PACKS_AT_ONCE));
    let mut damaged = Vec::new();
    while let Some(read) = reads.next().await {
        let (index, is_intact) = read?;
        if !is_intact {
            damaged.push(index);
        }
    }
    Ok(damaged)
}

async fn is_intact(store: &Store, id: Id, size: u64) -> Result<bool, RepositoryError> {
    let mut hash = Sha256::default();
    let mut offset = 0;
    while offset < size {
        let length = REQUEST_BYTES.min(size - offset);
        let (Ok(at), Ok(wanted)) = (u32::try_from(offset), u32::try_from(length)) else { return Ok(false) };
        match store.read_range(&id, at, wanted).await {
            Ok(bytes) => hash.update(&bytes),
            Err(RepositoryError::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        offset += length;
    }
    Ok(Id::new(hash.finalize().into()) == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_found_by_the_first_digits_of_their_ids() {
        let id = |first: u8, last: u8| {
            let mut id = [first; 32];
            id[31] = last;
            Id::new(id)
        };
        let packs = [id(0xab, 1), id(0xcd, 1), id(0xab, 2)];
        let list = |ids: &[String]| DamagedPacks { ids: ids.to_vec(), more_in: None };
        assert_eq!(listed(&packs, &list(&["ab".repeat(8)])), [0, 2]);
        assert_eq!(listed(&packs, &list(&["CD".repeat(32), "ab".to_owned()])), [1]);
        assert_eq!(listed(&packs, &DamagedPacks::default()), Vec::<usize>::new());
        assert!(is_in(&id(2, 0), "3/4".parse().unwrap()) && !is_in(&id(2, 0), "2/4".parse().unwrap()));
    }
}

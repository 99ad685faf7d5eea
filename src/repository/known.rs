//! What a repository has already, by its index files and by a listing of its packs: which blobs, and where its trees are.
//!
//! A blob whose pack is missing, or has not the length that the index gives it, is not known, so that it is stored again. It
//! must not know what is to be stored.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, stream};
use rustic_core::Id;

use super::{
    RepositoryError,
    crypto::{Cipher, OVERHEAD_BYTES},
    index_file::{IndexFile, IndexedPack, PARALLEL_READS},
    pack::{BlobKind, PackedBlob},
    pack_check::{self, PackLength},
    part::Part,
    store::{Kind, Store},
};

/// The blobs of all packs that the store has and that no prune has marked.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Sorted by id.
    data: Vec<KnownData>,
    /// Sorted by their ids.
    trees: Vec<(Part, u32)>,
    /// By their numbers: each pack as an index file names it, and its length in the store.
    packs: Vec<(Id, u64)>,
    /// One bit a pack: whether the caller uses one of its blobs.
    used: Vec<AtomicU64>,
    /// What the index files name and that cannot be read.
    pub lacking: Lacking,
}

/// A data blob. There are as many as the repository has chunks, so that each byte here counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct KnownData {
    id: Id,
    /// The number of its pack.
    pack: u32,
    /// Before compression and encryption.
    plain_length: u32,
}

/// What a repository should have and has not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lacking {
    /// Packs that are missing, or are not as long as their index files say.
    pub packs: u64,
    /// Index files that cannot be read.
    pub index_files: u64,
    /// The path of the first one.
    pub first: String,
}

impl Lacking {
    /// Whether nothing is missing.
    pub fn is_nothing(&self) -> bool {
        self.packs == 0 && self.index_files == 0
    }

    fn add_index_file(&mut self, path: String) {
        self.index_files += 1;
        self.name(path);
    }

    fn add_pack(&mut self, id: &Id) {
        self.packs += 1;
        self.name(Kind::Pack.path(id));
    }

    fn name(&mut self, path: String) {
        if self.first.is_empty() {
            self.first = path;
        }
    }
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} packs of the repository are missing or have another length than their index says, and {} of its index files \
             cannot be read, such as {}; what this run needs of them was stored again, but older snapshots may have lost \
             data: run `stowaway check`, which names them",
            self.packs, self.index_files, self.first
        )
    }
}

impl Known {
    /// Reads all index files, and lists all packs. What is in an index file that cannot be read, or in a pack that is missing
    /// or has another length, is not known: it is reported in `lacking`, and logged.
    pub async fn read(cipher: &Cipher, store: &Store) -> Result<Self, RepositoryError> {
        let listed = store.list(Kind::Index).await?;
        let reads = listed.into_iter().map(|(id, _)| async move { (id, IndexFile::read(cipher, store, id).await) });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
        let (mut known, mut lengths) = (Self::default(), Vec::new());
        while let Some((id, read)) = reads.next().await {
            match read? {
                Ok(file) => file.packs.into_iter().for_each(|pack| known.add(pack, &mut lengths)),
                Err(why) => {
                    let path = Kind::Index.path(&id);
                    tracing::warn!("{path} cannot be read, and what it names counts as not stored: {why}");
                    known.lacking.add_index_file(path);
                }
            }
        }
        // After the index files: no index file names a pack that was not there before it.
        let sizes = pack_check::sizes(store, &known.packs, &lengths).await?;
        known.keep(&sizes);
        if !known.lacking.is_nothing() {
            tracing::warn!("{}", known.lacking);
        }
        Ok(known)
    }

    fn add(&mut self, pack: IndexedPack, lengths: &mut Vec<PackLength>) {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push((pack.id, 0));
        lengths.push(PackLength::of(&pack.blobs));
        for blob in pack.blobs {
            match blob.kind {
                BlobKind::Data => {
                    let plain_length = blob.plain_length();
                    self.data.push(KnownData { id: blob.id, pack: number, plain_length });
                }
                BlobKind::Tree => self.trees.push((blob.part(pack.id), number)),
            }
        }
    }

    /// Keeps the blobs of those packs that have a size, which is their length in the store.
    fn keep(&mut self, sizes: &[Option<u64>]) {
        let size = |number: u32| sizes.get(number as usize).copied().flatten();
        self.data.sort_unstable();
        self.trees.sort_unstable_by_key(|(tree, _)| tree.id);
        self.report_lost(|pack| size(pack).is_none());
        self.data.retain(|blob| size(blob.pack).is_some());
        self.trees.retain(|(_, pack)| size(*pack).is_some());
        for (number, pack) in (0..).zip(&mut self.packs) {
            pack.1 = size(number).unwrap_or(0);
        }
        self.data.dedup_by_key(|blob| blob.id);
        self.data.shrink_to_fit();
        self.trees.dedup_by_key(|(tree, _)| tree.id);
        self.used = (0..self.packs.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
    }

    /// Reports the packs that are missing and hold a blob of which there is no other copy. Blobs are sorted.
    fn report_lost(&mut self, is_missing: impl Fn(u32) -> bool) {
        let mut lost = BTreeSet::new();
        for copies in self.data.chunk_by(|one, other| one.id == other.id) {
            if copies.iter().all(|blob| is_missing(blob.pack)) {
                lost.extend(copies.iter().map(|blob| blob.pack));
            }
        }
        for copies in self.trees.chunk_by(|(one, _), (other, _)| one.id == other.id) {
            if copies.iter().all(|(_, pack)| is_missing(*pack)) {
                lost.extend(copies.iter().map(|(_, pack)| *pack));
            }
        }
        for (id, _) in lost.iter().filter_map(|pack| self.packs.get(*pack as usize)) {
            self.lacking.add_pack(id);
        }
    }

    /// The plain length of a blob, if it is there; then the caller uses it, and its pack is one of [`Self::used_packs`].
    pub fn take(&self, kind: BlobKind, id: Id) -> Option<u32> {
        let (pack, plain_length) = match kind {
            BlobKind::Data => {
                let place = self.data.binary_search_by_key(&id, |blob| blob.id).ok()?;
                (self.data[place].pack, self.data[place].plain_length)
            }
            BlobKind::Tree => {
                let (part, pack) = &self.trees[self.place_of_tree(id)?];
                (*pack, part.plain_length)
            }
        };
        if let Some(word) = self.used.get(pack as usize / 64) {
            word.fetch_or(1 << (pack % 64), Ordering::Relaxed);
        }
        Some(plain_length)
    }

    /// The packs of all blobs that were taken, with their lengths.
    pub fn used_packs(&self) -> Vec<(Id, u64)> {
        let is_used = |number: usize| {
            self.used.get(number / 64).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (number % 64)) != 0)
        };
        self.packs.iter().enumerate().filter(|(number, _)| is_used(*number)).map(|(_, pack)| *pack).collect()
    }

    /// Where a tree is.
    pub fn tree(&self, id: Id) -> Option<Part> {
        self.place_of_tree(id).map(|place| self.trees[place].0)
    }

    fn place_of_tree(&self, id: Id) -> Option<usize> {
        self.trees.binary_search_by_key(&id, |(tree, _)| tree.id).ok()
    }
}

impl PackedBlob {
    fn plain_length(&self) -> u32 {
        let plain = self.length.saturating_sub(u32::try_from(OVERHEAD_BYTES).unwrap_or(0));
        self.uncompressed_length.unwrap_or(plain)
    }

    /// As something to fetch out of that pack.
    pub fn part(&self, pack: Id) -> Part {
        Part {
            id: self.id,
            pack,
            offset: self.offset,
            length: self.length,
            plain_length: self.plain_length(),
            compressed: self.uncompressed_length.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: BlobKind, id: u8) -> PackedBlob {
        PackedBlob { id: Id::new([id; 32]), kind, offset: 7, length: 40, uncompressed_length: None }
    }

    fn known(sizes: &[Option<u64>]) -> Known {
        let (mut known, mut lengths) = (Known::default(), Vec::new());
        for (pack, blobs) in
            [(9, vec![blob(BlobKind::Data, 3), blob(BlobKind::Data, 1)]), (8, vec![blob(BlobKind::Tree, 2)])]
        {
            known.add(IndexedPack { id: Id::new([pack; 32]), blobs }, &mut lengths);
        }
        known.keep(sizes);
        known
    }

    #[test]
    fn blobs_are_known_by_kind_and_id() {
        let known = known(&[Some(70), Some(71)]);
        let has = |kind, id| known.take(kind, Id::new([id; 32])) == Some(8);
        assert!(has(BlobKind::Data, 1) && has(BlobKind::Data, 3) && has(BlobKind::Tree, 2));
        assert!(!has(BlobKind::Tree, 1) && !has(BlobKind::Data, 2));
        let tree = known.tree(Id::new([2; 32])).unwrap();
        assert_eq!((tree.pack, tree.offset, tree.length, tree.plain_length), (Id::new([8; 32]), 7, 40, 8));
    }

    #[test]
    fn blobs_of_a_pack_that_is_not_there_are_not_known() {
        let known = known(&[None, Some(71)]);
        assert_eq!(known.take(BlobKind::Data, Id::new([1; 32])), None);
        assert_eq!(known.take(BlobKind::Tree, Id::new([2; 32])), Some(8));
        assert_eq!((known.lacking.packs, known.lacking.index_files), (1, 0));
        assert!(known.lacking.to_string().contains(&Kind::Pack.path(&Id::new([9; 32]))), "{}", known.lacking);
    }

    #[test]
    fn pack_of_which_all_is_stored_elsewhere_is_not_lacking() {
        let (mut known, mut lengths) = (Known::default(), Vec::new());
        for pack in [4, 5] {
            let blobs = vec![blob(BlobKind::Data, 1), blob(BlobKind::Tree, 2)];
            known.add(IndexedPack { id: Id::new([pack; 32]), blobs }, &mut lengths);
        }
        known.keep(&[None, Some(71)]);
        assert!(known.lacking.is_nothing(), "{}", known.lacking);
        known.take(BlobKind::Data, Id::new([1; 32]));
        assert_eq!(known.tree(Id::new([2; 32])).unwrap().pack, Id::new([5; 32]));
        assert_eq!(known.used_packs(), [(Id::new([5; 32]), 71)]);
    }

    #[test]
    fn only_packs_of_blobs_that_were_taken_are_used() {
        let known = known(&[Some(70), Some(71)]);
        assert_eq!(known.used_packs(), []);
        known.take(BlobKind::Tree, Id::new([2; 32]));
        assert_eq!(known.used_packs(), [(Id::new([8; 32]), 71)]);
    }
}

//! The blobs that a repository has, and their locations, from its index files and a listing of its packs.
//!
//! A blob whose pack is missing, or does not have the length that follows from the index, counts as missing, so that a
//! backup stores it again.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use rustic_core::Id;

use super::{
    RepositoryError,
    blob_location::BlobLocation,
    blob_table::{BlobTable, BlobTableBuilder, Copy, Row},
    crypto::{Cipher, OVERHEAD_BYTES},
    index_file::{IndexFile, IndexedPack},
    pack::{BlobKind, PackedBlob},
    pack_check::{self, PackLength},
    store::{Kind, Store},
};

/// The blobs of all packs that are in the store and not marked by a prune.
#[derive(Debug, Default)]
pub(super) struct KnownBlobs {
    blobs: BlobTable,
    /// The packs that the index files list, by their numbers, with their lengths in the store. The length is none if
    /// the pack is missing, or if its length differs from the one that follows from the index file.
    packs: Vec<(Id, Option<u64>)>,
    /// One bit for each pack: whether the caller uses one of its blobs.
    used: Vec<AtomicU64>,
    /// Packs that are missing and index files that cannot be read.
    pub lacking: Lacking,
}

/// A blob that the repository has.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownBlob {
    /// The blob's number: the index of its row in the table.
    pub number: usize,
    pub part: BlobLocation,
}

/// Files that are missing from a repository, or cannot be used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lacking {
    /// Packs that are missing, or have another length than follows from their index files.
    pub packs: u64,
    /// Index files that cannot be read.
    pub index_files: u64,
    /// The path of the first of these files.
    pub first: String,
}

impl Lacking {
    /// Whether nothing is missing.
    pub fn is_nothing(&self) -> bool {
        self.packs == 0 && self.index_files == 0
    }

    /// Returns the end of a sentence which reports a missing blob. It states that files are missing, if any are.
    pub(super) fn as_cause(&self) -> String {
        if self.is_nothing() {
            return String::new();
        }
        let count = self.packs + self.index_files;
        let first = &self.first;
        format!("; {count} packs or index files are missing, truncated or unreadable, such as {first}")
    }

    fn add_index_file(&mut self, path: String) {
        self.index_files += 1;
        self.set_first(path);
    }

    fn add_pack(&mut self, id: &Id) {
        self.packs += 1;
        self.set_first(Kind::Pack.path(id));
    }

    fn set_first(&mut self, path: String) {
        if self.first.is_empty() {
            self.first = path;
        }
    }
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} packs of the repository are missing or do not have the length that the index specifies, and {} of its \
             index files cannot be read, such as {}; this run stored the data that it needs of them again, but older \
             snapshots may have lost data: run `stowaway check`, which lists the damaged snapshots",
            self.packs, self.index_files, self.first
        )
    }
}

impl KnownBlobs {
    /// Reads all index files and lists all packs. Blobs of an index file that cannot be read, or of a pack that is
    /// missing or has another length, count as missing. Such files are reported in `lacking`; unreadable index files
    /// are also logged.
    pub async fn read(cipher: &Cipher, store: &Store) -> Result<Self, RepositoryError> {
        let mut building = Building::default();
        IndexFile::read_each(cipher, store, |id, read| {
            match read {
                Ok(file) => file.packs.into_iter().try_for_each(|pack| building.add(pack))?,
                Err(why) => {
                    let path = Kind::Index.path(&id);
                    tracing::warn!("{path} cannot be read, so the blobs that it lists count as missing: {why}");
                    building.lacking.add_index_file(path);
                }
            }
            Ok(())
        })
        .await?;
        // The packs are listed after the index files were read, because a pack is written before the index file that
        // lists it.
        let sizes = pack_check::sizes(store, &building.packs, &building.lengths).await?;
        building.finish(sizes)
    }

    /// As [`Self::read`], for a run that stores missing blobs again. Logs a warning if files are missing.
    pub async fn read_to_store(cipher: &Cipher, store: &Store) -> Result<Self, RepositoryError> {
        let known = Self::read(cipher, store).await?;
        if !known.lacking.is_nothing() {
            tracing::warn!("{}", known.lacking);
        }
        Ok(known)
    }

    /// Returns how many copies of blobs the index files list. The number of a blob is less than that.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Returns a blob if the repository has it.
    pub fn find(&self, kind: BlobKind, id: Id) -> Result<Option<KnownBlob>, RepositoryError> {
        Ok(self.first_copy(kind, id)?.map(|Copy { row_number: number, row }| {
            let (pack, _) = self.packs[row.pack as usize];
            KnownBlob { number, part: row.blob.part(pack) }
        }))
    }

    /// Returns a blob if the repository has it, and adds its pack to [`Self::used_packs`].
    pub fn take(&self, kind: BlobKind, id: Id) -> Result<Option<KnownBlob>, RepositoryError> {
        let Some(Copy { row_number: number, row }) = self.first_copy(kind, id)? else { return Ok(None) };
        if let Some(bits) = self.used.get(row.pack as usize / 64) {
            bits.fetch_or(1 << (row.pack % 64), Ordering::Relaxed);
        }
        let (pack, _) = self.packs[row.pack as usize];
        Ok(Some(KnownBlob { number, part: row.blob.part(pack) }))
    }

    fn first_copy(&self, kind: BlobKind, id: Id) -> Result<Option<Copy>, RepositoryError> {
        Ok(self.blobs.copies(kind, id)?.into_iter().find(|copy| self.packs[copy.row.pack as usize].1.is_some()))
    }

    /// Returns the location of the blob with this number.
    pub fn part_at(&self, number: usize) -> Result<BlobLocation, RepositoryError> {
        let row = self.blobs.row(number)?;
        let (pack, _) = self.packs[row.pack as usize];
        Ok(row.blob.part(pack))
    }

    /// Returns the packs of all blobs that [`Self::take`] returned, with their lengths.
    pub fn used_packs(&self) -> Vec<(Id, u64)> {
        let is_used = |number: usize| {
            self.used.get(number / 64).is_some_and(|bits| bits.load(Ordering::Relaxed) & (1 << (number % 64)) != 0)
        };
        let used = self.packs.iter().enumerate().filter(|(number, _)| is_used(*number));
        used.filter_map(|(_, (id, size))| Some((*id, (*size)?))).collect()
    }
}

/// The content of the index files, before the packs were listed.
#[derive(Default)]
struct Building {
    blobs: BlobTableBuilder,
    packs: Vec<Id>,
    lengths: Vec<PackLength>,
    lacking: Lacking,
}

impl Building {
    fn add(&mut self, pack: IndexedPack) -> Result<(), RepositoryError> {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(pack.id);
        self.lengths.push(PackLength::of(&pack.blobs));
        pack.blobs.into_iter().try_for_each(|blob| self.blobs.add(Row { blob, pack: number }))
    }

    fn finish(self, sizes: Vec<Option<u64>>) -> Result<KnownBlobs, RepositoryError> {
        let blobs = self.blobs.finish()?;
        let used = (0..self.packs.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let packs = self.packs.into_iter().zip(sizes).collect();
        let mut known = KnownBlobs { blobs, packs, used, lacking: self.lacking };
        known.report_lost()?;
        Ok(known)
    }
}

impl KnownBlobs {
    /// Adds to `lacking` each missing pack which contains a blob without another copy.
    fn report_lost(&mut self) -> Result<(), RepositoryError> {
        if self.packs.iter().all(|(_, size)| size.is_some()) {
            return Ok(());
        }
        let mut lost = BTreeSet::new();
        for copies in self.blobs.blobs() {
            let copies = copies?;
            if copies.iter().all(|copy| self.packs[copy.row.pack as usize].1.is_none()) {
                lost.extend(copies.iter().map(|copy| copy.row.pack));
            }
        }
        for pack in lost {
            self.lacking.add_pack(&self.packs[pack as usize].0);
        }
        Ok(())
    }
}

impl PackedBlob {
    /// Returns the blob's length before compression.
    pub fn plain_length(&self) -> u32 {
        let plain = self.length.saturating_sub(u32::try_from(OVERHEAD_BYTES).unwrap_or(0));
        self.uncompressed_length.unwrap_or(plain)
    }

    /// Returns the blob's location, for fetching it from `pack`.
    pub fn part(&self, pack: Id) -> BlobLocation {
        BlobLocation {
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

    fn known_of(packs: impl IntoIterator<Item = (u8, Vec<PackedBlob>)>, sizes: &[Option<u64>]) -> KnownBlobs {
        let mut building = Building::default();
        for (pack, blobs) in packs {
            building.add(IndexedPack { id: Id::new([pack; 32]), blobs }).unwrap();
        }
        building.finish(sizes.to_vec()).unwrap()
    }

    fn known(sizes: &[Option<u64>]) -> KnownBlobs {
        let packs = [(9, vec![blob(BlobKind::Data, 3), blob(BlobKind::Data, 1)]), (8, vec![blob(BlobKind::Tree, 2)])];
        known_of(packs, sizes)
    }

    fn length(known: &KnownBlobs, kind: BlobKind, id: u8) -> Option<u32> {
        known.take(kind, Id::new([id; 32])).unwrap().map(|blob| blob.part.plain_length)
    }

    #[test]
    fn blobs_are_known_by_kind_and_id() {
        let known = known(&[Some(70), Some(71)]);
        let has = |kind, id| length(&known, kind, id) == Some(8);
        assert!(has(BlobKind::Data, 1) && has(BlobKind::Data, 3) && has(BlobKind::Tree, 2));
        assert!(!has(BlobKind::Tree, 1) && !has(BlobKind::Data, 2));
        let tree = known.find(BlobKind::Tree, Id::new([2; 32])).unwrap().unwrap().part;
        assert_eq!((tree.pack, tree.offset, tree.length, tree.plain_length), (Id::new([8; 32]), 7, 40, 8));
    }

    #[test]
    fn blobs_of_a_missing_pack_are_not_known() {
        let known = known(&[None, Some(71)]);
        assert_eq!(length(&known, BlobKind::Data, 1), None);
        assert_eq!(length(&known, BlobKind::Tree, 2), Some(8));
        assert_eq!((known.lacking.packs, known.lacking.index_files), (1, 0));
        assert!(known.lacking.to_string().contains(&Kind::Pack.path(&Id::new([9; 32]))), "{}", known.lacking);
    }

    #[test]
    fn missing_pack_whose_blobs_have_other_copies_is_not_lacking() {
        let packs = [4, 5].map(|pack| (pack, vec![blob(BlobKind::Data, 1), blob(BlobKind::Tree, 2)]));
        let known = known_of(packs, &[None, Some(71)]);
        assert!(known.lacking.is_nothing(), "{}", known.lacking);
        assert_eq!(length(&known, BlobKind::Data, 1), Some(8));
        assert_eq!(known.find(BlobKind::Tree, Id::new([2; 32])).unwrap().unwrap().part.pack, Id::new([5; 32]));
        assert_eq!(known.used_packs(), [(Id::new([5; 32]), 71)]);
    }

    #[test]
    fn only_packs_of_blobs_that_were_taken_are_used() {
        let known = known(&[Some(70), Some(71)]);
        assert_eq!(known.used_packs(), []);
        known.take(BlobKind::Tree, Id::new([2; 32])).unwrap();
        assert_eq!(known.used_packs(), [(Id::new([8; 32]), 71)]);
    }
}

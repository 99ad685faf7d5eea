//! All index files as one table: what blobs there are, in which packs, and which of those packs the store has.
//!
//! It must not know what blobs are needed.

use std::{collections::HashMap, ops::Range};

use futures::{StreamExt, stream};
use rustic_core::Id;
use tokio::task::spawn_blocking;

use super::findings::{Finding, Findings};
use crate::repository::{
    Repository, RepositoryError,
    archive::internal,
    index_file::{IndexFile, PARALLEL_READS},
    pack::{BlobKind, HEADER_BYTES, PackedBlob},
    part::Part,
    store::{Kind, Store},
};

/// A pack that is in an index, in the store, or in both.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    pub id: Id,
    /// Bytes in the store; none if it is not there.
    pub size: Option<u64>,
    /// In which index files it is, by their place in [`Index::files`].
    pub files: Vec<u32>,
    /// Only marked as removable.
    pub is_marked: bool,
}

/// One copy of a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub blob: PackedBlob,
    /// Its pack's place in [`Index::packs`].
    pub pack: u32,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The index files that could be read.
    pub files: Vec<IndexFileSummary>,
    pub packs: Vec<Pack>,
    /// By kind, id and pack, each copy once.
    rows: Vec<Row>,
    /// Places in `rows`, by pack and offset.
    by_pack: Vec<u32>,
}

/// What is kept of an index file.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexFileSummary {
    pub id: Id,
    pub blobs: usize,
    /// Whether it marks packs as removable.
    pub has_marks: bool,
}

impl Index {
    /// Reads all index files and lists all packs. What cannot be read of the index becomes a finding; what the store does
    /// not answer is an error.
    pub async fn read(
        repository: &Repository,
        store: &Store,
        findings: &mut Findings,
    ) -> Result<Self, RepositoryError> {
        let listed = store.list(Kind::Index).await?;
        let reads =
            listed.into_iter().map(|(id, _)| async move { (id, IndexFile::read(&repository.cipher, store, id).await) });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
        let mut building = Building::default();
        while let Some((id, read)) = reads.next().await {
            match read? {
                Ok(file) => building.add(id, file),
                Err(why) => findings.add(Finding::Unreadable { file: Kind::Index.path(&id), why }),
            }
        }
        // After the indexes: no index names a pack that was not there before it.
        let packs = store.list(Kind::Pack).await?;
        spawn_blocking(move || building.finish(packs)).await.map_err(|panic| internal(store, panic))
    }

    /// Of these files, beside these packs in the store.
    #[cfg(test)]
    pub fn of(files: impl IntoIterator<Item = (Id, IndexFile)>, stored: Vec<(Id, u64)>) -> Self {
        let mut building = Building::default();
        files.into_iter().for_each(|(id, file)| building.add(id, file));
        building.finish(stored)
    }

    /// All copies of all blobs.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The places of all copies of one blob; its first is what marks of a blob are kept by.
    pub fn copies(&self, kind: BlobKind, id: Id) -> Range<usize> {
        let key = (kind, id);
        let start = self.rows.partition_point(|row| (row.blob.kind, row.blob.id) < key);
        let length = self.rows[start..].iter().take_while(|row| (row.blob.kind, row.blob.id) == key).count();
        start..start + length
    }

    /// The copies of one blob that are in the store, those in marked packs last.
    pub fn present_copies(&self, copies: Range<usize>) -> impl Iterator<Item = &Row> {
        let there = |row: &&Row| self.pack_of(row).size.is_some();
        let marked = self.rows[copies.clone()].iter().filter(there).filter(|row| self.pack_of(row).is_marked);
        self.rows[copies].iter().filter(there).filter(|row| !self.pack_of(row).is_marked).chain(marked)
    }

    /// The pack of a copy.
    pub fn pack_of(&self, row: &Row) -> &Pack {
        &self.packs[row.pack as usize]
    }

    /// The places of the blobs of a pack, by offset.
    pub fn places_in(&self, pack: u32) -> &[u32] {
        let start = self.by_pack.partition_point(|place| self.rows[*place as usize].pack < pack);
        let end = self.by_pack.partition_point(|place| self.rows[*place as usize].pack <= pack);
        &self.by_pack[start..end]
    }

    /// The blobs of a pack, by offset.
    pub fn blobs_in(&self, pack: u32) -> impl Iterator<Item = &PackedBlob> {
        self.places_in(pack).iter().map(|place| &self.rows[*place as usize].blob)
    }

    /// How long the pack must be, from its blobs; none if they overlap, or leave gaps.
    pub fn expected_size(&self, pack: u32) -> Option<u64> {
        let mut offset = 0;
        let mut header = HEADER_BYTES;
        for blob in self.blobs_in(pack) {
            if blob.offset != offset {
                return None;
            }
            offset = blob.offset.checked_add(blob.length)?;
            header += blob.entry_bytes();
        }
        Some(u64::from(offset) + header)
    }

    /// A copy as something to fetch.
    pub fn part(&self, row: &Row) -> Part {
        row.blob.part(self.pack_of(row).id)
    }
}

#[derive(Default)]
struct Building {
    index: Index,
    places: HashMap<Id, u32>,
}

impl Building {
    fn add(&mut self, id: Id, file: IndexFile) {
        let number = u32::try_from(self.index.files.len()).unwrap_or(u32::MAX);
        let before = self.index.rows.len();
        let has_marks = !file.packs_to_delete.is_empty();
        let packs = file.packs.into_iter().map(|pack| (pack, false));
        for (indexed, is_marked) in packs.chain(file.packs_to_delete.into_iter().map(|pack| (pack, true))) {
            let place = self.place(indexed.id);
            let pack = &mut self.index.packs[place as usize];
            pack.is_marked &= is_marked;
            if pack.files.last() != Some(&number) {
                pack.files.push(number);
            }
            self.index.rows.extend(indexed.blobs.into_iter().map(|blob| Row { blob, pack: place }));
        }
        let blobs = self.index.rows.len() - before;
        self.index.files.push(IndexFileSummary { id, blobs, has_marks });
    }

    fn place(&mut self, id: Id) -> u32 {
        let packs = &mut self.index.packs;
        *self.places.entry(id).or_insert_with(|| {
            packs.push(Pack { id, size: None, files: Vec::new(), is_marked: true });
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn finish(mut self, listed: Vec<(Id, u64)>) -> Index {
        for (id, size) in listed {
            let place = self.place(id);
            self.index.packs[place as usize].size = Some(size);
        }
        let mut index = self.index;
        let key = |row: &Row| (row.blob.kind, row.blob.id, row.pack, row.blob.offset);
        index.rows.sort_unstable_by_key(key);
        index.rows.dedup_by(|one, other| one.pack == other.pack && one.blob == other.blob);
        index.rows.shrink_to_fit();
        index.by_pack = (0..u32::try_from(index.rows.len()).unwrap_or(u32::MAX)).collect();
        let rows = &index.rows;
        index.by_pack.sort_unstable_by_key(|place| {
            let row = &rows[*place as usize];
            (row.pack, row.blob.offset)
        });
        index
    }
}

/// A mark for each row of an index, or for its packs.
#[derive(Clone, Debug)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    pub fn new(length: usize) -> Self {
        Self(vec![0; length.div_ceil(64)])
    }

    /// Whether it was not there before.
    pub fn set(&mut self, place: usize) -> bool {
        let (word, bit) = (&mut self.0[place / 64], 1 << (place % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }
}

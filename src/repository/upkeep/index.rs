//! All index files as one table: what blobs there are, in which packs, and which of those packs the store has.
//!
//! It must not know what blobs are needed.

use std::collections::HashMap;

use rustic_core::Id;
use tokio::task::spawn_blocking;

use super::{
    findings::{Finding, Findings},
    pack_table::{PackTable, PackTableBuilder, PlacedBlob},
};
use crate::repository::{
    Repository, RepositoryError,
    archive::internal,
    blob_table::{BlobTable, BlobTableBuilder, Blobs, Copy, Row},
    index_file::IndexFile,
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
    /// What its blobs make up.
    pub content: PackContent,
}

/// What the blobs of a pack make up, by the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackContent {
    /// How long the pack must be; none if its blobs overlap, or leave gaps.
    pub size: Option<u64>,
    /// How many blobs are in it.
    pub blobs: u32,
    /// Bytes of its blobs.
    pub blob_bytes: u64,
    /// The kind of its first blob; none if there is none.
    pub kind: Option<BlobKind>,
    /// Bytes of the longest blob before compression.
    pub longest: u32,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The index files that could be read.
    pub files: Vec<IndexFileSummary>,
    pub packs: Vec<Pack>,
    blobs: BlobTable,
    by_pack: PackTable,
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
        let mut building = Building::default();
        IndexFile::read_each(&repository.cipher, store, |id, read| {
            match read {
                Ok(file) => building.add(id, file)?,
                Err(why) => findings.add(Finding::Unreadable { file: Kind::Index.path(&id), why }),
            }
            Ok(())
        })
        .await?;
        // After the indexes: no index names a pack that was not there before it.
        let packs = store.list(Kind::Pack).await?;
        spawn_blocking(move || building.finish(packs)).await.map_err(|panic| internal(store, panic))?
    }

    /// Of these files, beside these packs in the store.
    #[cfg(test)]
    pub fn of(files: impl IntoIterator<Item = (Id, IndexFile)>, stored: Vec<(Id, u64)>) -> Self {
        let mut building = Building::default();
        files.into_iter().for_each(|(id, file)| building.add(id, file).unwrap());
        building.finish(stored).unwrap()
    }

    /// How many copies of blobs there are; the place of each is below that.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// All blobs, each with all of its copies.
    pub fn blobs(&self) -> Blobs<'_> {
        self.blobs.blobs()
    }

    /// All copies of one blob; marks of a blob are kept by the place of the first.
    pub fn copies(&self, kind: BlobKind, id: Id) -> Result<Vec<Copy>, RepositoryError> {
        self.blobs.copies(kind, id)
    }

    /// The copies of one blob that are in the store, those in marked packs last.
    pub fn present(&self, copies: Vec<Copy>) -> Vec<Copy> {
        let mut present = copies;
        present.retain(|copy| self.pack_of(copy).size.is_some());
        present.sort_by_key(|copy| self.pack_of(copy).is_marked);
        present
    }

    /// The copy at a place.
    pub fn at(&self, place: usize) -> Result<Row, RepositoryError> {
        self.blobs.row(place)
    }

    /// The pack of a copy.
    pub fn pack_of(&self, copy: &Copy) -> &Pack {
        &self.packs[copy.row.pack as usize]
    }

    /// The blobs of a pack, by offset.
    pub fn blobs_in(&self, pack: u32) -> Result<Vec<PlacedBlob>, RepositoryError> {
        self.by_pack.blobs_in(pack)
    }

    /// A copy as something to fetch.
    pub fn part(&self, row: &Row) -> Part {
        row.blob.part(self.packs[row.pack as usize].id)
    }
}

#[derive(Default)]
struct Building {
    files: Vec<IndexFileSummary>,
    packs: Vec<Pack>,
    blobs: BlobTableBuilder,
    places: HashMap<Id, u32>,
}

impl Building {
    fn add(&mut self, id: Id, file: IndexFile) -> Result<(), RepositoryError> {
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let has_marks = !file.packs_to_delete.is_empty();
        let mut blobs = 0;
        let packs = file.packs.into_iter().map(|pack| (pack, false));
        for (indexed, is_marked) in packs.chain(file.packs_to_delete.into_iter().map(|pack| (pack, true))) {
            let place = self.place(indexed.id);
            let pack = &mut self.packs[place as usize];
            pack.is_marked &= is_marked;
            if pack.files.last() != Some(&number) {
                pack.files.push(number);
            }
            blobs += indexed.blobs.len();
            indexed.blobs.into_iter().try_for_each(|blob| self.blobs.add(Row { blob, pack: place }))?;
        }
        self.files.push(IndexFileSummary { id, blobs, has_marks });
        Ok(())
    }

    fn place(&mut self, id: Id) -> u32 {
        let packs = &mut self.packs;
        *self.places.entry(id).or_insert_with(|| {
            packs.push(Pack { id, size: None, files: Vec::new(), is_marked: true, content: PackContent::default() });
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn finish(mut self, listed: Vec<(Id, u64)>) -> Result<Index, RepositoryError> {
        for (id, size) in listed {
            let place = self.place(id);
            self.packs[place as usize].size = Some(size);
        }
        let blobs = self.blobs.finish()?;
        let mut by_pack = PackTableBuilder::default();
        for copies in blobs.blobs() {
            copies?.iter().try_for_each(|copy| by_pack.add(copy))?;
        }
        let by_pack = by_pack.finish()?;
        let mut reading = by_pack.all();
        while let Some((pack, blob)) = reading.next()? {
            self.packs[pack as usize].content.add(&blob);
        }
        Ok(Index { files: self.files, packs: self.packs, blobs, by_pack })
    }
}

/// Of no blobs.
impl Default for PackContent {
    fn default() -> Self {
        Self { size: Some(HEADER_BYTES), blobs: 0, blob_bytes: 0, kind: None, longest: 0 }
    }
}

impl PackContent {
    /// Adds the next blob by offset.
    fn add(&mut self, blob: &PackedBlob) {
        self.kind.get_or_insert(blob.kind);
        // Without gaps, each blob begins where those before it end.
        let follows = u64::from(blob.offset) == self.blob_bytes;
        self.size = self.size.filter(|_| follows).map(|size| size + u64::from(blob.length) + blob.entry_bytes());
        self.blobs += 1;
        self.longest = self.longest.max(blob.plain_length());
        self.blob_bytes += u64::from(blob.length);
    }
}

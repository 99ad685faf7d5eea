//! All index files as one table: which blobs exist, in which packs they are, and which of these packs the store has.

use std::collections::HashMap;

use tokio::task::spawn_blocking;

use super::{
    findings::{Finding, Findings},
    pack_table::{NumberedBlob, PackTable, PackTableBuilder},
};
use crate::{
    Repository, RepositoryError,
    format::{BlobKind, Id, IndexFile, PackedBlob},
    index::{
        blob_location::BlobLocation,
        blob_table::{BlobTable, BlobTableBuilder, Blobs, Copy, Row},
    },
    pack::HEADER_BYTES,
    store::{Kind, Store},
};

/// A pack which is listed in an index, or is in the store, or both.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    pub id: Id,
    /// Its length in the store; none if the store does not have it.
    pub size: Option<u64>,
    /// The index files which list it, as positions in [`Index::files`].
    pub files: Vec<u32>,
    /// Whether every index file which lists the pack marks it as removable. Also true for a pack which no index lists.
    pub is_marked: bool,
    pub content: PackContent,
}

/// A summary of a pack's blobs, calculated from the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackContent {
    /// The length which the pack must have; none if its blobs overlap or leave gaps.
    pub size: Option<u64>,
    pub blobs: u32,
    /// The sum of the blobs' lengths.
    pub blob_bytes: u64,
    /// The kind of the first blob; none if there are no blobs.
    pub kind: Option<BlobKind>,
    /// Length of the longest blob before compression.
    pub longest: u32,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// The index files which could be read.
    pub files: Vec<IndexFileSummary>,
    pub packs: Vec<Pack>,
    blobs: BlobTable,
    by_pack: PackTable,
}

/// A summary of an index file.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexFileSummary {
    pub id: Id,
    pub blobs: usize,
    /// Whether the file marks packs as removable.
    pub has_marks: bool,
}

impl Index {
    /// Reads all index files and lists all packs. An index file which cannot be read becomes a finding. A failure of
    /// the store is an error.
    pub async fn read(
        repository: &Repository,
        store: &Store,
        findings: &mut Findings,
    ) -> Result<Self, RepositoryError> {
        let mut builder = IndexBuilder::default();
        IndexFile::read_each(&repository.cipher, store, |id, read| {
            match read {
                Ok(file) => builder.add(id, file)?,
                Err(why) => findings.add(Finding::Unreadable { file: Kind::Index.path(&id), why }),
            }
            Ok(())
        })
        .await?;
        // The packs are listed after the indexes are read, because a pack is written before an index lists it.
        let packs = store.list(Kind::Pack).await?;
        spawn_blocking(move || builder.finish(packs)).await.map_err(|panic| store.internal(panic))?
    }

    /// Builds the table from these index files and these packs in the store.
    #[cfg(test)]
    pub fn of(files: impl IntoIterator<Item = (Id, IndexFile)>, stored: Vec<(Id, u64)>) -> Self {
        let mut builder = IndexBuilder::default();
        files.into_iter().for_each(|(id, file)| builder.add(id, file).unwrap());
        builder.finish(stored).unwrap()
    }

    /// The number of copies of all blobs. Row numbers are less than this number.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Whether an index file lists a tree. Every snapshot has one, and a first backup that failed practically never.
    pub fn has_trees(&self) -> Result<bool, RepositoryError> {
        // Trees are the last rows of the table.
        let last = self.len().checked_sub(1).map(|last| self.at(last)).transpose()?;
        Ok(last.is_some_and(|last| last.blob.kind == BlobKind::Tree))
    }

    /// All blobs, each with all its copies.
    pub fn blobs(&self) -> Blobs<'_> {
        self.blobs.blobs()
    }

    /// All copies of a blob. A mark of a blob is stored at the row number of its first copy.
    pub fn copies(&self, kind: BlobKind, id: Id) -> Result<Vec<Copy>, RepositoryError> {
        self.blobs.copies(kind, id)
    }

    /// Those copies of a blob which are in the store. Copies in packs which are marked as removable come last.
    pub fn present(&self, copies: Vec<Copy>) -> Vec<Copy> {
        let mut present = copies;
        present.retain(|copy| self.pack_of(copy).size.is_some());
        present.sort_by_key(|copy| self.pack_of(copy).is_marked);
        present
    }

    /// The copy with this row number.
    pub fn at(&self, row_number: usize) -> Result<Row, RepositoryError> {
        self.blobs.row(row_number)
    }

    pub fn pack_of(&self, copy: &Copy) -> &Pack {
        &self.packs[copy.row.pack as usize]
    }

    /// Whether the copy's pack is in the store, with the length that follows from the index.
    pub fn is_whole(&self, copy: &Copy) -> bool {
        let pack = self.pack_of(copy);
        pack.size.is_some() && pack.content.size == pack.size
    }

    /// The blobs of a pack, ordered by offset.
    pub fn blobs_in(&self, pack: u32) -> Result<Vec<NumberedBlob>, RepositoryError> {
        self.by_pack.blobs_in(pack)
    }

    /// The location of a copy in the store.
    pub fn part(&self, row: &Row) -> BlobLocation {
        row.blob.part(self.packs[row.pack as usize].id)
    }
}

#[derive(Default)]
struct IndexBuilder {
    files: Vec<IndexFileSummary>,
    packs: Vec<Pack>,
    blobs: BlobTableBuilder,
    pack_numbers: HashMap<Id, u32>,
}

impl IndexBuilder {
    fn add(&mut self, id: Id, file: IndexFile) -> Result<(), RepositoryError> {
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let has_marks = !file.packs_to_delete.is_empty();
        let mut blobs = 0;
        let packs = file.packs.into_iter().map(|pack| (pack, false));
        for (indexed, is_marked) in packs.chain(file.packs_to_delete.into_iter().map(|pack| (pack, true))) {
            let pack_number = self.pack_number(indexed.id);
            let pack = &mut self.packs[pack_number as usize];
            pack.is_marked &= is_marked;
            if pack.files.last() != Some(&number) {
                pack.files.push(number);
            }
            blobs += indexed.blobs.len();
            indexed.blobs.into_iter().try_for_each(|blob| self.blobs.add(Row { blob, pack: pack_number }))?;
        }
        self.files.push(IndexFileSummary { id, blobs, has_marks });
        Ok(())
    }

    fn pack_number(&mut self, id: Id) -> u32 {
        let packs = &mut self.packs;
        *self.pack_numbers.entry(id).or_insert_with(|| {
            packs.push(Pack { id, size: None, files: Vec::new(), is_marked: true, content: PackContent::default() });
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn finish(mut self, listed: Vec<(Id, u64)>) -> Result<Index, RepositoryError> {
        for (id, size) in listed {
            let pack_number = self.pack_number(id);
            self.packs[pack_number as usize].size = Some(size);
        }
        let blobs = self.blobs.finish()?;
        let mut by_pack = PackTableBuilder::default();
        for copies in blobs.blobs() {
            copies?.iter().try_for_each(|copy| by_pack.add(copy))?;
        }
        let by_pack = by_pack.finish()?;
        let mut rows = by_pack.all();
        while let Some((pack, blob)) = rows.next()? {
            self.packs[pack as usize].content.add(&blob);
        }
        Ok(Index { files: self.files, packs: self.packs, blobs, by_pack })
    }
}

/// For a pack without blobs.
impl Default for PackContent {
    fn default() -> Self {
        Self { size: Some(HEADER_BYTES), blobs: 0, blob_bytes: 0, kind: None, longest: 0 }
    }
}

impl PackContent {
    /// Adds the next blob. Blobs must be added in the order of their offsets.
    fn add(&mut self, blob: &PackedBlob) {
        self.kind.get_or_insert(blob.kind);
        // If there are no gaps, each blob begins at the sum of the previous lengths.
        let follows = u64::from(blob.offset) == self.blob_bytes;
        self.size = self.size.filter(|_| follows).map(|size| size + u64::from(blob.length) + blob.entry_bytes());
        self.blobs += 1;
        self.longest = self.longest.max(blob.plain_length());
        self.blob_bytes += u64::from(blob.length);
    }
}

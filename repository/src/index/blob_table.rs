//! A table of all blobs and their packs. Its memory is bounded, however many blobs there are.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    RepositoryError,
    format::{BlobKind, Id, PackedBlob},
    scratch::{self, Scan, Sorter, Table},
};

/// The memory of the table; a larger table is in a temporary file. 8 MiB are enough for some 140,000 blobs.
const MEMORY_BYTES: usize = 8 << 20;
/// A row consists of kind, id, pack, offset, length, whether the blob is compressed, and the uncompressed length.
/// Numbers are big-endian, so that the order of the bytes is the order of the fields.
const ROW_BYTES: usize = KEY_BYTES + 4 + 4 + 4 + 1 + 4;
/// Kind and id.
pub(crate) const KEY_BYTES: usize = 1 + 32;

/// One copy of a blob.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub blob: PackedBlob,
    /// The number of the pack, which the caller assigns.
    pub pack: u32,
}

/// A row and its index in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Copy {
    pub row_number: usize,
    pub row: Row,
}

/// Kind and id as bytes.
pub(crate) fn key(kind: BlobKind, id: Id) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = u8::from(kind == BlobKind::Tree);
    key[1..].copy_from_slice(&id.bytes());
    key
}

impl Row {
    fn to_bytes(self) -> [u8; ROW_BYTES] {
        let PackedBlob { id, kind, offset, length, uncompressed_length } = self.blob;
        let mut bytes = [0; ROW_BYTES];
        bytes[..KEY_BYTES].copy_from_slice(&key(kind, id));
        let numbers = [self.pack, offset, length].map(u32::to_be_bytes);
        bytes[KEY_BYTES..][..12].copy_from_slice(numbers.as_flattened());
        bytes[KEY_BYTES + 12] = uncompressed_length.is_some().into();
        bytes[KEY_BYTES + 13..].copy_from_slice(&uncompressed_length.unwrap_or(0).to_be_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8; ROW_BYTES]) -> Self {
        let number =
            |at: usize| bytes[KEY_BYTES + at..].first_chunk().map_or(0, |number: &[u8; 4]| u32::from_be_bytes(*number));
        let kind = if bytes[0] == 0 { BlobKind::Data } else { BlobKind::Tree };
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[1..KEY_BYTES]);
        let uncompressed_length = (bytes[KEY_BYTES + 12] != 0).then(|| number(13));
        let blob = PackedBlob { id: Id::new(id), kind, offset: number(4), length: number(8), uncompressed_length };
        Self { blob, pack: number(0) }
    }
}

/// Collects rows in any order.
#[derive(Debug)]
pub(crate) struct BlobTableBuilder(Sorter);

impl Default for BlobTableBuilder {
    fn default() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }
}

impl BlobTableBuilder {
    /// Creates a builder that uses at most `bytes` bytes of memory.
    pub fn with_memory(bytes: usize) -> Self {
        Self(Sorter::new(bytes))
    }

    pub fn add(&mut self, row: Row) -> Result<(), RepositoryError> {
        self.0.push(&row.to_bytes()).map_err(scratch::failed)
    }

    pub fn finish(self) -> Result<BlobTable, RepositoryError> {
        Table::of(self.0).map(BlobTable).map_err(scratch::failed)
    }
}

/// All copies of all blobs, sorted by kind (data before trees), id, pack and offset.
#[derive(Debug, Default)]
pub(crate) struct BlobTable(Table<ROW_BYTES>);

impl BlobTable {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all copies of one blob.
    pub fn copies(&self, kind: BlobKind, id: Id) -> Result<Vec<Copy>, RepositoryError> {
        let found = self.0.matching(&key(kind, id)).map_err(scratch::failed)?;
        Ok(found.into_iter().map(|(index, bytes)| Copy { row_number: index, row: Row::of_bytes(&bytes) }).collect())
    }

    /// Returns the row at `index`, which must be less than the length.
    pub fn row(&self, index: usize) -> Result<Row, RepositoryError> {
        self.0.row(index).map(|bytes| Row::of_bytes(&bytes)).map_err(scratch::failed)
    }

    /// Iterates over all blobs in order, each with all of its copies.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs { scan: self.0.scan(0), index: 0, next: None }
    }
}

/// See [`BlobTable::blobs`].
pub(crate) struct Blobs<'a> {
    scan: Scan<'a, ROW_BYTES>,
    /// The index of the next row.
    index: usize,
    /// The first copy of the next blob.
    next: Option<Copy>,
}

impl Blobs<'_> {
    fn read(&mut self) -> io::Result<Option<Copy>> {
        let index = self.index;
        self.index += 1;
        Ok(self.scan.next()?.map(|bytes| Copy { row_number: index, row: Row::of_bytes(&bytes) }))
    }

    fn next_blob(&mut self) -> io::Result<Option<Vec<Copy>>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => match self.read()? {
                Some(first) => first,
                None => return Ok(None),
            },
        };
        let mut copies = vec![first];
        while let Some(copy) = self.read()? {
            if (copy.row.blob.kind, copy.row.blob.id) != (first.row.blob.kind, first.row.blob.id) {
                self.next = Some(copy);
                break;
            }
            copies.push(copy);
        }
        Ok(Some(copies))
    }
}

impl Iterator for Blobs<'_> {
    type Item = Result<Vec<Copy>, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_blob().map_err(scratch::failed).transpose()
    }
}

/// A bit set: one mark for each row of a table, or for each pack.
#[derive(Clone, Debug)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    pub fn new(length: usize) -> Self {
        Self(vec![0; length.div_ceil(64)])
    }

    /// Sets a mark. Returns whether it was not set before.
    pub fn set(&mut self, index: usize) -> bool {
        let (bits, bit) = (&mut self.0[index / 64], 1 << (index % 64));
        let is_new = *bits & bit == 0;
        *bits |= bit;
        is_new
    }

    pub fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }
}

/// A bit set as [`Marks`], in which several threads set marks.
#[derive(Debug, Default)]
pub(crate) struct SharedMarks(Vec<AtomicU64>);

impl SharedMarks {
    pub fn new(length: usize) -> Self {
        Self((0..length.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Sets a mark. Returns whether it was not set before.
    pub fn set(&self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        self.0.get(index / 64).is_some_and(|bits| bits.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    pub fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|bits| bits.load(Ordering::Relaxed) & (1 << (index % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: BlobKind, id: u8, pack: u32, uncompressed_length: Option<u32>) -> Row {
        let blob =
            PackedBlob { id: Id::new([id; 32]), kind, offset: u32::MAX - pack, length: 70_000, uncompressed_length };
        Row { blob, pack }
    }

    #[test]
    fn blobs_come_with_all_their_copies_in_memory_and_from_a_file() {
        let rows = [
            row(BlobKind::Tree, 1, 0, Some(0)),
            row(BlobKind::Data, 9, 3, None),
            row(BlobKind::Data, 1, 300, Some(u32::MAX)),
            row(BlobKind::Data, 9, 2, Some(5)),
        ];
        for memory in [1, MEMORY_BYTES] {
            let mut builder = BlobTableBuilder::with_memory(memory);
            for row in &rows {
                builder.add(*row).unwrap();
            }
            builder.add(rows[0]).unwrap();
            let table = builder.finish().unwrap();
            assert_eq!(table.len(), rows.len());
            let copy = |row_number, row: usize| Copy { row_number, row: rows[row] };
            let blobs: Vec<Vec<Copy>> = table.blobs().map(Result::unwrap).collect();
            assert_eq!(blobs, [vec![copy(0, 2)], vec![copy(1, 3), copy(2, 1)], vec![copy(3, 0)]]);
            assert_eq!(table.copies(BlobKind::Data, Id::new([9; 32])).unwrap(), blobs[1]);
            assert_eq!(table.copies(BlobKind::Tree, Id::new([9; 32])).unwrap(), []);
            assert_eq!(table.row(3).unwrap(), rows[0]);
        }
    }
}

//! A table of the blobs in each pack. Beyond a limit, it is in a temporary file, so that it takes little memory.

use crate::{
    RepositoryError,
    format::{BlobKind, Id, PackedBlob},
    index::blob_table::{Copy, KEY_BYTES, key},
    scratch::{self, Scan, Sorter, Table},
};

/// Memory for the table. A larger table is in a temporary file.
const MEMORY_BYTES: usize = 8 << 20;
/// A row: pack, offset, kind, id, length, whether the blob is compressed, its uncompressed length, and its row number
/// in the blob table. Numbers are big-endian, so that rows are ordered by pack and offset.
const ROW_BYTES: usize = 4 + 4 + KEY_BYTES + 4 + 1 + 4 + 8;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NumberedBlob {
    /// The row number of this copy in the blob table.
    pub row_number: usize,
    pub blob: PackedBlob,
}

fn row(copy: &Copy) -> [u8; ROW_BYTES] {
    let PackedBlob { id, kind, offset, length, uncompressed_length } = copy.row.blob;
    let mut row = Vec::with_capacity(ROW_BYTES);
    row.extend(copy.row.pack.to_be_bytes());
    row.extend(offset.to_be_bytes());
    row.extend(key(kind, id));
    row.extend(length.to_be_bytes());
    row.push(uncompressed_length.is_some().into());
    row.extend(uncompressed_length.unwrap_or(0).to_be_bytes());
    row.extend((copy.row_number as u64).to_be_bytes());
    row.try_into().unwrap_or([0; ROW_BYTES])
}

fn of_row(row: &[u8; ROW_BYTES]) -> (u32, NumberedBlob) {
    let number = |at: usize| row[at..].first_chunk().map_or(0, |number: &[u8; 4]| u32::from_be_bytes(*number));
    let after = 8 + KEY_BYTES;
    let kind = if row[8] == 0 { BlobKind::Data } else { BlobKind::Tree };
    let mut id = [0; 32];
    id.copy_from_slice(&row[9..after]);
    let uncompressed_length = (row[after + 4] != 0).then(|| number(after + 5));
    let row_number = row.last_chunk().map_or(0, |number: &[u8; 8]| u64::from_be_bytes(*number));
    let blob = PackedBlob { id: Id::new(id), kind, offset: number(4), length: number(after), uncompressed_length };
    (number(0), NumberedBlob { row_number: usize::try_from(row_number).unwrap_or(usize::MAX), blob })
}

/// Collects copies of blobs in any order.
pub(super) struct PackTableBuilder(Sorter);

impl Default for PackTableBuilder {
    fn default() -> Self {
        Self(Sorter::new(MEMORY_BYTES))
    }
}

impl PackTableBuilder {
    pub fn add(&mut self, copy: &Copy) -> Result<(), RepositoryError> {
        self.0.push(&row(copy)).map_err(scratch::failed)
    }

    pub fn finish(self) -> Result<PackTable, RepositoryError> {
        Table::of(self.0).map(PackTable).map_err(scratch::failed)
    }
}

/// All copies of all blobs, ordered by pack and offset.
#[derive(Debug, Default)]
pub(super) struct PackTable(Table<ROW_BYTES>);

impl PackTable {
    /// The blobs of a pack, ordered by offset.
    pub fn blobs_in(&self, pack: u32) -> Result<Vec<NumberedBlob>, RepositoryError> {
        let rows = self.0.matching(&pack.to_be_bytes()).map_err(scratch::failed)?;
        Ok(rows.iter().map(|(_, row)| of_row(row).1).collect())
    }

    /// All blobs.
    pub fn all(&self) -> All<'_> {
        All(self.0.scan(0))
    }
}

/// See [`PackTable::all`].
pub(super) struct All<'a>(Scan<'a, ROW_BYTES>);

impl All<'_> {
    /// The next blob and the number of its pack; none after the last.
    pub fn next(&mut self) -> Result<Option<(u32, PackedBlob)>, RepositoryError> {
        let row = self.0.next().map_err(scratch::failed)?;
        Ok(row.map(|row| {
            let (pack, numbered) = of_row(&row);
            (pack, numbered.blob)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::blob_table::Row;

    #[test]
    fn blobs_of_a_pack_come_by_offset() {
        let copy = |row_number, pack, offset, uncompressed_length| {
            let (id, kind) = (Id::new([7; 32]), BlobKind::Tree);
            Copy {
                row_number,
                row: Row { pack, blob: PackedBlob { id, kind, offset, length: 9, uncompressed_length } },
            }
        };
        let copies = [
            copy(0, 1, 300, None),
            copy(1, 0, 5, Some(0)),
            copy(1 << 40, 1, 299, Some(u32::MAX)),
            copy(3, 256, 0, None),
        ];
        let mut builder = PackTableBuilder::default();
        for copy in &copies {
            builder.add(copy).unwrap();
        }
        let table = builder.finish().unwrap();
        let numbered = |copy: &Copy| NumberedBlob { row_number: copy.row_number, blob: copy.row.blob };
        assert_eq!(table.blobs_in(1).unwrap(), [numbered(&copies[2]), numbered(&copies[0])]);
        assert_eq!(table.blobs_in(0).unwrap(), [numbered(&copies[1])]);
        assert_eq!(table.blobs_in(2).unwrap(), []);
    }
}

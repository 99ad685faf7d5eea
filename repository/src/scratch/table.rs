//! A sorted table of records of equal length. It is in memory, or in a temporary file with an index in memory of the
//! first record of each block.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
};

use super::sort::Sorter;

/// How many records are read at once in a search.
const BLOCK: usize = 64;
/// How many records are read at once in a scan.
const SCAN: usize = 1024;
/// How many bytes of the first record of each block are in memory.
const FENCE_BYTES: usize = 16;

/// Sorted records of `N` bytes each, without duplicates.
#[derive(Debug)]
pub(in super::super) struct Table<const N: usize> {
    rows: Rows,
    length: usize,
    /// The first bytes of the first record of each block. Empty if the table is in memory.
    fences: Vec<[u8; FENCE_BYTES]>,
}

#[derive(Debug)]
enum Rows {
    Memory(Vec<u8>),
    File(File),
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self { rows: Rows::Memory(Vec::new()), length: 0, fences: Vec::new() }
    }
}

impl<const N: usize> Table<N> {
    /// Creates a table of all records of a sorter, which must have `N` bytes each. The table is in memory if the
    /// sorter's records are.
    pub fn of(sorter: Sorter) -> io::Result<Self> {
        let mut records = sorter.finish()?;
        let mut builder = Builder::new(records.is_in_memory())?;
        let mut record = Vec::new();
        while records.next(&mut record)? {
            builder.add(&record)?;
        }
        builder.finish()
    }

    /// Merges two tables into one, in a file.
    pub fn merged(one: &Self, other: &Self) -> io::Result<Self> {
        let mut builder = Builder::new(false)?;
        let (mut left, mut right) = (one.scan(0), other.scan(0));
        let (mut from_left, mut from_right) = (left.next()?, right.next()?);
        loop {
            let takes_left = match (&from_left, &from_right) {
                (None, None) => return builder.finish(),
                (Some(left), Some(right)) => left <= right,
                (left, _) => left.is_some(),
            };
            let (next, scan) = if takes_left { (&mut from_left, &mut left) } else { (&mut from_right, &mut right) };
            if let Some(record) = next {
                builder.add(&record[..])?;
            }
            *next = scan.next()?;
        }
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns the records that begin with `key`, and their indices.
    pub fn matching(&self, key: &[u8]) -> io::Result<Vec<(usize, [u8; N])>> {
        let mut found = Vec::new();
        let mut scan = self.scan_of(self.before(key), BLOCK);
        while let Some(record) = scan.next()? {
            if record.starts_with(key) {
                found.push((scan.index - 1, record));
            } else if record[..] > *key {
                break;
            }
        }
        Ok(found)
    }

    /// Returns the record at `index`, which must be less than the length.
    pub fn row(&self, index: usize) -> io::Result<[u8; N]> {
        let mut row = [0; N];
        match &self.rows {
            Rows::Memory(rows) => match rows.get(index * N..(index + 1) * N) {
                Some(found) => row.copy_from_slice(found),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Rows::File(file) => file.read_exact_at(&mut row, (index * N) as u64)?,
        }
        Ok(row)
    }

    /// Iterates over the records, starting at the index `from`.
    pub fn scan(&self, from: usize) -> Scan<'_, N> {
        self.scan_of(from, SCAN)
    }

    fn scan_of(&self, from: usize, at_once: usize) -> Scan<'_, N> {
        Scan { table: self, index: from, at_once, read: Vec::new(), first: from }
    }

    /// Returns an index at which a search for `key` starts: no earlier record begins with `key`.
    fn before(&self, key: &[u8]) -> usize {
        match &self.rows {
            Rows::Memory(rows) => {
                let (mut low, mut high) = (0, self.length);
                while low < high {
                    let middle = usize::midpoint(low, high);
                    if rows[middle * N..][..N] < *key { low = middle + 1 } else { high = middle }
                }
                low
            }
            Rows::File(_) => {
                let key = &key[..key.len().min(FENCE_BYTES)];
                self.fences.partition_point(|fence| fence[..] < *key).saturating_sub(1) * BLOCK
            }
        }
    }
}

/// Reads records in order.
#[derive(Debug)]
pub(in super::super) struct Scan<'a, const N: usize> {
    table: &'a Table<N>,
    /// The index of the next record.
    index: usize,
    at_once: usize,
    /// The records that were read from the file, and the index of the first of them.
    read: Vec<u8>,
    first: usize,
}

impl<const N: usize> Scan<'_, N> {
    /// Returns the next record, or none after the last record.
    pub fn next(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.index >= self.table.length {
            return Ok(None);
        }
        let mut record = [0; N];
        match &self.table.rows {
            Rows::Memory(rows) => record.copy_from_slice(&rows[self.index * N..][..N]),
            Rows::File(file) => {
                let mut at = (self.index - self.first) * N;
                if at >= self.read.len() {
                    let records = self.at_once.min(self.table.length - self.index);
                    self.read.resize(records * N, 0);
                    file.read_exact_at(&mut self.read, (self.index * N) as u64)?;
                    (self.first, at) = (self.index, 0);
                }
                record.copy_from_slice(&self.read[at..][..N]);
            }
        }
        self.index += 1;
        Ok(Some(record))
    }
}

/// Builds a table from sorted records, and omits duplicates.
struct Builder<const N: usize> {
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
    last: Option<[u8; N]>,
    length: usize,
    fences: Vec<[u8; FENCE_BYTES]>,
}

impl<const N: usize> Builder<N> {
    fn new(is_in_memory: bool) -> io::Result<Self> {
        let file = if is_in_memory { None } else { Some(BufWriter::with_capacity(256 << 10, super::file()?)) };
        Ok(Self { memory: Vec::new(), file, last: None, length: 0, fences: Vec::new() })
    }

    fn add(&mut self, record: &[u8]) -> io::Result<()> {
        let record: [u8; N] = record.try_into().map_err(io::Error::other)?;
        if self.last == Some(record) {
            return Ok(());
        }
        self.last = Some(record);
        match &mut self.file {
            None => self.memory.extend_from_slice(&record),
            Some(file) => {
                if self.length.is_multiple_of(BLOCK) {
                    let mut fence = [0; FENCE_BYTES];
                    fence.iter_mut().zip(&record).for_each(|(to, from)| *to = *from);
                    self.fences.push(fence);
                }
                file.write_all(&record)?;
            }
        }
        self.length += 1;
        Ok(())
    }

    fn finish(self) -> io::Result<Table<N>> {
        let rows = match self.file {
            None => Rows::Memory(self.memory),
            Some(file) => Rows::File(file.into_inner().map_err(io::IntoInnerError::into_error)?),
        };
        Ok(Table { rows, length: self.length, fences: self.fences })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(budget: usize, records: &[[u8; 4]]) -> Table<4> {
        let mut sorter = Sorter::new(budget);
        for record in records {
            sorter.push(record).unwrap();
        }
        Table::of(sorter).unwrap()
    }

    fn all(table: &Table<4>) -> Vec<[u8; 4]> {
        let (mut scan, mut found) = (table.scan(0), Vec::new());
        while let Some(record) = scan.next().unwrap() {
            found.push(record);
        }
        found
    }

    proptest! {
        // Few different bytes, so that many records begin alike, also over the borders of blocks.
        #[test]
        fn table_in_a_file_is_the_table_in_memory(
            records in prop::collection::vec([0..3_u8, 0..3_u8, 0..6_u8, 0..6_u8], 0..900),
            key in prop::collection::vec(0..6_u8, 0..4),
        ) {
            let mut expected = records.clone();
            expected.sort_unstable();
            expected.dedup();
            for table in [table(1 << 20, &records), table(50, &records)] {
                prop_assert_eq!(table.len(), expected.len());
                prop_assert_eq!(all(&table), expected.clone());
                let wanted: Vec<_> = expected.iter().copied().enumerate().filter(|(_, one)| one.starts_with(&key)).collect();
                prop_assert_eq!(table.matching(&key).unwrap(), wanted);
                for (index, record) in expected.iter().enumerate().step_by(7) {
                    prop_assert_eq!(table.row(index).unwrap(), *record);
                }
            }
        }

        #[test]
        fn merged_table_has_the_records_of_both(
            one in prop::collection::vec([0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8], 0..100),
            other in prop::collection::vec([0..3_u8, 0..3_u8, 0..3_u8, 0..3_u8], 0..100),
        ) {
            let merged = Table::merged(&table(1 << 20, &one), &table(50, &other)).unwrap();
            let both = [one, other].concat();
            prop_assert_eq!(all(&merged), all(&table(1 << 20, &both)));
        }
    }
}

//! External sorting of records by their bytes: sorted runs are written to temporary files and merged.
//!
//! The crate `extsort` does the same. It is not used, because it treats a truncated run as a complete one, and because
//! its build script has unmaintained dependencies.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    vec,
};

/// Collects records in any order.
#[derive(Debug)]
pub(in super::super) struct Sorter {
    /// How many bytes of memory the sorter uses before it writes a run.
    budget: usize,
    bytes: Vec<u8>,
    /// The offset of each record in `bytes`, and its length.
    spans: Vec<(u32, u32)>,
    runs: Vec<Run>,
}

/// Sorted records in a file. Each record is preceded by its length.
#[derive(Debug)]
struct Run {
    file: File,
    records: u64,
}

impl Sorter {
    /// Creates a sorter that uses up to `budget` bytes of memory, at most 4 GiB.
    pub fn new(budget: usize) -> Self {
        Self { budget, bytes: Vec::new(), spans: Vec::new(), runs: Vec::new() }
    }

    /// Adds a record of less than 4 GiB. Equal records are kept.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let span = (number(self.bytes.len())?, number(record.len())?);
        self.bytes.extend_from_slice(record);
        self.spans.push(span);
        if self.bytes.len() + self.spans.len() * size_of::<(u32, u32)>() >= self.budget { self.spill() } else { Ok(()) }
    }

    /// Returns all records in order.
    pub fn finish(mut self) -> io::Result<Sorted> {
        if self.runs.is_empty() {
            self.sort();
            return Ok(Sorted(Source::Memory { bytes: self.bytes, spans: self.spans.into_iter() }));
        }
        self.spill()?;
        let mut merge = Merge { runs: Vec::new(), next: BinaryHeap::new() };
        for (number, Run { mut file, records }) in self.runs.into_iter().enumerate() {
            file.rewind()?;
            merge.runs.push((BufReader::new(file), records));
            merge.refill(number, Vec::new())?;
        }
        Ok(Sorted(Source::Runs(merge)))
    }

    fn sort(&mut self) {
        let Self { bytes, spans, .. } = self;
        spans.sort_unstable_by(|one, other| slice(bytes, *one).cmp(slice(bytes, *other)));
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.spans.is_empty() {
            return Ok(());
        }
        self.sort();
        let mut writer = BufWriter::new(super::file()?);
        for span in &self.spans {
            writer.write_all(&span.1.to_le_bytes())?;
            writer.write_all(slice(&self.bytes, *span))?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        self.runs.push(Run { file, records: self.spans.len() as u64 });
        self.bytes.clear();
        self.spans.clear();
        Ok(())
    }
}

fn slice(bytes: &[u8], (start, length): (u32, u32)) -> &[u8] {
    &bytes[start as usize..][..length as usize]
}

fn number(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a record is too long to be sorted"))
}

/// An iterator over sorted records.
#[derive(Debug)]
pub(in super::super) struct Sorted(Source);

#[derive(Debug)]
enum Source {
    Memory { bytes: Vec<u8>, spans: vec::IntoIter<(u32, u32)> },
    Runs(Merge),
}

/// An iterator without records.
impl Default for Sorted {
    fn default() -> Self {
        Self(Source::Memory { bytes: Vec::new(), spans: Vec::new().into_iter() })
    }
}

impl Sorted {
    /// Whether all records are in memory.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.0, Source::Memory { .. })
    }

    /// Replaces `record` by the next record. Returns false after the last record.
    pub fn next(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
        match &mut self.0 {
            Source::Memory { bytes, spans } => {
                let Some(span) = spans.next() else { return Ok(false) };
                record.clear();
                record.extend_from_slice(slice(bytes, span));
                Ok(true)
            }
            Source::Runs(merge) => merge.next(record),
        }
    }
}

#[derive(Debug)]
struct Merge {
    /// The rest of each run, and its number of records.
    runs: Vec<(BufReader<File>, u64)>,
    /// The next record of each run, and the run's number.
    next: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
}

impl Merge {
    fn next(&mut self, record: &mut Vec<u8>) -> io::Result<bool> {
        let Some(Reverse((mut next, number))) = self.next.pop() else { return Ok(false) };
        std::mem::swap(record, &mut next);
        self.refill(number, next)?;
        Ok(true)
    }

    /// Reads the next record of a run into `buffer`.
    fn refill(&mut self, number: usize, mut buffer: Vec<u8>) -> io::Result<()> {
        let (reader, left) = &mut self.runs[number];
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        buffer.resize(u32::from_le_bytes(length) as usize, 0);
        reader.read_exact(&mut buffer)?;
        self.next.push(Reverse((buffer, number)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(budget: usize, records: &[Vec<u8>]) -> (Vec<Vec<u8>>, bool) {
        let mut sorter = Sorter::new(budget);
        for record in records {
            sorter.push(record).unwrap();
        }
        let mut in_order = sorter.finish().unwrap();
        let is_in_memory = in_order.is_in_memory();
        let (mut found, mut record) = (Vec::new(), Vec::new());
        while in_order.next(&mut record).unwrap() {
            found.push(record.clone());
        }
        (found, is_in_memory)
    }

    proptest! {
        #[test]
        fn records_come_in_order_from_memory_and_from_files(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..200),
        ) {
            let mut expected = records.clone();
            expected.sort();
            prop_assert_eq!(sorted(1 << 20, &records), (expected.clone(), true));
            prop_assert_eq!(sorted(100, &records).0, expected);
        }
    }

    #[test]
    fn many_records_are_in_files() {
        let records: Vec<_> = (0..1000_u32).map(|number| number.to_be_bytes().to_vec()).rev().collect();
        let (found, is_in_memory) = sorted(1200, &records);
        assert!(!is_in_memory);
        assert!(found.iter().rev().eq(records.iter()));
    }

    #[test]
    fn truncated_run_is_an_error() {
        let mut sorter = Sorter::new(100);
        for number in 0..100_u32 {
            sorter.push(&number.to_be_bytes()).unwrap();
        }
        sorter.runs[0].file.set_len(8).unwrap();
        let mut in_order = sorter.finish().unwrap();
        let mut record = Vec::new();
        let error = loop {
            match in_order.next(&mut record) {
                Ok(true) => {}
                other => break other,
            }
        };
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

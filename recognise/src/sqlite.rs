//! `SQLite` database files: the header states the number of pages.
//!
//! A file may be longer, for example because something follows the database. Source: "Database File Format" of
//! `SQLite`.

use super::{Format, Recognised, append, missing, unknown, whole};

const NAME: &str = "SQLite database";
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: usize = 100;

/// Whether these are the first bytes of a database.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// A database.
#[derive(Default)]
pub(super) struct Sqlite {
    header: Vec<u8>,
    length: u64,
}

impl Format for Sqlite {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        self.length += bytes.len() as u64;
        append(&mut self.header, HEADER, &mut bytes);
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        let Self { header, length, .. } = *self;
        if header.len() < HEADER {
            return missing(NAME, "its header is truncated");
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let page = match number(&header[16..18]) {
            1 => 65_536,
            size => size,
        };
        // The page count is valid only if the two change counters are equal. Otherwise the last writer did not update
        // the page count.
        let (pages, is_valid) = (number(&header[28..32]), header[24..28] == header[92..96]);
        if pages == 0 || !is_valid {
            return unknown(NAME);
        }
        if length < pages * page {
            return missing(NAME, format!("its header announces {} bytes, and {length} are there", pages * page));
        }
        whole(NAME)
    }
}

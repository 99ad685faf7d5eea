//! `pg_dump --format=custom`: a header, a table of contents, and a block for each entry which has data.
//!
//! Source: `pg_backup_archiver.c` (`ReadHead`, `ReadToc`) and `pg_backup_custom.c` of `PostgreSQL` 10 to 18, which
//! write the versions 1.13 to 1.16 of the format. Other versions are not judged.

use std::collections::VecDeque;

use super::{Format, Recognised, agree, fill, little_endian, missing, take, unknown, whole};

const NAME: &str = "PostgreSQL dump (custom format)";
const MAGIC: &[u8; 5] = b"PGDMP";
/// Magic, version, sizes of numbers and offsets, and the format.
const HEAD: usize = 11;
const FORMAT_CUSTOM: u8 = 1;
const VERSIONS: std::ops::RangeInclusive<u8> = 12..=16;
/// The first byte of an offset: the entry has data at an unknown offset, at the given offset, or no data.
const OFFSET_NOT_SET: u8 = 1;
const OFFSET_SET: u8 = 2;
const NO_DATA: u8 = 3;
const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Whether these are the first bytes of such a dump.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.len() >= MAGIC.len() && agree(head, MAGIC)
}

/// The kind of the next field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Head,
    Byte,
    Number,
    Text,
    /// The number of entries in the table of contents.
    Entries,
    /// An object which an entry depends on. The list ends with a dependency without a text.
    Dependency,
    Offset,
    /// The kind of the block which follows.
    Block,
    /// The length of a chunk of data; 0 ends the chunks.
    Chunk,
    /// The number of a large object; 0 ends the large objects.
    LargeObject,
}

/// A dump.
pub(super) struct PgCustom {
    fields: VecDeque<Field>,
    held: Vec<u8>,
    skip: u64,
    version: u8,
    number_bytes: usize,
    offset_bytes: usize,
    entries: u64,
    /// The number of blocks of data that the table of contents requires. `found` counts the blocks which arrived.
    wanted: u64,
    found: u64,
    is_behind_contents: bool,
    is_lost: bool,
}

impl Default for PgCustom {
    fn default() -> Self {
        Self {
            fields: VecDeque::from([Field::Head]),
            held: Vec::new(),
            skip: 0,
            version: 0,
            number_bytes: 0,
            offset_bytes: 0,
            entries: 0,
            wanted: 0,
            found: 0,
            is_behind_contents: false,
            is_lost: false,
        }
    }
}

impl PgCustom {
    fn length(&self, field: Field) -> usize {
        match field {
            Field::Head => HEAD,
            Field::Byte | Field::Block => 1,
            Field::Offset => 1 + self.offset_bytes,
            // A sign, and the number.
            _ => 1 + self.number_bytes,
        }
    }

    /// Processes a complete field; `None` if its value is invalid.
    fn read(&mut self, field: Field, bytes: &[u8]) -> Option<()> {
        match field {
            Field::Head => self.read_head(bytes)?,
            Field::Byte | Field::Number => {}
            Field::Text => self.skip = number(bytes).unwrap_or_default(),
            Field::Entries => {
                self.entries = number(bytes)?;
                self.next_entry();
            }
            Field::Dependency => {
                if let Some(length) = number(bytes) {
                    self.skip = length;
                    self.fields.push_front(Field::Dependency);
                }
            }
            Field::Offset => {
                self.wanted += match bytes[0] {
                    OFFSET_NOT_SET | OFFSET_SET => 1,
                    NO_DATA => 0,
                    _ => return None,
                };
                self.next_entry();
            }
            Field::Block => {
                let content = match bytes[0] {
                    BLOCK_DATA => Field::Chunk,
                    BLOCK_LARGE_OBJECTS => Field::LargeObject,
                    _ => return None,
                };
                self.fields.extend([Field::Number, content]);
            }
            Field::Chunk => match number(bytes)? {
                0 => self.end_chunks(),
                length => {
                    self.skip = length;
                    self.fields.push_front(Field::Chunk);
                }
            },
            Field::LargeObject => match number(bytes)? {
                0 => self.end_block(),
                _ => self.fields.extend([Field::Chunk, Field::LargeObject]),
            },
        }
        Some(())
    }

    fn read_head(&mut self, head: &[u8]) -> Option<()> {
        let &[_, _, _, _, _, major, minor, _, number_bytes, offset_bytes, format] = head else { return None };
        let is_known = major == 1 && VERSIONS.contains(&minor) && format == FORMAT_CUSTOM;
        if !is_known || !matches!(number_bytes, 2 | 4 | 8) || !matches!(offset_bytes, 4 | 8) {
            return None;
        }
        (self.version, self.number_bytes, self.offset_bytes) = (minor, number_bytes.into(), offset_bytes.into());
        self.fields.push_back(if minor >= 15 { Field::Byte } else { Field::Number });
        // The time of the dump.
        self.fields.extend([Field::Number; 7]);
        // The database, and the versions of the server and of pg_dump.
        self.fields.extend([Field::Text; 3]);
        self.fields.push_back(Field::Entries);
        Some(())
    }

    fn next_entry(&mut self) {
        if self.entries == 0 {
            self.next_block();
            return;
        }
        self.entries -= 1;
        // Its number, and whether it has data.
        self.fields.extend([Field::Number; 2]);
        // The numbers of its catalog and its object, its tag and its kind.
        self.fields.extend([Field::Text; 4]);
        // Its section.
        self.fields.push_back(Field::Number);
        // The statements which create, drop and copy it, its schema and its tablespace.
        self.fields.extend([Field::Text; 5]);
        if self.version >= 14 {
            self.fields.push_back(Field::Text);
        }
        if self.version >= 16 {
            self.fields.push_back(Field::Number);
        }
        // Its owner, and whether it has OIDs.
        self.fields.extend([Field::Text; 2]);
        self.fields.extend([Field::Dependency, Field::Offset]);
    }

    /// Continues after the table of contents, and after each block.
    fn next_block(&mut self) {
        self.is_behind_contents = true;
        if self.found < self.wanted {
            self.fields.push_back(Field::Block);
        }
    }

    fn end_block(&mut self) {
        self.found += 1;
        self.next_block();
    }

    /// Ends the chunks of a table, or of one of the large objects of a block.
    fn end_chunks(&mut self) {
        if self.fields.is_empty() {
            self.end_block();
        }
    }
}

/// A number, which must not be negative.
fn number(bytes: &[u8]) -> Option<u64> {
    (bytes[0] == 0).then(|| little_endian(&bytes[1..]))
}

impl Format for PgCustom {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() && !self.is_lost {
            take(&mut self.skip, &mut bytes);
            if bytes.is_empty() {
                break;
            }
            // Without an expected field the dump is complete, and other bytes follow it.
            let Some(field) = self.fields.front().copied() else { return Some(bytes.to_vec()) };
            match fill(std::mem::take(&mut self.held), self.length(field), &mut bytes) {
                Ok(held) => {
                    self.fields.pop_front();
                    self.is_lost = self.read(field, &held).is_none();
                }
                Err(held) => self.held = held,
            }
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        if self.is_lost {
            return unknown(NAME);
        }
        if self.fields.is_empty() && self.skip == 0 {
            return whole(NAME);
        }
        if !self.is_behind_contents {
            return missing(NAME, "its table of contents is truncated");
        }
        missing(NAME, format!("only {} of its {} blocks of data are there", self.found, self.wanted))
    }
}

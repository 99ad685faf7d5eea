//! `mongodump --archive`: a prelude of documents, then blocks of documents of one collection each. Each of them ends
//! with a terminator.
//!
//! The last block of a collection is marked. The archive itself has no end, so that a collection without any block is
//! not noticed as missing. Source: `common/archive` of mongo-tools.

use std::collections::BTreeSet;

use super::{Format, Recognised, agree, fill, little_endian, missing, take, unknown, whole};

const NAME: &str = "mongodump archive";
const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
const TERMINATOR: [u8; 4] = [0xff; 4];
/// The longest BSON document, including the excess which mongo-tools allow.
const MAX_DOCUMENT: u64 = 16 * 1024 * 1024 + 16 * 1024;
/// The longest header of a block, which names a database and a collection.
const MAX_HEADER: u64 = 16 * 1024;
/// The most collections which may be open at once. mongodump has four, unless it is configured otherwise.
const MAX_OPEN: usize = 10_000;

/// Whether these are the first bytes of an archive: the magic, and a document of the prelude.
pub(super) fn is_begun(head: &[u8]) -> bool {
    let is_document = |length: &[u8]| (5..=MAX_DOCUMENT).contains(&little_endian(length));
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(4..8).is_none_or(is_document)
}

enum At {
    Magic(Vec<u8>),
    /// The length of a document, or a terminator.
    Length(Vec<u8>),
    Document(u64),
    /// A block's header, of which these bytes have arrived, and its length.
    Header(Vec<u8>, usize),
    /// After the last block of each collection, in other bytes.
    After,
    Lost,
}

/// An archive.
pub(super) struct Mongodump {
    at: At,
    /// Whether the next document is a block's header. The prelude has no such header.
    is_header: bool,
    is_in_prelude: bool,
    /// The number of documents that the prelude has: one about the archive, and one for each collection.
    listed: u64,
    has_blocks: bool,
    /// The collections whose last block has not arrived yet.
    open: BTreeSet<Vec<u8>>,
}

impl Default for Mongodump {
    fn default() -> Self {
        Self {
            at: At::Magic(Vec::new()),
            is_header: false,
            is_in_prelude: true,
            listed: 0,
            has_blocks: false,
            open: BTreeSet::new(),
        }
    }
}

impl Mongodump {
    fn read_length(&mut self, bytes: &[u8]) -> At {
        if *bytes == TERMINATOR {
            (self.is_header, self.is_in_prelude) = (true, false);
            return At::Length(Vec::new());
        }
        let length = little_endian(bytes);
        if !(5..=MAX_DOCUMENT).contains(&length) {
            return if self.is_whole() { At::After } else { At::Lost };
        }
        if !self.is_header {
            self.listed += u64::from(self.is_in_prelude);
            return At::Document(length - 4);
        }
        match usize::try_from(length) {
            Ok(whole) if length <= MAX_HEADER => At::Header(bytes.to_vec(), whole),
            _ if self.is_whole() => At::After,
            _ => At::Lost,
        }
    }

    /// Whether the archive may end here, between two blocks.
    fn is_whole(&self) -> bool {
        self.is_header && self.open.is_empty() && (self.has_blocks || self.listed <= 1)
    }

    fn read_header(&mut self, document: &[u8]) -> At {
        let Some((collection, is_last)) = block_of(document) else { return At::Lost };
        if is_last {
            self.open.remove(&collection);
        } else {
            self.open.insert(collection);
        }
        (self.is_header, self.has_blocks) = (false, true);
        if self.open.len() > MAX_OPEN { At::Lost } else { At::Length(Vec::new()) }
    }
}

/// The database and collection of a block's header, and whether the block is the collection's last block.
fn block_of(document: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut rest = document.get(4..)?;
    let (mut name, mut is_last) = (Vec::new(), None);
    while let Some((kind, after)) = rest.split_first().filter(|(kind, _)| **kind != 0) {
        let end = after.iter().position(|byte| *byte == 0)?;
        let (key, value) = (&after[..end], &after[end + 1..]);
        let length = match kind {
            // A number of eight bytes, a string, a boolean, a number of four bytes.
            0x01 | 0x12 => 8,
            0x02 => 4 + usize::try_from(little_endian(value.get(..4)?)).ok()?,
            0x08 => 1,
            0x10 => 4,
            _ => return None,
        };
        let value = value.get(..length)?;
        match key {
            b"db" | b"collection" => name.extend_from_slice(value),
            b"EOF" => is_last = Some(value != [0]),
            _ => {}
        }
        rest = &after[end + 1 + length..];
    }
    Some((name, is_last?))
}

impl Format for Mongodump {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::Lost);
            self.at = match at {
                At::Magic(held) => match fill(held, MAGIC.len(), &mut bytes) {
                    Ok(_) => At::Length(Vec::new()),
                    Err(held) => At::Magic(held),
                },
                At::Length(held) => match fill(held, 4, &mut bytes) {
                    Ok(held) => match self.read_length(&held) {
                        At::After => {
                            self.at = At::After;
                            return Some([&held, bytes].concat());
                        }
                        at => at,
                    },
                    Err(held) => At::Length(held),
                },
                At::Document(mut left) => {
                    take(&mut left, &mut bytes);
                    if left == 0 { At::Length(Vec::new()) } else { At::Document(left) }
                }
                At::Header(held, length) => match fill(held, length, &mut bytes) {
                    Ok(held) => self.read_header(&held),
                    Err(held) => At::Header(held, length),
                },
                at @ (At::After | At::Lost) => {
                    self.at = at;
                    return None;
                }
            };
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::Lost => unknown(NAME),
            _ if self.is_in_prelude => missing(NAME, "its list of collections is truncated"),
            // A few other bytes may follow.
            At::After => whole(NAME),
            At::Length(_) if self.is_whole() => whole(NAME),
            _ if !self.has_blocks => missing(NAME, "the blocks of its collections are missing"),
            _ => missing(NAME, format!("the last block of {} of its collections is missing", self.open.len().max(1))),
        }
    }
}

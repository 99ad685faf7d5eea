//! xz (the .xz file format 1.2): a stream ends with a footer which has a checksum and repeats the flags of the header.
//!
//! Nothing is decompressed, so that the content is not judged.

use flate2::Crc;

use super::{Format, FormatEnd, Recognised, agree, held::Held, little_endian, missing, whole};

const NAME: &str = "xz";
const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const HEADER: usize = 12;
const FOOTER: usize = 12;
/// The length of a stream without content.
const EMPTY: u64 = 32;
/// Padding, or a line of text, may follow a footer.
const TAIL: usize = 4096;

/// Whether these are the first bytes of a stream.
pub(super) fn is_begun(head: &[u8]) -> bool {
    let is_header = |header: &[u8]| header[6] == 0 && little_endian(&header[8..]) == crc(&header[6..8]);
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(..HEADER).is_none_or(is_header)
}

fn crc(bytes: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().into()
}

/// A stream of xz.
#[derive(Default)]
pub(super) struct Xz {
    tail: Held<TAIL>,
    length: u64,
}

impl Format for Xz {
    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.tail.push(bytes, |_| {});
    }

    fn finish(self: Box<Self>) -> Recognised {
        let tail = self.tail.bytes();
        let is_footer = |footer: &[u8]| footer.ends_with(b"YZ") && little_endian(&footer[..4]) == crc(&footer[4..10]);
        let footer = tail.windows(FOOTER).rposition(is_footer);
        let Some(footer) = footer.filter(|_| self.length >= (HEADER + FOOTER) as u64) else {
            return missing(NAME, "the footer of its compressed data is missing");
        };
        let rest = &tail[footer + FOOTER..];
        let padding = rest.iter().take_while(|byte| **byte == 0).count();
        match &rest[padding..] {
            // The list of blocks between header and footer is empty.
            [] if self.length == EMPTY => Recognised { format: NAME.to_owned(), end: FormatEnd::Empty },
            [] => whole(NAME),
            // A further stream begins here and has no footer.
            rest if agree(rest, &MAGIC) => missing(NAME, "the footer of its last compressed part is missing"),
            _ => whole(NAME),
        }
    }
}

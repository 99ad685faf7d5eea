//! bzip2: each stream is a header, blocks, and an end with a checksum of the content.
//!
//! Streams may be concatenated, and other bytes may follow the last stream. `bzip2` ignores such bytes, too. A block is
//! not aligned to bytes and has no length, so that its end is found only by decompression. Source: `compress.c` and
//! `decompress.c` of bzip2 1.0.8.

use bzip2::{Decompress, Status};

use super::{Format, Recognised, Recogniser, agree, fill, missing, unknown, within};

const NAME: &str = "bzip2";
const MAGIC: [u8; 3] = *b"BZh";
/// The magic, the size of the blocks as a digit, and the magic of a block or of the end.
const HEADER: usize = 10;
const BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
const END: [u8; 6] = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
const OUTPUT: usize = 64 * 1024;

/// Whether these are the first bytes of a stream.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.len() > MAGIC.len() && is_header(head)
}

/// Whether this is a header, or the first bytes of a header.
fn is_header(head: &[u8]) -> bool {
    let block = head.get(MAGIC.len() + 1..).unwrap_or_default();
    agree(head, &MAGIC)
        && head.get(MAGIC.len()).is_none_or(|digit| (b'1'..=b'9').contains(digit))
        && (agree(block, &BLOCK) || agree(block, &END))
}

enum At {
    /// A header, of which these bytes have arrived.
    Header(Vec<u8>),
    Body,
    /// After the last stream, in other bytes.
    After,
    Damaged,
    /// Memory for the decompression is missing.
    Lost,
}

/// Streams of bzip2.
pub(super) struct Bzip2 {
    at: At,
    decompress: Decompress,
    streams: u64,
    /// The length of the decompressed content.
    length: u64,
    inner: Option<Recogniser>,
    output: Vec<u8>,
}

impl Bzip2 {
    pub fn new(is_inner: bool) -> Self {
        Self {
            at: At::Header(Vec::new()),
            decompress: Decompress::new(false),
            streams: 0,
            length: 0,
            inner: (!is_inner).then(Recogniser::inner),
            output: vec![0; OUTPUT],
        }
    }

    fn decompress(&mut self, bytes: &mut &[u8]) -> At {
        loop {
            let (before_in, before_out) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self.decompress.decompress(bytes, &mut self.output);
            // Neither number exceeds the length of its buffer.
            let consumed = usize::try_from(self.decompress.total_in() - before_in).unwrap_or(bytes.len());
            let length = usize::try_from(self.decompress.total_out() - before_out).unwrap_or_default();
            *bytes = bytes.get(consumed..).unwrap_or_default();
            let output = &self.output[..length.min(self.output.len())];
            self.length += output.len() as u64;
            if let Some(inner) = &mut self.inner {
                inner.push(output);
            }
            match status {
                Err(_) => return At::Damaged,
                Ok(Status::MemNeeded) => return At::Lost,
                Ok(Status::StreamEnd) => {
                    self.streams += 1;
                    return At::Header(Vec::new());
                }
                Ok(_) if bytes.is_empty() && length < self.output.len() => return At::Body,
                Ok(_) if consumed == 0 && length == 0 => return At::Damaged,
                Ok(_) => {}
            }
        }
    }
}

impl Format for Bzip2 {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::After);
            self.at = match at {
                At::Header(held) => match fill(held, HEADER, &mut bytes) {
                    Ok(held) | Err(held) if !is_header(&held) => return Some([&held, bytes].concat()),
                    Err(held) => At::Header(held),
                    Ok(held) => {
                        self.decompress = Decompress::new(false);
                        self.decompress(&mut &held[..])
                    }
                },
                At::Body => self.decompress(&mut bytes),
                at @ (At::After | At::Damaged | At::Lost) => {
                    bytes = &[];
                    at
                }
            };
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::After => within(NAME, self.inner.map(|inner| (inner, self.length))),
            At::Header(held) if held.is_empty() && self.streams > 0 => {
                within(NAME, self.inner.map(|inner| (inner, self.length)))
            }
            At::Lost => unknown(NAME),
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.streams == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.streams)),
        }
    }
}

//! Zstandard (RFC 8878): each frame is a header, blocks of known lengths up to a block marked as the last, and an
//! optional checksum.
//!
//! The frames are walked without decompression. Their content is decompressed only if that needs little memory.

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::{Format, Recognised, Recogniser, agree, fill, little_endian, missing, take, within};

const NAME: &str = "Zstandard";
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic of a skippable frame. Its first byte is 0x50 to 0x5f.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Bits of the frame header descriptor: the frame is a single segment, a checksum follows the frame, and a reserved bit
/// which is always zero.
const SINGLE: u8 = 0x20;
const HAS_SUM: u8 = 4;
const RESERVED: u8 = 8;
/// The largest window of a frame which is decompressed here. Levels up to 19 use no larger window.
const MAX_WINDOW: u64 = 8 * 1024 * 1024;
const OUTPUT: usize = 128 * 1024;

/// Whether these are the first bytes of a frame.
pub(super) fn is_begun(head: &[u8]) -> bool {
    // The reserved bit of the descriptor must be zero.
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(4).is_none_or(|byte| byte & RESERVED == 0)
}

enum At {
    Magic(Vec<u8>),
    SkipLength(Vec<u8>),
    /// A header, of which these bytes have arrived. Its first byte determines its length.
    Header(Vec<u8>),
    /// A block's header; whether the frame has a checksum.
    Block(bool, Vec<u8>),
    /// The content of a block: how many bytes have not arrived yet, whether the block is the last, and whether the
    /// frame has a
    /// checksum.
    Content(u64, bool, bool),
    Skip(u64),
    After,
    Damaged,
}

/// A stream of Zstandard.
pub(super) struct Zstd {
    at: At,
    /// The magic of the frame.
    magic: Vec<u8>,
    frames: u64,
    content: Option<Content>,
}

/// The decompression of the content.
struct Content {
    decoder: Decoder<'static>,
    inner: Recogniser,
    length: u64,
    output: Vec<u8>,
}

impl Zstd {
    pub fn new(is_inner: bool) -> Self {
        let decoder = if is_inner { None } else { Decoder::new().ok() };
        let content =
            decoder.map(|decoder| Content { decoder, inner: Recogniser::inner(), length: 0, output: vec![0; OUTPUT] });
        Self { at: At::Magic(Vec::new()), magic: Vec::new(), frames: 0, content }
    }

    fn after_magic(&mut self, magic: &[u8]) -> At {
        self.magic = magic.to_vec();
        if *magic == MAGIC { At::Header(Vec::new()) } else { At::SkipLength(Vec::new()) }
    }

    fn read_header(&mut self, header: &[u8]) -> At {
        let (descriptor, rest) = (header[0], &header[1..]);
        let (dictionary, content) = lengths(descriptor);
        let window = if descriptor & SINGLE == 0 {
            let base = 1_u64 << (10 + (rest[0] >> 3));
            base + base / 8 * u64::from(rest[0] & 7)
        } else {
            little_endian(&rest[dictionary..]).saturating_add(if content == 2 { 256 } else { 0 })
        };
        if window > MAX_WINDOW || dictionary > 0 {
            self.content = None;
        }
        At::Block(descriptor & HAS_SUM != 0, Vec::new())
    }

    fn end_of_frame(&mut self) -> At {
        self.frames += 1;
        At::Magic(Vec::new())
    }

    /// Processes the bytes of one part of a frame. Returns the bytes after the last frame.
    fn step(&mut self, bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let at = std::mem::replace(&mut self.at, At::After);
        self.at = match at {
            At::Magic(held) => match fill(held, MAGIC.len(), bytes) {
                Ok(held) if agree(&held, &MAGIC) || is_skippable(&held) => self.after_magic(&held),
                Err(held) if agree(&held, &MAGIC) || is_skippable(&held) => At::Magic(held),
                Ok(held) | Err(held) => return Some([&held, *bytes].concat()),
            },
            At::SkipLength(held) => match fill(held, 4, bytes) {
                Err(held) => At::SkipLength(held),
                Ok(held) if little_endian(&held) == 0 => self.end_of_frame(),
                Ok(held) => At::Skip(little_endian(&held)),
            },
            At::Header(held) => {
                let length = held.first().map_or(1, |descriptor| header_length(*descriptor));
                match fill(held, length, bytes) {
                    Ok(held) if length > 1 => self.read_header(&held),
                    Ok(held) | Err(held) if held.first().is_some_and(|descriptor| descriptor & RESERVED != 0) => {
                        At::Damaged
                    }
                    Ok(held) | Err(held) => At::Header(held),
                }
            }
            At::Block(has_sum, held) => match fill(held, 3, bytes) {
                Err(held) => At::Block(has_sum, held),
                Ok(held) => match block(&held) {
                    Some((0, is_last)) => self.after_block(is_last, has_sum),
                    Some((length, is_last)) => At::Content(length, is_last, has_sum),
                    None => At::Damaged,
                },
            },
            At::Content(mut left, is_last, has_sum) => {
                take(&mut left, bytes);
                if left == 0 { self.after_block(is_last, has_sum) } else { At::Content(left, is_last, has_sum) }
            }
            At::Skip(mut left) => {
                take(&mut left, bytes);
                if left == 0 { self.end_of_frame() } else { At::Skip(left) }
            }
            at @ (At::After | At::Damaged) => {
                *bytes = &[];
                at
            }
        };
        None
    }

    /// Decompresses these bytes of a frame. The frame is damaged if that fails.
    fn decompress(&mut self, bytes: &[u8]) {
        if let Some(content) = &mut self.content
            && content.push(bytes).is_none()
        {
            (self.at, self.content) = (At::Damaged, None);
        }
    }

    fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Magic(_) | At::After)
    }

    fn after_block(&mut self, is_last: bool, has_sum: bool) -> At {
        match (is_last, has_sum) {
            (false, _) => At::Block(has_sum, Vec::new()),
            (true, true) => At::Skip(4),
            (true, false) => self.end_of_frame(),
        }
    }
}

/// The length of the header which begins with this byte; at least two bytes.
fn header_length(descriptor: u8) -> usize {
    let (dictionary, content) = lengths(descriptor);
    1 + usize::from(descriptor & SINGLE == 0) + dictionary + content
}

/// The number of bytes that the dictionary's id and the content's size have in a header with this descriptor.
fn lengths(descriptor: u8) -> (usize, usize) {
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(descriptor & SINGLE != 0),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    (dictionary, content)
}

/// The size of the content of a block, and whether it is a frame's last block; `None` for the reserved kind.
fn block(header: &[u8]) -> Option<(u64, bool)> {
    let header = little_endian(header);
    let length = match header >> 1 & 3 {
        0 | 2 => header >> 3,
        1 => 1,
        _ => return None,
    };
    Some((length, header & 1 != 0))
}

pub(super) fn is_skippable(magic: &[u8]) -> bool {
    magic.first().is_some_and(|first| first >> 4 == 5) && agree(&magic[1..], &SKIPPABLE)
}

impl Content {
    /// Decompresses the bytes; `None` if that is impossible.
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let mut input = InBuffer::around(bytes);
        loop {
            let mut output = OutBuffer::around(&mut self.output[..]);
            let before = input.pos;
            self.decoder.run(&mut input, &mut output).ok()?;
            let length = output.pos();
            self.inner.push(&self.output[..length]);
            self.length += length as u64;
            let is_drained = length < self.output.len();
            if input.pos == bytes.len() && is_drained {
                return Some(());
            }
            if input.pos == before && length == 0 {
                return None;
            }
        }
    }
}

impl Format for Zstd {
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut rest = bytes;
        // The beginning of the bytes which belong to a frame and were not decompressed yet.
        let mut first = 0;
        while !rest.is_empty() {
            let was_between = self.is_between_frames();
            if let Some(after) = self.step(&mut rest) {
                return Some(after);
            }
            let here = bytes.len() - rest.len();
            match (was_between, self.is_between_frames()) {
                (false, true) => self.decompress(&bytes[first..here]),
                (true, false) => {
                    self.decompress(&self.magic.clone());
                    first = here;
                }
                _ => {}
            }
        }
        if !self.is_between_frames() {
            self.decompress(&bytes[first..]);
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::Magic(held) if held.is_empty() && self.frames > 0 => {
                within(NAME, self.content.map(|content| (content.inner, content.length)))
            }
            At::After => within(NAME, self.content.map(|content| (content.inner, content.length))),
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.frames == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.frames)),
        }
    }
}

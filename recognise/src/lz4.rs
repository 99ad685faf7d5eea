//! LZ4 frames (LZ4 Frame Format 1.6): each frame is a header with a checksum, blocks of known lengths up to an end
//! mark, and an optional checksum of the content.
//!
//! Frames may be concatenated. The legacy format has no end and is not recognised.

use std::hash::Hasher;

use lz4_flex::block::decompress_into_with_dict;
use twox_hash::XxHash32;

use super::{Format, Recognised, Recogniser, agree, fill, little_endian, missing, take, within, zstd::is_skippable};

const NAME: &str = "LZ4";
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// Bits of the frame's flags.
const VERSION: u8 = 0xc0;
const VERSION_1: u8 = 0x40;
const ARE_BLOCKS_INDEPENDENT: u8 = 0x20;
const HAS_BLOCK_SUMS: u8 = 0x10;
const HAS_SIZE: u8 = 8;
const HAS_SUM: u8 = 4;
const RESERVED: u8 = 2;
const HAS_DICTIONARY: u8 = 1;
/// The bit of a block's length which marks a block that is not compressed.
const STORED: u64 = 0x8000_0000;
/// The number of bytes before a block that its content may refer to.
const WINDOW: usize = 64 * 1024;

/// Whether these are the first bytes of a frame.
pub(super) fn is_begun(head: &[u8]) -> bool {
    let is_frame = |header: &[u8]| match header.first().map(|flags| header.get(..header_length(*flags))) {
        Some(Some(header)) => frame_of(header).is_some(),
        _ => true,
    };
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && is_frame(&head[MAGIC.len()..])
}

/// The length of the header which begins with these flags; at least three bytes.
fn header_length(flags: u8) -> usize {
    3 + if flags & HAS_SIZE == 0 { 0 } else { 8 } + if flags & HAS_DICTIONARY == 0 { 0 } else { 4 }
}

/// The properties of a frame.
#[derive(Clone, Copy, Default)]
struct Frame {
    flags: u8,
    /// The length of the longest block.
    longest: usize,
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The frame of a header without the magic; `None` if the header is invalid.
fn frame_of(header: &[u8]) -> Option<Frame> {
    let (sum, descriptor) = header.split_last()?;
    let (&flags, &size) = (descriptor.first()?, descriptor.get(1)?);
    let is_valid = flags & (VERSION | RESERVED) == VERSION_1 && size & 0x8f == 0 && size >= 0x40;
    let [_, second, ..] = XxHash32::oneshot(0, descriptor).to_le_bytes();
    (is_valid && second == *sum).then(|| Frame { flags, longest: 1 << (8 + 2 * (size >> 4)) })
}

enum At {
    Magic(Vec<u8>),
    SkipLength(Vec<u8>),
    Skip(u64),
    /// A header, of which these bytes have arrived. Its first byte determines its length.
    Header(Vec<u8>),
    BlockLength(Vec<u8>),
    /// A block which is not decompressed: how many bytes have not arrived yet.
    Walk(u64),
    /// A block of which these bytes have arrived, its length including its checksum, and whether it is stored.
    Block(Vec<u8>, usize, bool),
    /// The checksum of the content.
    Sum(Vec<u8>),
    After,
    Damaged,
}

/// Frames of LZ4.
pub(super) struct Lz4 {
    at: At,
    frame: Frame,
    frames: u64,
    content: Option<Content>,
}

/// The decompression of the content.
struct Content {
    inner: Recogniser,
    length: u64,
    sum: XxHash32,
    /// The end of the content before the block.
    window: Vec<u8>,
    output: Vec<u8>,
}

impl Content {
    /// Decompresses a block; `None` if that is impossible.
    fn push(&mut self, block: &[u8], is_stored: bool, frame: Frame) -> Option<()> {
        let content = if is_stored {
            block
        } else {
            self.output.resize(frame.longest, 0);
            let length = decompress_into_with_dict(block, &mut self.output, &self.window).ok()?;
            &self.output[..length]
        };
        self.length += content.len() as u64;
        self.inner.push(content);
        if frame.has(HAS_SUM) {
            self.sum.write(content);
        }
        if !frame.has(ARE_BLOCKS_INDEPENDENT) {
            self.window.extend_from_slice(content);
            self.window.drain(..self.window.len().saturating_sub(WINDOW));
        }
        Some(())
    }
}

impl Lz4 {
    pub fn new(is_inner: bool) -> Self {
        let content = (!is_inner).then(|| Content {
            inner: Recogniser::inner(),
            length: 0,
            sum: XxHash32::with_seed(0),
            window: Vec::new(),
            output: Vec::new(),
        });
        Self { at: At::Magic(Vec::new()), frame: Frame::default(), frames: 0, content }
    }

    fn read_header(&mut self, header: &[u8]) -> At {
        let Some(frame) = frame_of(header) else { return At::Damaged };
        self.frame = frame;
        if frame.has(HAS_DICTIONARY) {
            self.content = None;
        }
        if let Some(content) = &mut self.content {
            content.window.clear();
            content.sum = XxHash32::with_seed(0);
        }
        At::BlockLength(Vec::new())
    }

    fn read_block_length(&mut self, length: u64) -> At {
        let (is_stored, length) = (length & STORED != 0, length & !STORED);
        if length == 0 && !is_stored {
            return if self.frame.has(HAS_SUM) { At::Sum(Vec::new()) } else { self.end_of_frame() };
        }
        let (sum, longest) = (if self.frame.has(HAS_BLOCK_SUMS) { 4 } else { 0 }, self.frame.longest);
        match usize::try_from(length) {
            Ok(length) if length > longest => At::Damaged,
            Ok(length) if self.content.is_some() => At::Block(Vec::new(), length + sum, is_stored),
            _ => At::Walk(length + sum as u64),
        }
    }

    fn read_block(&mut self, block: &[u8], is_stored: bool) -> At {
        let length = block.len() - if self.frame.has(HAS_BLOCK_SUMS) { 4 } else { 0 };
        let (block, sum) = block.split_at(length);
        let is_intact = sum.is_empty() || little_endian(sum) == u64::from(XxHash32::oneshot(0, block));
        let content = self.content.as_mut().filter(|_| is_intact);
        match content.and_then(|content| content.push(block, is_stored, self.frame)) {
            Some(()) => At::BlockLength(Vec::new()),
            None => At::Damaged,
        }
    }

    fn check(&mut self, sum: &[u8]) -> At {
        let is_sum = |content: &Content| u64::from(content.sum.finish_32()) == little_endian(sum);
        if self.content.as_ref().is_none_or(is_sum) { self.end_of_frame() } else { At::Damaged }
    }

    fn end_of_frame(&mut self) -> At {
        self.frames += 1;
        At::Magic(Vec::new())
    }
}

impl Format for Lz4 {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::After);
            self.at = match at {
                At::Magic(held) => match fill(held, MAGIC.len(), &mut bytes) {
                    Ok(held) if held == MAGIC => At::Header(Vec::new()),
                    Ok(held) if is_skippable(&held) => At::SkipLength(Vec::new()),
                    Err(held) if agree(&held, &MAGIC) || is_skippable(&held) => At::Magic(held),
                    Ok(held) | Err(held) => return Some([&held, bytes].concat()),
                },
                At::SkipLength(held) => match fill(held, 4, &mut bytes) {
                    Err(held) => At::SkipLength(held),
                    Ok(held) if little_endian(&held) == 0 => self.end_of_frame(),
                    Ok(held) => At::Skip(little_endian(&held)),
                },
                At::Skip(mut left) => {
                    take(&mut left, &mut bytes);
                    if left == 0 { self.end_of_frame() } else { At::Skip(left) }
                }
                At::Header(held) => {
                    let length = held.first().map_or(1, |flags| header_length(*flags));
                    match fill(held, length, &mut bytes) {
                        Ok(held) if length > 1 => self.read_header(&held),
                        Ok(held) | Err(held) => At::Header(held),
                    }
                }
                At::BlockLength(held) => match fill(held, 4, &mut bytes) {
                    Ok(held) => self.read_block_length(little_endian(&held)),
                    Err(held) => At::BlockLength(held),
                },
                At::Walk(mut left) => {
                    take(&mut left, &mut bytes);
                    if left == 0 { At::BlockLength(Vec::new()) } else { At::Walk(left) }
                }
                At::Block(held, length, is_stored) => match fill(held, length, &mut bytes) {
                    Ok(held) => self.read_block(&held, is_stored),
                    Err(held) => At::Block(held, length, is_stored),
                },
                At::Sum(held) => match fill(held, 4, &mut bytes) {
                    Ok(held) => self.check(&held),
                    Err(held) => At::Sum(held),
                },
                at @ (At::After | At::Damaged) => {
                    bytes = &[];
                    at
                }
            };
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::After => within(NAME, self.content.map(|content| (content.inner, content.length))),
            At::Magic(held) if held.is_empty() && self.frames > 0 => {
                within(NAME, self.content.map(|content| (content.inner, content.length)))
            }
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.frames == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.frames)),
        }
    }
}

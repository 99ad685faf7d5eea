//! Zstandard (RFC 8878): each frame is a header, blocks of known lengths, of which one is the last, and perhaps a check sum.
//!
//! The frames are walked without decompression. What is in them is decompressed only where that needs little memory.

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::{Format, Recognised, Recogniser, agree, fill, little_endian, missing, take, within};

const NAME: &str = "Zstandard";
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The last three bytes of the magic of a frame that decoders skip; the first is 0x50 to 0x5f.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Bits of the first byte of a header: the frame is one segment, a check sum follows it, and one that is always zero.
const SINGLE: u8 = 0x20;
const HAS_SUM: u8 = 4;
const RESERVED: u8 = 8;
/// How far back a frame may look that is decompressed here. Levels up to 19 look no further.
const LONGEST_WINDOW: u64 = 8 * 1024 * 1024;
const OUTPUT: usize = 128 * 1024;

/// Whether these are the first bytes of a frame.
pub(super) fn is_begun(head: &[u8]) -> bool {
    // The bit of the descriptor that is reserved has to be zero.
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(4).is_none_or(|byte| byte & RESERVED == 0)
}

enum At {
    Magic(Vec<u8>),
    SkipLength(Vec<u8>),
    /// A header, of which this much is there. Its first byte decides on its length.
    Header(Vec<u8>),
    /// A block's header in a frame with or without a check sum.
    Block(bool, Vec<u8>),
    /// The content of a block of which so much is left; whether it is the last, and whether a check sum follows that.
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
    look: Option<Look>,
}

/// The decompression of what is within.
struct Look {
    decoder: Decoder<'static>,
    inner: Recogniser,
    length: u64,
    output: Vec<u8>,
}

impl Zstd {
    pub fn new(is_inner: bool) -> Self {
        let decoder = if is_inner { None } else { Decoder::new().ok() };
        let look =
            decoder.map(|decoder| Look { decoder, inner: Recogniser::inner(), length: 0, output: vec![0; OUTPUT] });
        Self { at: At::Magic(Vec::new()), magic: Vec::new(), frames: 0, look }
    }

    fn after_magic(&mut self, magic: &[u8]) -> At {
        self.magic = magic.to_vec();
        if *magic == MAGIC {
            At::Header(Vec::new())
        } else if is_skippable(magic) {
            At::SkipLength(Vec::new())
        } else {
            At::After
        }
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
        if window > LONGEST_WINDOW || dictionary > 0 {
            self.look = None;
        }
        At::Block(descriptor & HAS_SUM != 0, Vec::new())
    }

    fn end_of_frame(&mut self) -> At {
        self.frames += 1;
        At::Magic(Vec::new())
    }

    /// Walks over a part of one kind.
    fn step(&mut self, bytes: &mut &[u8]) {
        let at = std::mem::replace(&mut self.at, At::After);
        self.at = match at {
            At::Magic(held) => match fill(held, MAGIC.len(), bytes) {
                Ok(held) => self.after_magic(&held),
                Err(held) if agree(&held, &MAGIC) || is_skippable(&held) => At::Magic(held),
                Err(_) => At::After,
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
    }

    /// Decompresses these bytes of a frame. Where that fails, the frame is damaged.
    fn look_at(&mut self, bytes: &[u8]) {
        if let Some(look) = &mut self.look
            && look.push(bytes).is_none()
        {
            (self.at, self.look) = (At::Damaged, None);
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

/// The length of the header that begins with this byte; at least two bytes.
fn header_length(descriptor: u8) -> usize {
    let (dictionary, content) = lengths(descriptor);
    1 + usize::from(descriptor & SINGLE == 0) + dictionary + content
}

/// How many bytes a header of this descriptor has of a dictionary's number and of the content's size.
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

/// How many bytes the content of a block has, and whether it is a frame's last; nothing for a kind that is reserved.
fn block(header: &[u8]) -> Option<(u64, bool)> {
    let header = little_endian(header);
    let length = match header >> 1 & 3 {
        0 | 2 => header >> 3,
        1 => 1,
        _ => return None,
    };
    Some((length, header & 1 != 0))
}

fn is_skippable(magic: &[u8]) -> bool {
    magic.first().is_some_and(|first| first >> 4 == 5) && agree(&magic[1..], &SKIPPABLE)
}

impl Look {
    /// Decompresses; nothing when that cannot be done.
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
    fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        // Where the bytes begin that belong to a frame, and that were not decompressed yet.
        let mut first = 0;
        while !rest.is_empty() {
            let was_between = self.is_between_frames();
            self.step(&mut rest);
            let here = bytes.len() - rest.len();
            match (was_between, self.is_between_frames()) {
                (false, true) => self.look_at(&bytes[first..here]),
                (true, false) => {
                    self.look_at(&self.magic.clone());
                    first = here;
                }
                _ => {}
            }
        }
        if !self.is_between_frames() {
            self.look_at(&bytes[first..]);
        }
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::Magic(held) if held.is_empty() && self.frames > 0 => {
                within(NAME, self.look.map(|look| (look.inner, look.length)))
            }
            At::After => within(NAME, self.look.map(|look| (look.inner, look.length))),
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.frames == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.frames)),
        }
    }
}

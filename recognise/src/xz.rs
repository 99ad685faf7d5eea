//! xz (the .xz file format 1.2): a stream is a header, blocks of chunks of known lengths, an index of the blocks, and a
//! footer.
//!
//! The chunks are walked without decompression. Their content is decompressed only if that needs little memory and no
//! filter. Streams may be concatenated, with zeros between them.

use lzma_rust2::{Action, Lzma2Stream, Status};

use super::{
    Format, Recognised, Recogniser, agree, fill, little_endian, missing, take, within,
    xz_fields::{Block, Index, Sum, block_of, is_footer, is_header},
};

const NAME: &str = "xz";
const MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const HEADER: usize = 12;
const FOOTER: usize = 12;
/// The largest dictionary of a block which is decompressed here. Levels up to 6, the default, use no larger dictionary.
const LARGEST_DICTIONARY: u64 = 8 * 1024 * 1024;
const OUTPUT: usize = 64 * 1024;

/// Whether these are the first bytes of a stream.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(..HEADER).is_none_or(is_header)
}

enum At {
    /// A stream's header, of which these bytes have arrived.
    Header(Vec<u8>),
    /// The header of a block, or the first byte of the index.
    Block(Vec<u8>),
    /// The header of a chunk. Its first byte determines its length.
    Chunk(Vec<u8>),
    /// The content of a chunk, of which so many bytes have not arrived yet.
    Content(u64),
    /// The zeros after the last chunk of a block, and the checksum of the block's content.
    Sum(Vec<u8>, usize),
    Index(Index),
    IndexSum(Vec<u8>, u32),
    Footer(Vec<u8>),
    /// After a stream.
    Between(Vec<u8>),
    /// After the last stream, in other bytes.
    After,
    Damaged,
}

/// Streams of xz.
pub(super) struct Xz {
    at: At,
    streams: u64,
    /// The flags of the stream, which determine its checksums.
    flags: [u8; 2],
    block: Block,
    /// The bytes of the block so far, without its zeros.
    length: u64,
    blocks: u64,
    /// The lengths of all blocks of the stream.
    blocks_length: u64,
    index_length: u64,
    content: Option<Content>,
}

/// The decompression of the content.
struct Content {
    decoder: Lzma2Stream,
    sum: Sum,
    inner: Recogniser,
    length: u64,
    output: Vec<u8>,
}

impl Content {
    /// Decompresses the bytes; `None` if that is impossible.
    fn push(&mut self, mut bytes: &[u8]) -> Option<()> {
        loop {
            let done = self.decoder.process(bytes, &mut self.output, Action::Run).ok()?;
            let output = self.output.get(..done.bytes_produced)?;
            bytes = bytes.get(done.bytes_consumed..)?;
            self.sum.push(output);
            self.inner.push(output);
            self.length += output.len() as u64;
            let is_drained = done.bytes_produced < self.output.len();
            if bytes.is_empty() && (is_drained || done.status == Status::StreamEnd) {
                return Some(());
            }
            if done.bytes_consumed == 0 && done.bytes_produced == 0 {
                return None;
            }
        }
    }
}

impl Xz {
    pub fn new(is_inner: bool) -> Self {
        let content = (!is_inner).then(|| Content {
            decoder: Lzma2Stream::new(0),
            sum: Sum::of(0),
            inner: Recogniser::inner(),
            length: 0,
            output: vec![0; OUTPUT],
        });
        Self {
            at: At::Header(Vec::new()),
            streams: 0,
            flags: [0; 2],
            block: Block::default(),
            length: 0,
            blocks: 0,
            blocks_length: 0,
            index_length: 0,
            content,
        }
    }

    fn read_header(&mut self, header: &[u8]) -> At {
        if !is_header(header) {
            return At::Damaged;
        }
        self.flags = [header[6], header[7]];
        (self.blocks, self.blocks_length) = (0, 0);
        At::Block(Vec::new())
    }

    fn read_block(&mut self, header: &[u8]) -> At {
        let Some(block) = block_of(header) else { return At::Damaged };
        if block.dictionary > LARGEST_DICTIONARY || block.has_filters {
            self.content = None;
        }
        if let Some(content) = &mut self.content {
            content.decoder = Lzma2Stream::new(u32::try_from(block.dictionary).unwrap_or(u32::MAX));
            content.sum = Sum::of(self.flags[1]);
        }
        (self.block, self.length) = (block, header.len() as u64);
        At::Chunk(Vec::new())
    }

    /// Processes the header of a chunk, or the byte which ends the chunks.
    fn read_chunk(&mut self, header: &[u8]) -> At {
        if !self.decompress(header) {
            return At::Damaged;
        }
        let number =
            |at: usize| header.get(at..at + 2).map_or(0, |bytes| u64::from(bytes[0]) << 8 | u64::from(bytes[1]));
        match header[0] {
            0 => self.end_of_chunks(),
            1 | 2 => At::Content(number(1) + 1),
            _ => At::Content(number(3) + 1),
        }
    }

    /// Decompresses bytes of the chunks, and returns whether they are intact.
    fn decompress(&mut self, bytes: &[u8]) -> bool {
        self.length += bytes.len() as u64;
        self.content.as_mut().is_none_or(|content| content.push(bytes).is_some())
    }

    fn end_of_chunks(&mut self) -> At {
        let is_length = |length: u64| self.length == length + self.block.header;
        if !self.block.compressed.is_none_or(is_length) {
            return At::Damaged;
        }
        let zeros = usize::try_from(self.length.wrapping_neg() & 3).unwrap_or_default();
        let sum = Sum::length(self.flags[1]);
        self.blocks += 1;
        self.blocks_length = self.blocks_length.wrapping_add(self.length + sum as u64);
        match zeros + sum {
            0 => At::Block(Vec::new()),
            length => At::Sum(Vec::new(), length),
        }
    }

    fn check(&mut self, bytes: &[u8]) -> At {
        let (zeros, sum) = bytes.split_at(bytes.len() - Sum::length(self.flags[1]));
        let is_sum = |content: &mut Content| std::mem::replace(&mut content.sum, Sum::of(0)).is(sum);
        let is_intact = zeros.iter().all(|byte| *byte == 0) && self.content.as_mut().is_none_or(is_sum);
        if is_intact { At::Block(Vec::new()) } else { At::Damaged }
    }

    fn read_index(&mut self, mut index: Index, bytes: &mut &[u8]) -> At {
        match index.push(bytes) {
            Some(false) => At::Index(index),
            Some(true) if index.is_of(self.blocks, self.blocks_length) => {
                self.index_length = index.length() + 4;
                At::IndexSum(Vec::new(), index.sum())
            }
            Some(true) | None => At::Damaged,
        }
    }

    fn read_footer(&mut self, footer: &[u8]) -> At {
        if !is_footer(footer, self.flags, self.index_length) {
            return At::Damaged;
        }
        self.streams += 1;
        At::Between(Vec::new())
    }
}

/// The length of the header of a chunk which begins with this byte; `None` if it is invalid.
fn chunk_header_length(control: u8) -> Option<usize> {
    match control {
        0 => Some(1),
        1 | 2 => Some(3),
        3..0x80 => None,
        0x80..0xc0 => Some(5),
        // The properties of the compression follow.
        _ => Some(6),
    }
}

impl Format for Xz {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::After);
            self.at = match at {
                At::Header(held) => match fill(held, HEADER, &mut bytes) {
                    Ok(held) => self.read_header(&held),
                    Err(held) => At::Header(held),
                },
                At::Block(held) => match held.first() {
                    None if bytes[0] == 0 => At::Index(Index::default()),
                    None => At::Block(fill(held, 1, &mut bytes).unwrap_or_default()),
                    Some(size) => {
                        let length = (usize::from(*size) + 1) * 4;
                        match fill(held, length, &mut bytes) {
                            Ok(held) => self.read_block(&held),
                            Err(held) => At::Block(held),
                        }
                    }
                },
                At::Chunk(held) => match held.first().or(bytes.first()).map(|control| chunk_header_length(*control)) {
                    Some(Some(length)) => match fill(held, length, &mut bytes) {
                        Ok(held) => self.read_chunk(&held),
                        Err(held) => At::Chunk(held),
                    },
                    _ => At::Damaged,
                },
                At::Content(mut left) => {
                    let taken = take(&mut left, &mut bytes);
                    match (self.decompress(taken), left) {
                        (false, _) => At::Damaged,
                        (true, 0) => At::Chunk(Vec::new()),
                        (true, left) => At::Content(left),
                    }
                }
                At::Sum(held, length) => match fill(held, length, &mut bytes) {
                    Ok(held) => self.check(&held),
                    Err(held) => At::Sum(held, length),
                },
                At::Index(index) => self.read_index(index, &mut bytes),
                At::IndexSum(held, sum) => match fill(held, 4, &mut bytes) {
                    Ok(held) if little_endian(&held) == u64::from(sum) => At::Footer(Vec::new()),
                    Ok(_) => At::Damaged,
                    Err(held) => At::IndexSum(held, sum),
                },
                At::Footer(held) => match fill(held, FOOTER, &mut bytes) {
                    Ok(held) => self.read_footer(&held),
                    Err(held) => At::Footer(held),
                },
                At::Between(held) => {
                    if held.is_empty() {
                        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                        bytes = &bytes[zeros..];
                    }
                    match fill(held, MAGIC.len(), &mut bytes) {
                        Ok(held) | Err(held) if !agree(&held, &MAGIC) => return Some([&held, bytes].concat()),
                        Ok(held) => At::Header(held),
                        Err(held) => At::Between(held),
                    }
                }
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
            At::Between(held) if held.is_empty() => {
                within(NAME, self.content.map(|content| (content.inner, content.length)))
            }
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.streams == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.streams)),
        }
    }
}

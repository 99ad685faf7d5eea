//! The fields of a stream of xz, without their positions in the stream (the .xz file format 1.2, sections 2 to 4).

use flate2::Crc;
use sha2::{Digest, Sha256};

use super::{
    crc64::{Tables, crc64, tables},
    little_endian,
};

/// The polynomial of ECMA-182, reflected.
static CRC64: Tables = tables(0xc96c_5795_d787_0f42);
/// The number of bytes that the checksums have, by their numbers.
const SUM_LENGTHS: [usize; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];
const HAS_COMPRESSED_LENGTH: u8 = 0x40;
const HAS_LENGTH: u8 = 0x80;
const RESERVED: u8 = 0x3c;
const LZMA2: u64 = 0x21;

pub(super) fn crc(bytes: &[u8]) -> u64 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().into()
}

/// Whether this is the header of a stream, without its magic being compared.
pub(super) fn is_header(header: &[u8]) -> bool {
    header[6] == 0 && header[7] < 16 && little_endian(&header[8..12]) == crc(&header[6..8])
}

/// Whether this is the footer of a stream with these flags and an index of this length.
pub(super) fn is_footer(footer: &[u8], flags: [u8; 2], index: u64) -> bool {
    let is_length = (little_endian(&footer[4..8]) + 1) * 4 == index;
    is_length && footer[8..10] == flags && footer.ends_with(b"YZ") && little_endian(&footer[..4]) == crc(&footer[4..10])
}

/// The header of a block.
#[derive(Default)]
pub(super) struct Block {
    /// The length of the header.
    pub header: u64,
    /// The length of the chunks, if the header states it.
    pub compressed: Option<u64>,
    pub dictionary: u64,
    /// Whether the content was transformed before its compression.
    pub has_filters: bool,
}

/// The block of this header; `None` if the header is invalid.
pub(super) fn block_of(bytes: &[u8]) -> Option<Block> {
    let (header, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if little_endian(sum) != crc(header) {
        return None;
    }
    let flags = *header.get(1)?;
    let mut rest = &header[2..];
    let compressed = if flags & HAS_COMPRESSED_LENGTH == 0 { None } else { Some(number(&mut rest)?) };
    if flags & HAS_LENGTH != 0 {
        number(&mut rest)?;
    }
    let filters = flags & 3;
    for _ in 0..filters {
        number(&mut rest)?;
        let length = usize::try_from(number(&mut rest)?).ok()?;
        rest = rest.get(length..)?;
    }
    let is_last = number(&mut rest)? == LZMA2 && number(&mut rest)? == 1 && flags & RESERVED == 0;
    let bits = *rest.first().filter(|bits| is_last && **bits <= 40)?;
    let dictionary = (2 | u64::from(bits & 1)) << (bits / 2 + 11);
    Some(Block { header: bytes.len() as u64, compressed, dictionary, has_filters: filters > 0 })
}

/// Removes a number of variable length from the bytes.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The checksum of a block's content.
pub(super) enum Sum {
    Crc32(Crc),
    Crc64(u64),
    Sha256(Sha256),
    /// None, or a kind which no program writes.
    Unknown,
}

impl Sum {
    pub fn of(kind: u8) -> Self {
        match kind {
            1 => Self::Crc32(Crc::new()),
            4 => Self::Crc64(!0),
            10 => Self::Sha256(Sha256::new()),
            _ => Self::Unknown,
        }
    }

    pub fn length(kind: u8) -> usize {
        SUM_LENGTHS.get(usize::from(kind)).copied().unwrap_or_default()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(crc) => crc.update(bytes),
            Self::Crc64(sum) => *sum = crc64(&CRC64, *sum, bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Unknown => {}
        }
    }

    pub fn is(self, sum: &[u8]) -> bool {
        match self {
            Self::Crc32(crc) => u64::from(crc.sum()) == little_endian(sum),
            Self::Crc64(crc) => !crc == little_endian(sum),
            Self::Sha256(hash) => hash.finalize()[..] == *sum,
            Self::Unknown => true,
        }
    }
}

/// The index of the blocks, of which some bytes have arrived.
#[derive(Default)]
pub(super) struct Index {
    crc: Crc,
    length: u64,
    /// The number of which some bytes have arrived, and the bits of these bytes.
    number: u64,
    bits: u32,
    /// The number of blocks, and how many numbers follow. Two numbers describe a block.
    blocks: Option<u64>,
    left: u64,
    blocks_length: u64,
}

impl Index {
    /// Processes bytes of the index up to its checksum, and returns whether it is complete; `None` if it is invalid.
    pub fn push(&mut self, bytes: &mut &[u8]) -> Option<bool> {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.blocks.is_some() && self.left == 0 && self.length.is_multiple_of(4) {
                break;
            }
            self.crc.update(&[*byte]);
            self.length += 1;
            *bytes = rest;
            if self.length > 1 {
                self.read(*byte)?;
            }
        }
        Some(self.blocks.is_some() && self.left == 0 && self.length.is_multiple_of(4))
    }

    fn read(&mut self, byte: u8) -> Option<()> {
        if self.blocks.is_some() && self.left == 0 {
            return (byte == 0).then_some(());
        }
        self.number |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        if byte & 0x80 != 0 {
            return (self.bits < 63).then_some(());
        }
        let number = std::mem::take(&mut self.number);
        self.bits = 0;
        if self.blocks.is_none() {
            (self.blocks, self.left) = (Some(number), number.checked_mul(2)?);
            return Some(());
        }
        // The length of a block is followed by the length of its content.
        if self.left.is_multiple_of(2) {
            self.blocks_length = self.blocks_length.wrapping_add(number);
        }
        self.left -= 1;
        Some(())
    }

    /// Whether the index describes so many blocks of these lengths in total.
    pub fn is_of(&self, blocks: u64, length: u64) -> bool {
        self.blocks == Some(blocks) && self.blocks_length == length
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn sum(&self) -> u32 {
        self.crc.sum()
    }
}

//! gzip (RFC 1952): each member ends with the checksum and the length of its content.
//!
//! Members may be concatenated, and other bytes may follow the last member. `gzip` ignores such bytes, too.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::{Format, Recognised, Recogniser, agree, fill, little_endian, missing, take, within};

const NAME: &str = "gzip";
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const FIXED: usize = 10;
const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const FILE_NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
const OUTPUT: usize = 64 * 1024;

/// Whether these are the first bytes of a member.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(3).is_none_or(|flags| flags & RESERVED == 0)
}

enum At {
    /// The fixed part of a header, of which these bytes have arrived.
    Fixed(Vec<u8>),
    ExtraLength(Vec<u8>, u8),
    Skip(u64, u8),
    /// A text which ends with a zero byte.
    Text(u8),
    Body,
    Trailer(Vec<u8>),
    /// After a member.
    Between(Vec<u8>),
    /// After the last member, in other bytes.
    After,
    Damaged,
}

/// A stream of gzip.
pub(super) struct Gzip {
    at: At,
    inflate: Decompress,
    crc: Crc,
    members: u64,
    /// The length of the decompressed content.
    length: u64,
    inner: Option<Recogniser>,
    output: Vec<u8>,
}

impl Gzip {
    pub fn new(is_inner: bool) -> Self {
        Self {
            at: At::Fixed(Vec::new()),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            members: 0,
            length: 0,
            inner: (!is_inner).then(Recogniser::inner),
            output: vec![0; OUTPUT],
        }
    }

    /// The next part of a header whose parts with these flags have not arrived yet.
    fn header(flags: u8) -> At {
        if flags & EXTRA != 0 {
            At::ExtraLength(Vec::new(), flags & !EXTRA)
        } else if flags & FILE_NAME != 0 {
            At::Text(flags & !FILE_NAME)
        } else if flags & COMMENT != 0 {
            At::Text(flags & !COMMENT)
        } else if flags & HEADER_CRC != 0 {
            At::Skip(2, flags & !HEADER_CRC)
        } else {
            At::Body
        }
    }

    fn inflate(&mut self, bytes: &mut &[u8]) -> At {
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(bytes, &mut self.output, FlushDecompress::None);
            // Neither number exceeds the length of its buffer.
            let consumed = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(bytes.len());
            let length = usize::try_from(self.inflate.total_out() - before_out).unwrap_or_default();
            *bytes = bytes.get(consumed..).unwrap_or_default();
            let output = &self.output[..length.min(self.output.len())];
            self.crc.update(output);
            self.length += output.len() as u64;
            if let Some(inner) = &mut self.inner {
                inner.push(output);
            }
            match status {
                Err(_) => return At::Damaged,
                Ok(Status::StreamEnd) => return At::Trailer(Vec::new()),
                Ok(_) if bytes.is_empty() && length < self.output.len() => return At::Body,
                Ok(_) if consumed == 0 && length == 0 => return At::Damaged,
                Ok(_) => {}
            }
        }
    }

    fn check(&mut self, trailer: &[u8]) -> At {
        let (sum, length) = (u64::from(self.crc.sum()), u64::from(self.crc.amount()));
        if little_endian(&trailer[..4]) != sum || little_endian(&trailer[4..]) != length {
            return At::Damaged;
        }
        self.members += 1;
        self.inflate.reset(false);
        self.crc.reset();
        At::Between(Vec::new())
    }
}

impl Format for Gzip {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::After);
            self.at = match at {
                At::Fixed(held) => match fill(held, FIXED, &mut bytes) {
                    Err(held) => At::Fixed(held),
                    Ok(held) if is_begun(&held) => Self::header(held[3]),
                    Ok(held) => return Some([&held, bytes].concat()),
                },
                At::ExtraLength(held, flags) => match fill(held, 2, &mut bytes) {
                    Err(held) => At::ExtraLength(held, flags),
                    Ok(held) => At::Skip(little_endian(&held), flags),
                },
                At::Skip(mut left, flags) => {
                    take(&mut left, &mut bytes);
                    if left == 0 { Self::header(flags) } else { At::Skip(left, flags) }
                }
                At::Text(flags) => match bytes.iter().position(|byte| *byte == 0) {
                    Some(end) => {
                        bytes = &bytes[end + 1..];
                        Self::header(flags)
                    }
                    None => {
                        bytes = &[];
                        At::Text(flags)
                    }
                },
                At::Body => self.inflate(&mut bytes),
                At::Trailer(held) => match fill(held, 8, &mut bytes) {
                    Err(held) => At::Trailer(held),
                    Ok(held) => self.check(&held),
                },
                At::Between(held) => match fill(held, MAGIC.len(), &mut bytes) {
                    Ok(held) | Err(held) if !agree(&held, &MAGIC) => return Some([&held, bytes].concat()),
                    Err(held) => At::Between(held),
                    Ok(held) => At::Fixed(held),
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
            At::Between(held) if held.is_empty() => within(NAME, self.inner.map(|inner| (inner, self.length))),
            At::After => within(NAME, self.inner.map(|inner| (inner, self.length))),
            At::Damaged => missing(NAME, "its compressed data is damaged"),
            _ if self.members == 0 => missing(NAME, "its compressed data ends too early"),
            _ => missing(NAME, format!("the compressed data after its part {} ends too early", self.members)),
        }
    }
}

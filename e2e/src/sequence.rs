//! A second implementation of the byte sequences that the test program `emit` writes (`e2e/images/emit`), so that an
//! error in one implementation shows as a difference.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

/// A kind of sequence, as `emit --kind` names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The 64-bit outputs of xorshift64*, in little-endian order.
    Random,
    /// SQL-like lines of 64 bytes with a counter.
    Text,
    /// All byte values in ascending order, repeated.
    Every,
    /// Zeros.
    Zero,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Random => "random",
            Self::Text => "text",
            Self::Every => "every",
            Self::Zero => "zero",
        })
    }
}

/// The output of one call of `emit`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sequence {
    /// The kind of the sequence.
    pub kind: Kind,
    /// The start of the pseudo-random numbers of `Random`, or of the counter of `Text`.
    pub seed: u64,
    /// The length.
    pub bytes: u64,
}

impl Sequence {
    /// The first `bytes` bytes of the sequence.
    pub const fn new(kind: Kind, seed: u64, bytes: u64) -> Self {
        Self { kind, seed, bytes }
    }

    /// The command that writes the sequence; the caller may append options.
    pub fn command(&self) -> String {
        format!("emit --kind {} --seed {} --bytes {}", self.kind, self.seed, self.bytes)
    }

    /// The SHA-256 of the sequence in hex, as Stowaway reports it.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        self.for_each_block(|block| digest.update(block));
        hex(&digest.finalize())
    }

    /// The whole sequence in memory; for short sequences only.
    pub fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        self.for_each_block(|block| content.extend_from_slice(block));
        content
    }

    fn for_each_block(&self, mut take: impl FnMut(&[u8])) {
        let mut state = if self.seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { self.seed };
        let mut line = self.seed;
        let mut block = Vec::with_capacity(BLOCK);
        let mut left = self.bytes;
        while left > 0 {
            block.clear();
            while block.len() < BLOCK {
                match self.kind {
                    Kind::Random => {
                        state ^= state >> 12;
                        state ^= state << 25;
                        state ^= state >> 27;
                        block.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
                    }
                    Kind::Text => {
                        block.extend(format!("INSERT INTO stowage VALUES ({line:020}, 'starboard');\n").into_bytes());
                        line += 1;
                    }
                    Kind::Every => block.extend(0..=255_u8),
                    Kind::Zero => block.resize(BLOCK, 0),
                }
            }
            let length = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            take(&block[..length]);
            left -= length as u64;
        }
    }
}

/// The size of a generated block, a multiple of the unit of each kind (8, 64, 256 and 1 bytes).
const BLOCK: usize = 64 * 1024;

/// The SHA-256 of these bytes in hex, as Stowaway reports it.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// These bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _written = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_those_of_emit() {
        let content = |kind, bytes| Sequence::new(kind, 1, bytes).content();
        assert_eq!(content(Kind::Every, 258)[254..], [254, 255, 0, 1]);
        assert_eq!(content(Kind::Zero, 3), [0, 0, 0]);
        assert!(
            content(Kind::Text, 65).starts_with(b"INSERT INTO stowage VALUES (00000000000000000001, 'starboard');\n")
        );
        // The first output of xorshift64* for the seed 1, as its author publishes it: 0x47E4CE4B896CDD1D.
        assert_eq!(content(Kind::Random, 8), 0x47e4_ce4b_896c_dd1d_u64.to_le_bytes());
    }

    #[test]
    fn a_long_sequence_begins_like_a_short_one() {
        let long = Sequence::new(Kind::Random, 7, 200_001).content();
        assert_eq!(long.len(), 200_001);
        assert_eq!(long[..1000], Sequence::new(Kind::Random, 7, 1000).content());
    }
}

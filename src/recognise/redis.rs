//! Redis RDB: since version 5 the last nine bytes are the mark of the end and a CRC-64, which is zero when it is turned off.

use memchr::memmem;

use super::{Format, Recognised, held::Held, little_endian, missing, unknown, whole};

const NAME: &str = "Redis RDB file";
const MAGIC: &[u8; 5] = b"REDIS";
const END: u8 = 0xff;
/// The polynomial of Jones, reflected.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// Whether these are the first bytes of a file: the magic and four digits.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.get(..9).is_some_and(|head| head.starts_with(MAGIC) && head[5..].iter().all(u8::is_ascii_digit))
}

/// Text may follow a file.
const TAIL: usize = 4096;

/// A file. One that follows another has the same check sum, because that over a file with its own is zero.
pub(super) struct Redis {
    tail: Held<TAIL>,
    /// Over what is before the tail.
    sum: u64,
    /// Commands follow a file that is the beginning of an append-only file, and before version 5 there is no check sum.
    is_of_unknown_end: bool,
}

impl Redis {
    pub fn new(head: &[u8]) -> Self {
        // What follows the name is a number of one byte.
        let is_base = [&b"\x0caof-preamble\xc0\x01"[..], b"\x08aof-base\xc0\x01"]
            .iter()
            .any(|mark| memmem::find(head, mark).is_some());
        let is_old = head.get(5..9).is_some_and(|version| version < &b"0005"[..]);
        Self { tail: Held::default(), sum: 0, is_of_unknown_end: is_base || is_old }
    }
}

impl Format for Redis {
    fn push(&mut self, bytes: &[u8]) {
        let sum = &mut self.sum;
        self.tail.push(bytes, |bytes| *sum = crc(*sum, bytes));
    }

    fn finish(self: Box<Self>) -> Recognised {
        let mut sum = self.sum;
        let tail = self.tail.bytes();
        let is_end = |(at, byte): (usize, &u8)| {
            sum = crc(sum, &[*byte]);
            let Some(written) = tail.get(at + 1..at + 9).filter(|_| *byte == END) else { return false };
            let written = little_endian(written);
            // Without a check sum there are zeros, as there may be anywhere else.
            written == sum || written == 0 && at + 9 == tail.len()
        };
        if tail.iter().enumerate().any(is_end) {
            whole(NAME)
        } else if self.is_of_unknown_end {
            unknown(NAME)
        } else {
            missing(NAME, "its end (the byte 255 and a check sum) is missing")
        }
    }
}

/// How the check sum goes on after eight bytes of which only the one at this place is not zero.
const TABLES: [[u64; 256]; 8] = tables();

#[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a constant function has no better means")]
const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u64 = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

fn crc(mut sum: u64, bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let mixed = (sum ^ u64::from_le_bytes(*eight)).to_le_bytes();
        sum = mixed.iter().zip(TABLES.iter().rev()).fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
    }
    for byte in rest {
        let [low, ..] = sum.to_le_bytes();
        sum = sum >> 8 ^ TABLES[0][usize::from(low ^ byte)];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sum_is_that_of_redis() {
        // From `crc64.c` of Redis.
        assert_eq!(crc(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let text = b"This is a test of the emergency broadcast system.";
        assert_eq!(crc(crc(0, &text[..20]), &text[20..]), crc(0, text));
    }
}

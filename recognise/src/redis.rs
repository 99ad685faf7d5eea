//! Redis RDB: since version 5 of the format, the last nine bytes are an end marker and a CRC-64, which is zero if
//! checksums are disabled.

use memchr::memmem;

use super::{
    Format, Recognised,
    crc64::{Tables, crc64, tables},
    held::Held,
    little_endian, missing, unknown, whole,
};

const NAME: &str = "Redis RDB file";
const MAGIC: &[u8; 5] = b"REDIS";
const END: u8 = 0xff;
/// The polynomial of Jones, reflected.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

/// Whether these are the first bytes of a file: the magic and four digits.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.get(..9).is_some_and(|head| head.starts_with(MAGIC) && head[5..].iter().all(u8::is_ascii_digit))
}

/// The number of bytes of the end that are examined. Text may follow a file.
const TAIL: usize = 4096;

/// A file. A second file after it ends with the same checksum, because the checksum of a file including its own
/// checksum is zero.
pub(super) struct Redis {
    tail: Held<TAIL>,
    /// The checksum of all bytes before the tail.
    sum: u64,
    /// Whether the end is unknown: the base of an append-only file is followed by commands, and files before version 5
    /// have no checksum.
    is_of_unknown_end: bool,
}

impl Redis {
    pub fn new(head: &[u8]) -> Self {
        // The name is followed by a number of one byte.
        let is_base = [&b"\x0caof-preamble\xc0\x01"[..], b"\x08aof-base\xc0\x01"]
            .iter()
            .any(|mark| memmem::find(head, mark).is_some());
        let is_old = head.get(5..9).is_some_and(|version| version < &b"0005"[..]);
        Self { tail: Held::default(), sum: 0, is_of_unknown_end: is_base || is_old }
    }
}

impl Format for Redis {
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let sum = &mut self.sum;
        self.tail.push(bytes, |bytes| *sum = crc(*sum, bytes));
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        let mut sum = self.sum;
        let tail = self.tail.bytes();
        let is_end = |(at, byte): (usize, &u8)| {
            sum = crc(sum, &[*byte]);
            let Some(written) = tail.get(at + 1..at + 9).filter(|_| *byte == END) else { return false };
            let written = little_endian(written);
            // Without a checksum there are zeros, which can also be regular data elsewhere.
            written == sum || written == 0 && at + 9 == tail.len()
        };
        if tail.iter().enumerate().any(is_end) {
            whole(NAME)
        } else if self.is_of_unknown_end {
            unknown(NAME)
        } else {
            missing(NAME, "its end (the byte 255 and a checksum) is missing")
        }
    }
}

static TABLES: Tables = tables(POLYNOMIAL);

fn crc(sum: u64, bytes: &[u8]) -> u64 {
    crc64(&TABLES, sum, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_redis() {
        // From `crc64.c` of Redis.
        assert_eq!(crc(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        let text = b"This is a test of the emergency broadcast system.";
        assert_eq!(crc(crc(0, &text[..20]), &text[20..]), crc(0, text));
    }
}

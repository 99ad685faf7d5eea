//! Recognises the format of a dump while it streams, and whether the stream contains the end of that format.
//!
//! A command which exits with 0 may have written half a dump, for example because a program in a script failed
//! unnoticed. A format is judged only if its beginning is unmistakable; any other stream passes without a verdict.
//! Comments, warnings and short statements may precede a dump of SQL text. The content of compressed streams is judged
//! too, one level deep. Several dumps may follow each other in one stream, and each of them is judged. Memory is bounded
//! whatever the stream contains.

mod bbolt;
mod bzip2;
mod crc64;
mod gzip;
mod held;
mod lz4;
mod mongodump;
mod pg_custom;
mod preamble;
mod quotes;
mod redis;
mod sqlite;
mod tar;
mod text;
mod xz;
mod xz_fields;
mod zip;
mod zstd;

#[cfg(test)]
mod tests;

use preamble::{Preamble, Reading};

/// The number of bytes that determine the format. The longest beginning is a block of tar.
const HEAD: usize = 512;

/// The state of the end of a stream of a known format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FormatEnd {
    /// The end of the format was there.
    Whole,
    /// The end was there, and the compressed content is empty: a command before `gzip` in a pipe has failed, or wrote
    /// nothing.
    Empty,
    /// The end was not there. Describes what is missing or wrong, as the end of a sentence.
    Missing(String),
    /// The format has no recognisable end, or uses a feature which this module does not know.
    Unknown,
}

/// A recognised format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recognised {
    /// For example `PostgreSQL dump in gzip`.
    pub format: String,
    /// The state of its end.
    pub end: FormatEnd,
}

/// The parser of a format whose beginning was found.
trait Format: Send {
    /// Processes the next bytes, in chunks of any size. The first chunk is the beginning itself. Returns the first
    /// bytes after the end of the format, and is not called again.
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>>;

    /// The verdict after the last byte.
    fn finish(self: Box<Self>) -> Recognised;
}

/// Recognises the format of one stream.
#[derive(Default)]
pub struct Recogniser {
    head: Vec<u8>,
    is_decided: bool,
    is_inner: bool,
    format: Option<Box<dyn Format>>,
    /// The text before a dump, as long as a dump may follow.
    preamble: Option<Preamble>,
    /// The verdict on the formats before this one.
    before: Option<Recognised>,
}

impl Recogniser {
    /// Creates a recogniser for the content of a compressed stream. It does not look into a further compressed stream.
    fn inner() -> Self {
        Self { is_inner: true, ..Self::default() }
    }

    /// Processes the next bytes, in chunks of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = self.push_to_format(bytes);
        while let Some(bytes) = rest {
            self.end_format();
            rest = self.push_to_format(&bytes);
        }
    }

    /// The format of the stream; `None` if it is unknown.
    pub fn finish(mut self) -> Option<Recognised> {
        while !self.is_decided {
            if let Some(rest) = self.decide() {
                self.end_format();
                self.push(&rest);
            }
        }
        // A dump of SQL text has no end after which another format could begin.
        self.read_preamble(&[], true);
        self.end_format();
        self.before
    }

    /// Returns the bytes after the end of the format.
    fn push_to_format(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.is_decided {
            append(&mut self.head, HEAD, &mut bytes);
            if self.head.len() < HEAD {
                return None;
            }
            if let Some(rest) = self.decide() {
                return Some([&rest, bytes].concat());
            }
        }
        if self.preamble.is_some() {
            return self.read_preamble(bytes, false);
        }
        self.format.as_mut().filter(|_| !bytes.is_empty())?.push(bytes)
    }

    /// Does the same with the bytes which determine the format.
    fn decide(&mut self) -> Option<Vec<u8>> {
        self.is_decided = true;
        let head = std::mem::take(&mut self.head);
        self.format = format_of(&head, self.is_inner);
        match &mut self.format {
            Some(format) => format.push(&head),
            None => {
                self.preamble = Some(Preamble::default());
                self.read_preamble(&head, false)
            }
        }
    }

    /// Does the same with bytes which may precede a dump. Returns the bytes after the end of the dump.
    fn read_preamble(&mut self, bytes: &[u8], is_end: bool) -> Option<Vec<u8>> {
        match self.preamble.as_mut()?.push(bytes, is_end) {
            Reading::Continues => None,
            Reading::Unknown => {
                self.preamble = None;
                None
            }
            Reading::Dump(text, rest) => {
                self.preamble = None;
                self.format.insert(text).push(&rest)
            }
        }
    }

    /// Judges the format which has ended. The next bytes determine another format.
    fn end_format(&mut self) {
        self.is_decided = false;
        let Some(ended) = self.format.take().map(Format::finish) else { return };
        self.before = Some(match self.before.take() {
            None => ended,
            Some(before) => join(before, ended),
        });
    }
}

/// The verdict on two formats, of which one follows the other.
fn join(before: Recognised, after: Recognised) -> Recognised {
    match (&before.end, &after.end) {
        (FormatEnd::Missing(_), _) => before,
        (_, FormatEnd::Missing(_)) => {
            Recognised { format: format!("{} after {}", after.format, before.format), end: after.end }
        }
        (FormatEnd::Empty, _) => after,
        _ => before,
    }
}

fn format_of(head: &[u8], is_inner: bool) -> Option<Box<dyn Format>> {
    Some(match head {
        _ if gzip::is_begun(head) => Box::new(gzip::Gzip::new(is_inner)),
        _ if zstd::is_begun(head) => Box::new(zstd::Zstd::new(is_inner)),
        _ if xz::is_begun(head) => Box::new(xz::Xz::new(is_inner)),
        _ if bzip2::is_begun(head) => Box::new(bzip2::Bzip2::new(is_inner)),
        _ if lz4::is_begun(head) => Box::new(lz4::Lz4::new(is_inner)),
        _ if zip::is_begun(head) => Box::new(zip::Zip::default()),
        _ if tar::is_begun(head) => Box::new(tar::Tar::default()),
        _ if pg_custom::is_begun(head) => Box::new(pg_custom::PgCustom::default()),
        _ if mongodump::is_begun(head) => Box::new(mongodump::Mongodump::default()),
        _ if redis::is_begun(head) => Box::new(redis::Redis::new(head)),
        _ if sqlite::is_begun(head) => Box::new(sqlite::Sqlite::default()),
        _ if bbolt::is_begun(head) => Box::new(bbolt::Bbolt::default()),
        _ => Box::new(text::Text::of(head)?),
    })
}

/// The verdict on a compressed stream which is complete itself: the verdict on its content. The number in `inner` is
/// the length of the decompressed content.
fn within(compression: &str, inner: Option<(Recogniser, u64)>) -> Recognised {
    let end = if matches!(inner, Some((_, 0))) { FormatEnd::Empty } else { FormatEnd::Whole };
    match inner.and_then(|(inner, _)| inner.finish()) {
        Some(inner) => Recognised { format: format!("{} in {compression}", inner.format), end: inner.end },
        None => Recognised { format: compression.to_owned(), end },
    }
}

fn missing(format: &str, what: impl Into<String>) -> Recognised {
    Recognised { format: format.to_owned(), end: FormatEnd::Missing(what.into()) }
}

fn whole(format: &str) -> Recognised {
    Recognised { format: format.to_owned(), end: FormatEnd::Whole }
}

fn unknown(format: &str) -> Recognised {
    Recognised { format: format.to_owned(), end: FormatEnd::Unknown }
}

/// Moves bytes from `bytes` to `into` until `into` has `length` bytes.
fn append(into: &mut Vec<u8>, length: usize, bytes: &mut &[u8]) {
    let (taken, rest) = bytes.split_at(bytes.len().min(length.saturating_sub(into.len())));
    into.extend_from_slice(taken);
    *bytes = rest;
}

/// Does the same by value: returns the bytes if there are `length`, and else the bytes so far as an error.
fn fill(mut held: Vec<u8>, length: usize, bytes: &mut &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    append(&mut held, length, bytes);
    if held.len() >= length { Ok(held) } else { Err(held) }
}

/// Removes at most `left` bytes from `bytes`, subtracts them from `left`, and returns them.
fn take<'a>(left: &mut u64, bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    let (taken, rest) = bytes.split_at(length);
    *left -= length as u64;
    *bytes = rest;
    taken
}

/// Whether one of the two is a prefix of the other.
fn agree(bytes: &[u8], magic: &[u8]) -> bool {
    bytes.iter().zip(magic).all(|(one, other)| one == other)
}

/// The little-endian number in at most eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

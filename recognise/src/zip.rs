//! zip (APPNOTE.TXT 6.3): the members are followed by a central directory, and the central directory by a record which
//! states where the central directory is.
//!
//! A writer writes that record last, so that an archive with the record is complete.

use memchr::memmem;

use super::{Format, Recognised, agree, little_endian, missing, take, whole};

const NAME: &str = "zip archive";
/// The signature of a member.
const MAGIC: [u8; 4] = *b"PK\x03\x04";
/// The longest part of a member's header which has a fixed length.
const HEADER: usize = 30;
const END: &[u8; 4] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
/// The record of large numbers, which may be longer, and its locator. They precede the end.
const LARGE: &[u8; 4] = b"PK\x06\x06";
const LARGE_LENGTH: usize = 56;
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LENGTH: usize = 20;
/// The number of bytes before an end that are searched for that record.
const BEFORE: usize = 4096;
/// The highest version of the format, and the highest number of a compression.
const HIGHEST_VERSION: u8 = 63;
const HIGHEST_METHOD: u64 = 99;

/// Whether these are the first bytes of an archive with a member.
pub(super) fn is_begun(head: &[u8]) -> bool {
    let is_member = |header: &[u8]| {
        header[4] <= HIGHEST_VERSION
            && little_endian(&header[8..10]) <= HIGHEST_METHOD
            && little_endian(&header[26..28]) > 0
    };
    head.len() >= MAGIC.len() && agree(head, &MAGIC) && head.get(..HEADER).is_none_or(is_member)
}

/// An archive.
#[derive(Default)]
pub(super) struct Zip {
    /// Bytes which may contain the end, after `BEFORE` bytes which precede these bytes.
    held: Vec<u8>,
    /// The index in `held` of the first byte at which no end was searched.
    at: usize,
    /// The number of bytes that precede `held`.
    start: u64,
    /// The number of bytes of the comment after the end that have not arrived yet.
    comment: Option<u64>,
}

impl Zip {
    /// The index after the end, and the length of the comment.
    fn find_end(&mut self) -> Option<(usize, u64)> {
        while let Some(found) = memmem::find(&self.held[self.at..], END) {
            let at = self.at + found;
            self.at = at;
            let end = self.held.get(at..at + END_LENGTH)?;
            if is_end(&self.held[at.saturating_sub(BEFORE)..at], end, self.start + at as u64) {
                return Some((at + END_LENGTH, little_endian(&end[20..22])));
            }
            self.at += 1;
        }
        self.at = self.at.max(self.held.len().saturating_sub(END.len() - 1));
        None
    }
}

/// Whether this record, which follows the bytes `before`, states a central directory that ends directly before the
/// record. Any other record is content, or belongs to an archive which is a member.
fn is_end(before: &[u8], end: &[u8], at: u64) -> bool {
    let (size, offset) = (little_endian(&end[12..16]), little_endian(&end[16..20]));
    // Some writers omit the upper bits of large numbers.
    let is_at = |at: u64| at & 0xffff_ffff == (size + offset) & 0xffff_ffff;
    let locator = before.len().checked_sub(LOCATOR_LENGTH).map(|at| &before[at..]);
    let Some(locator) = locator.filter(|locator| locator.starts_with(LOCATOR)) else { return is_at(at) };
    let large_at = little_endian(&locator[8..16]);
    let length = usize::try_from(at.saturating_sub(large_at)).unwrap_or(usize::MAX);
    let large = before.len().checked_sub(length).and_then(|at| before.get(at..at + LARGE_LENGTH));
    large.is_some_and(|large| {
        let directory_end = little_endian(&large[40..48]).wrapping_add(little_endian(&large[48..56]));
        large.starts_with(LARGE) && directory_end == large_at
    })
}

impl Format for Zip {
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let rest;
        let mut bytes = bytes;
        if self.comment.is_none() {
            self.held.extend_from_slice(bytes);
            match self.find_end() {
                Some((end, comment)) => {
                    rest = self.held.split_off(end);
                    (self.comment, bytes) = (Some(comment), &rest);
                }
                None => {
                    let passed = self.at.saturating_sub(BEFORE);
                    self.held.drain(..passed);
                    (self.at, self.start) = (self.at - passed, self.start + passed as u64);
                }
            }
        }
        take(self.comment.as_mut()?, &mut bytes);
        (!bytes.is_empty()).then(|| bytes.to_vec())
    }

    fn finish(self: Box<Self>) -> Recognised {
        match self.comment {
            Some(0) => whole(NAME),
            Some(_) => missing(NAME, "the comment at its end is truncated"),
            None => missing(NAME, "its central directory at the end is missing"),
        }
    }
}

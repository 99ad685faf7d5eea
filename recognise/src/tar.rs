//! tar (POSIX ustar and pax, GNU tar): members are blocks of 512 bytes, and empty blocks end the archive.
//!
//! Archives may be concatenated, and zeros fill the last record of each of them.

use super::{Format, Recognised, fill, missing, take, unknown, whole};

const NAME: &str = "tar archive";
const BLOCK: usize = 512;
const MAGIC: std::ops::Range<usize> = 257..262;
/// The longest pax header which is searched for a size.
const MAX_PAX: u64 = 64 * 1024;

/// Whether this is the first header of an archive.
pub(super) fn is_begun(head: &[u8]) -> bool {
    head.get(MAGIC).is_some_and(|magic| magic == b"ustar") && (head.len() < BLOCK || has_valid_checksum(&head[..BLOCK]))
}

enum At {
    /// A header, of which these bytes have arrived.
    Header(Vec<u8>),
    /// A member's content, of which so many bytes have not arrived yet.
    Content(u64),
    /// A pax header: the bytes which have arrived, its size, and the missing bytes including the padding.
    Pax(Vec<u8>, u64, u64),
    /// A further header of a sparse file of GNU tar, whose content has so many bytes.
    Sparse(Vec<u8>, u64),
    Ended,
    /// Bytes which are not a header where a header is expected.
    Lost,
}

/// An archive.
pub(super) struct Tar {
    at: At,
    members: u64,
    has_empty_block: bool,
    /// The size in the pax header which applies to the next member.
    size: Option<u64>,
}

impl Default for Tar {
    fn default() -> Self {
        Self { at: At::Header(Vec::new()), members: 0, has_empty_block: false, size: None }
    }
}

impl Tar {
    fn read_header(&mut self, header: &[u8]) -> At {
        if header.iter().all(|byte| *byte == 0) {
            let is_second = std::mem::replace(&mut self.has_empty_block, true);
            return if is_second { At::Ended } else { At::Header(Vec::new()) };
        }
        self.has_empty_block = false;
        let Some(size) = number(&header[124..136]).filter(|_| has_valid_checksum(header)) else { return At::Lost };
        match header[156] {
            b'x' if size <= MAX_PAX => return At::Pax(Vec::new(), size, padded(size)),
            // These headers apply to the next member, or to all members.
            b'x' | b'g' | b'L' | b'K' => return content(padded(size)),
            _ => {}
        }
        self.members += 1;
        let size = self.size.take().unwrap_or(size);
        match header[156] {
            // Links, devices, folders and pipes have no content, whatever their size field states.
            b'1'..=b'6' => At::Header(Vec::new()),
            b'S' if header[482] != 0 => At::Sparse(Vec::new(), padded(size)),
            _ => content(padded(size)),
        }
    }
}

fn content(padded: u64) -> At {
    if padded == 0 { At::Header(Vec::new()) } else { At::Content(padded) }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

/// A number in octal digits, or in GNU tar's binary form for large numbers.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // The last eight of the twelve bytes suffice for any size.
        let is_small = field[0] == 0x80 && field[1..4].iter().all(|byte| *byte == 0);
        return is_small.then(|| field[4..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn has_valid_checksum(header: &[u8]) -> bool {
    let sum = |value: fn(u8) -> i64| -> i64 {
        let is_checksum = |at: usize| (148..156).contains(&at);
        header.iter().enumerate().map(|(at, byte)| value(if is_checksum(at) { b' ' } else { *byte })).sum()
    };
    let written = number(&header[148..156]).and_then(|sum| i64::try_from(sum).ok());
    // Some old programs sum signed bytes.
    written == Some(sum(i64::from)) || written == Some(sum(|byte| byte.cast_signed().into()))
}

/// The record `size` of a pax header, whose records are `LENGTH KEY=VALUE` and a newline.
fn pax_size(mut records: &[u8]) -> Option<u64> {
    let mut size = None;
    while let Some(blank) = records.iter().position(|byte| *byte == b' ') {
        let length: usize = str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
        let record = records.get(blank + 1..length)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = str::from_utf8(value).ok()?.trim_end().parse().ok();
        }
        records = &records[length..];
    }
    size
}

impl Format for Tar {
    fn push(&mut self, mut bytes: &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let at = std::mem::replace(&mut self.at, At::Lost);
            self.at = match at {
                At::Header(held) => match fill(held, BLOCK, &mut bytes) {
                    Err(held) => At::Header(held),
                    Ok(held) => self.read_header(&held),
                },
                At::Content(mut left) => {
                    take(&mut left, &mut bytes);
                    content(left)
                }
                At::Pax(mut held, size, mut left) => {
                    let taken = take(&mut left, &mut bytes);
                    held.extend_from_slice(taken);
                    if left == 0 {
                        held.truncate(usize::try_from(size).unwrap_or(usize::MAX));
                        self.size = pax_size(&held);
                        At::Header(Vec::new())
                    } else {
                        At::Pax(held, size, left)
                    }
                }
                At::Sparse(held, size) => match fill(held, BLOCK, &mut bytes) {
                    Ok(held) if held[504] == 0 => content(size),
                    Ok(_) => At::Sparse(Vec::new(), size),
                    Err(held) => At::Sparse(held, size),
                },
                At::Ended => {
                    self.at = At::Ended;
                    // No header begins with a zero.
                    return bytes.iter().position(|byte| *byte != 0).map(|at| bytes[at..].to_vec());
                }
                At::Lost => return None,
            };
        }
        None
    }

    fn finish(self: Box<Self>) -> Recognised {
        match &self.at {
            At::Ended => whole(NAME),
            // All members are there.
            At::Header(held) if held.is_empty() && self.has_empty_block => whole(NAME),
            At::Lost => unknown(NAME),
            At::Header(_) => missing(NAME, format!("the empty blocks after its member {} are missing", self.members)),
            _ => missing(NAME, format!("its member {} is truncated", self.members)),
        }
    }
}

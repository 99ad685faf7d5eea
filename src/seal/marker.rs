//! Finds the marker `got` of the restore form in the command's stderr, and removes it. The command writes to the same
//! pipe, so the marker may appear in the middle of a line.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Nonce;

/// Finds the first occurrence of one marker.
pub struct Marker {
    needle: Finder<'static>,
    held: BytesMut,
    seen: bool,
}

impl Marker {
    /// Creates a finder of the line which confirms that all bytes have arrived.
    pub fn got(nonce: &Nonce) -> Self {
        let needle = Finder::new(&format!("{} got\n", nonce.as_str())).into_owned();
        Self { needle, held: BytesMut::new(), seen: false }
    }

    /// Processes the next bytes, and returns the bytes which are not the marker. Bytes which may begin the marker are
    /// held back.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        self.held.extend_from_slice(chunk);
        let length = self.needle.needle().len();
        if !self.seen
            && let Some(position) = self.needle.find(&self.held)
        {
            self.seen = true;
            let mut others = self.held.split_to(position);
            others.extend_from_slice(&self.held[length..]);
            self.held.clear();
            return others.freeze();
        }
        let release = if self.seen { self.held.len() } else { self.held.len() - self.beginning() };
        self.held.split_to(release).freeze()
    }

    /// Whether the marker was found.
    pub fn is_seen(&self) -> bool {
        self.seen
    }

    /// The number of bytes at the end that may begin the marker.
    fn beginning(&self) -> usize {
        let needle = self.needle.needle();
        (1..needle.len()).rev().find(|length| self.held.ends_with(&needle[..*length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_found_within_a_line_however_it_is_split() {
        let nonce = Nonce::new(7);
        let text = format!("NOTICE: 00{} got\nhalf done\n", nonce.as_str());
        for length in 1..text.len() {
            let mut marker = Marker::got(&nonce);
            let others: Vec<u8> = text.as_bytes().chunks(length).flat_map(|chunk| marker.push(chunk)).collect();
            assert!(marker.is_seen());
            assert_eq!(String::from_utf8(others).unwrap(), "NOTICE: 00half done\n");
        }
    }

    #[test]
    fn other_lines_are_not_held_back() {
        let mut marker = Marker::got(&Nonce::new(7));
        assert_eq!(marker.push(b"a prompt without newline: "), Bytes::from("a prompt without newline: "));
        assert!(!marker.is_seen());
    }
}

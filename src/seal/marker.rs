//! Finds the word `got` of the restore form in the command's stderr, and takes it out.
//!
//! It must not know what else is in there: the command writes to the same pipe, so the word may stand in mid-line.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::Nonce;

/// Looks for one word, once.
pub struct Marker {
    word: Finder<'static>,
    held: BytesMut,
    seen: bool,
}

impl Marker {
    /// Looks for the line that says that all bytes are there.
    pub fn got(nonce: &Nonce) -> Self {
        let word = Finder::new(&format!("{} got\n", nonce.as_str())).into_owned();
        Self { word, held: BytesMut::new(), seen: false }
    }

    /// Takes the next bytes, and returns those that are not the word; some are held back while they may be.
    pub fn push(&mut self, chunk: &[u8]) -> Bytes {
        self.held.extend_from_slice(chunk);
        let length = self.word.needle().len();
        if !self.seen
            && let Some(position) = self.word.find(&self.held)
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

    /// Whether the word was there.
    pub fn is_seen(&self) -> bool {
        self.seen
    }

    /// How many bytes at the end may be the beginning of the word.
    fn beginning(&self) -> usize {
        let word = self.word.needle();
        (1..word.len()).rev().find(|length| self.held.ends_with(&word[..*length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_is_found_in_mid_line_however_it_is_cut() {
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

//! Content-defined chunking: a local change of the content changes only the chunks near it. Pure.
//!
//! The boundaries are those of restic, so that chunks which restic stored are deduplicated. A chunk has at least 512
//! KiB; it ends where the low 20 bits of the Rabin fingerprint of its last 64 bytes are zero, or at 8 MiB. Source:
//! restic's design document, section "Backups and Deduplication", and its library `chunker`, which starts each chunk
//! with an empty window.

use std::sync::Arc;

use rustic_cdc::{Polynom, Rabin64};

/// The minimum length of a chunk. Only the last chunk of a content may be shorter.
pub(super) const MIN_BYTES: usize = 512 << 10;
/// The maximum length of a chunk.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// The length of the window over which the fingerprint is computed.
const WINDOW_BYTES: usize = 64;
/// A chunk ends where these bits of the fingerprint are zero, which is once in 1 MiB on average.
const END_MASK: u64 = (1 << 20) - 1;
/// The degrees of polynomials that the arithmetic below supports; restic's polynomials have degree 53.
const DEGREES: std::ops::RangeInclusive<i32> = 21..=56;

/// The lookup tables of a polynomial. They are expensive to compute, and the same for all content of a repository.
#[derive(Debug)]
struct Tables {
    leaving: [u64; 256],
    entering: [u64; 256],
    shift: i32,
}

impl Tables {
    fn enter(&self, fingerprint: u64, byte: u8) -> u64 {
        let [overflow, ..] = (fingerprint >> self.shift).to_le_bytes();
        (fingerprint << 8 | u64::from(byte)) ^ self.entering[usize::from(overflow)]
    }

    fn slide(&self, fingerprint: u64, leaving: u8, entering: u8) -> u64 {
        self.enter(fingerprint ^ self.leaving[usize::from(leaving)], entering)
    }
}

/// Cuts contents into chunks, one content at a time. A clone is cheap, and starts with a new content.
#[derive(Debug)]
pub(super) struct Chunker {
    tables: Arc<Tables>,
    chunk: Vec<u8>,
    /// The fingerprint of the chunk's last bytes, after the chunk has reached the minimum length.
    fingerprint: u64,
}

impl Clone for Chunker {
    fn clone(&self) -> Self {
        Self { tables: Arc::clone(&self.tables), chunk: Vec::new(), fingerprint: 0 }
    }
}

impl Chunker {
    /// Creates a chunker with the polynomial of a repository's config. Returns none if the polynomial is invalid.
    pub fn new(polynomial: u64) -> Option<Self> {
        let degree = polynomial.degree();
        DEGREES.contains(&degree).then(|| Self {
            tables: Arc::new(Tables {
                leaving: Rabin64::calculate_out_table(WINDOW_BYTES, &polynomial),
                entering: Rabin64::calculate_mod_table(&polynomial),
                shift: degree - 8,
            }),
            chunk: Vec::new(),
            fingerprint: 0,
        })
    }

    /// Moves bytes from the front of `data` to the current chunk, and returns the chunk when it is complete.
    pub fn take(&mut self, data: &mut &[u8]) -> Option<Vec<u8>> {
        let before = self.chunk.len();
        let taken = data.len().min(MAX_BYTES - before);
        self.chunk.extend_from_slice(&data[..taken]);
        let Some(end) = self.end_after(before) else {
            *data = &data[taken..];
            return None;
        };
        *data = &data[end - before..];
        self.chunk.truncate(end);
        Some(std::mem::take(&mut self.chunk))
    }

    /// Provides the buffer for the next chunk, so that the buffer of a former chunk can be reused.
    pub fn fill(&mut self, mut buffer: Vec<u8>) {
        if self.chunk.is_empty() {
            buffer.clear();
            self.chunk = buffer;
        }
    }

    /// Returns the last chunk at the end of the content.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.chunk);
        (!rest.is_empty()).then_some(rest)
    }

    /// Finds the end of the current chunk. The first `seen` bytes were searched by earlier calls.
    fn end_after(&mut self, seen: usize) -> Option<usize> {
        let chunk = &self.chunk[..];
        if chunk.len() < MIN_BYTES {
            return None;
        }
        let (mut fingerprint, from) = if seen < MIN_BYTES {
            let window = &chunk[MIN_BYTES - WINDOW_BYTES..MIN_BYTES];
            let fingerprint = window.iter().fold(0, |fingerprint, byte| self.tables.enter(fingerprint, *byte));
            if fingerprint & END_MASK == 0 {
                return Some(MIN_BYTES);
            }
            (fingerprint, MIN_BYTES)
        } else {
            (self.fingerprint, seen)
        };
        let pairs = chunk[from - WINDOW_BYTES..].iter().zip(&chunk[from..]);
        for (offset, (leaving, entering)) in pairs.enumerate() {
            fingerprint = self.tables.slide(fingerprint, *leaving, *entering);
            if fingerprint & END_MASK == 0 {
                return Some(from + offset + 1);
            }
        }
        self.fingerprint = fingerprint;
        (chunk.len() == MAX_BYTES).then_some(MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    /// The polynomial of the tests of restic's library `chunker`.
    const POLYNOMIAL: u64 = 0x003D_A335_8B4D_C173;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut content = vec![0; length];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut content);
        content
    }

    fn chunks(content: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(POLYNOMIAL).unwrap();
        let mut chunks = Vec::new();
        for mut data in content.chunks(piece) {
            while !data.is_empty() {
                chunks.extend(chunker.take(&mut data));
            }
        }
        chunks.extend(chunker.rest());
        chunks
    }

    /// Computes the lengths directly from the definition.
    fn lengths_by_definition(content: &[u8]) -> Vec<usize> {
        let fingerprint = |window: &[u8]| {
            window.iter().fold(0_u64, |fingerprint, byte| (fingerprint << 8 | u64::from(*byte)).modulo(&POLYNOMIAL))
        };
        let (mut lengths, mut rest) = (Vec::new(), content);
        while !rest.is_empty() {
            let most = rest.len().min(MAX_BYTES);
            let is_end = |end: &usize| fingerprint(&rest[end - WINDOW_BYTES..*end]) & END_MASK == 0;
            let end = (MIN_BYTES..=most).find(is_end).unwrap_or(most);
            lengths.push(end);
            rest = &rest[end..];
        }
        lengths
    }

    #[test]
    fn chunks_end_as_defined() {
        let content = noise(3 << 20, 1);
        let lengths: Vec<usize> = chunks(&content, 100_000).iter().map(Vec::len).collect();
        assert!(lengths.len() > 1, "{lengths:?}");
        assert_eq!(lengths, lengths_by_definition(&content));
    }

    #[test]
    fn chunks_do_not_depend_on_how_the_content_is_split() {
        let content = noise(20 << 20, 2);
        let whole = chunks(&content, content.len());
        assert_eq!(whole.concat(), content);
        for piece in [1 << 16, 999_983, MIN_BYTES, MIN_BYTES - 1, MIN_BYTES + 1] {
            assert!(chunks(&content, piece) == whole, "{piece}");
        }
        assert!(chunks(&content[..MIN_BYTES + 10], 1) == chunks(&content[..MIN_BYTES + 10], MIN_BYTES));
    }

    #[test]
    fn lengths_are_within_their_bounds() {
        // With this polynomial a chunk of zeros ends at the minimum length, and a chunk of ones only at the maximum.
        for (byte, longest) in [(0, MIN_BYTES), (1, MAX_BYTES)] {
            let content = vec![byte; MAX_BYTES * 2 + 7];
            let chunks = chunks(&content, 1 << 20);
            let (last, others) = chunks.split_last().unwrap();
            assert!(others.iter().all(|chunk| chunk.len() == longest), "{byte}");
            assert_eq!(last.len(), 7);
        }
    }

    #[test]
    fn inserted_byte_changes_few_chunks() {
        let content = noise(20 << 20, 3);
        let mut changed = content.clone();
        changed.insert(10 << 20, 7);
        let (before, after) = (chunks(&content, 1 << 20), chunks(&changed, 1 << 20));
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 2, "{new} of {}", after.len());
    }

    #[test]
    fn polynomials_of_unsupported_degree_are_refused() {
        for polynomial in [0, 1, 0xff, 1 << 20, 1 << 57, u64::MAX] {
            assert!(Chunker::new(polynomial).is_none(), "{polynomial:x}");
        }
    }
}

//! Holds the last bytes of a stream back, since a check sum at the end is not part of what it is over.
//!
//! It must not know what is done with the rest.

/// The last `N` bytes.
pub(super) struct Held<const N: usize> {
    bytes: Vec<u8>,
}

impl<const N: usize> Default for Held<N> {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(2 * N) }
    }
}

impl<const N: usize> Held<N> {
    /// Takes the next bytes, and gives those that are not among the last any more.
    pub fn push(&mut self, bytes: &[u8], mut release: impl FnMut(&[u8])) {
        if bytes.len() >= N {
            let (released, last) = bytes.split_at(bytes.len() - N);
            release(&self.bytes);
            release(released);
            self.bytes.clear();
            self.bytes.extend_from_slice(last);
            return;
        }
        self.bytes.extend_from_slice(bytes);
        let length = self.bytes.len().saturating_sub(N);
        release(&self.bytes[..length]);
        self.bytes.drain(..length);
    }

    /// All of them; fewer where the stream is shorter.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

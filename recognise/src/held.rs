//! Holds the last bytes of a stream back, because a checksum at the end does not cover itself.

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
    /// Processes the next bytes, and passes those to `release` which are no longer among the last `N` bytes.
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

    /// The held bytes: `N`, or fewer if the stream is shorter.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

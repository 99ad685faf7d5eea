//! Counters of a running operation.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a running operation, which another thread may read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) read: AtomicU64,
    pub(super) uploaded: AtomicU64,
}

impl Progress {
    /// Bytes that were read from the source so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the store acknowledged so far.
    pub fn bytes_uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }
}

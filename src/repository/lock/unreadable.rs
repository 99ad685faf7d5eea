//! Lock files that cannot be read: a full disk, a reset of the store, or a client that died while it wrote one leaves them.
//!
//! The owner of such a file is unknown, and so is whether it is exclusive. So it counts as a lock, until it is too old to be one.
//! Pure.

use std::fmt;

use jiff::Timestamp;

use super::foreign::STALE;

/// A lock file whose content is none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableLock {
    /// Its path in the repository.
    pub path: String,
    /// How long it is.
    pub bytes: u64,
    /// When it was written, by the store's clock; none where the store does not answer that.
    pub modified: Option<Timestamp>,
}

impl UnreadableLock {
    /// Whether it is so old that its writer would have refreshed it: restic's rule for locks.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.modified.is_some_and(|modified| now.duration_since(modified) >= STALE)
    }

    /// Whether it keeps a client off. As restic does, one that reads and writes passes by a file without any content. One
    /// that removes does not, because that file may become a lock any moment.
    pub(super) fn is_in_the_way(&self, exclusive: bool, now: Timestamp) -> bool {
        !self.is_stale(now) && (exclusive || self.bytes > 0)
    }
}

impl fmt::Display for UnreadableLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the lock file {} of {} bytes, which cannot be read", self.path, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn lock_that_cannot_be_read_counts_until_it_is_stale() {
        let now = Timestamp::now();
        let minutes = |minutes| Some(now - SignedDuration::from_mins(minutes));
        for (bytes, modified, shared, exclusive) in [
            (0, minutes(0), false, true),
            (0, minutes(29), false, true),
            (0, minutes(31), false, false),
            (0, None, false, true),
            (40, minutes(0), true, true),
            (40, minutes(29), true, true),
            (40, minutes(31), false, false),
            (40, minutes(-90), true, true),
            (40, None, true, true),
        ] {
            let lock = UnreadableLock { path: "locks/x".to_owned(), bytes, modified };
            let is_in_the_way = (lock.is_in_the_way(false, now), lock.is_in_the_way(true, now));
            assert_eq!(is_in_the_way, (shared, exclusive), "{lock:?}");
        }
    }
}

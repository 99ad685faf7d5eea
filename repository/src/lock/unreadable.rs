//! Lock files that cannot be read. They are left by a full disk, a reset of the store, or a client that died while it
//! wrote one.
//!
//! The owner of such a file is unknown, and whether the lock is exclusive is unknown, too. So the file is respected
//! like a lock until it is stale. Pure.

use std::fmt;

use jiff::Timestamp;

use super::rules::STALE;

/// A lock file without valid content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableLock {
    /// The path in the repository.
    pub path: String,
    pub bytes: u64,
    /// When the file was written, by the store's clock; none if the store does not report it.
    pub modified: Option<Timestamp>,
}

impl UnreadableLock {
    /// Whether the file is so old that its writer would have refreshed it: restic's rule for locks.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.modified.is_some_and(|modified| now.duration_since(modified) >= STALE)
    }

    /// Whether the file conflicts with a lock of this process. As in restic, a shared lock does not conflict with an
    /// empty file. An exclusive lock does, because the file may become a valid lock at any moment.
    pub(super) fn is_conflicting(&self, exclusive: bool, now: Timestamp) -> bool {
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
    fn unreadable_lock_is_respected_until_it_is_stale() {
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
            let is_conflicting = (lock.is_conflicting(false, now), lock.is_conflicting(true, now));
            assert_eq!(is_conflicting, (shared, exclusive), "{lock:?}");
        }
    }
}

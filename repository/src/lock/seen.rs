//! Detects lock files whose holders have stopped, because the files do not change. Only this process's monotonic clock
//! is used.
//!
//! Each client periodically replaces its lock file by a newer one, and stops working when it cannot. So if a
//! file was observed unchanged for longer than its holder would have left it, the holder has stopped. The clocks of other
//! machines do not matter, and a file counts from when it was first observed. Pure.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::rules::LOCK_REFRESH;
use crate::format::Id;

/// A margin for requests of the holder which are in transit when its lease ends, and for clocks of different speed.
const MARGIN: Duration = Duration::from_mins(2);

/// Lock files with their lengths, and when each was first observed.
#[derive(Debug, Default)]
pub(super) struct ObservedLocks(HashMap<(Id, u64), Instant>);

impl ObservedLocks {
    /// Returns for how long the file was observed unchanged. Its name is the hash of its complete content, so a change
    /// shows only in the length.
    pub fn unchanged_for(&mut self, file: (Id, u64), now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.entry(file).or_insert(now))
    }
}

/// Whether the holder of an exclusive lock of Stowaway with this lease has stopped removing data.
///
/// The lock was refreshed before the file was first observed. The holder measures the lease from before that refresh,
/// and stops all work under the lock when the lease ends.
pub(super) fn has_stopped(lease: Duration, unchanged: Duration) -> bool {
    unchanged >= counts_for(lease)
}

/// How long a reader that has observed a lock file unchanged waits for a lock with this lease.
pub(super) fn counts_for(lease: Duration) -> Duration {
    lease.saturating_add(MARGIN)
}

/// Whether no running client owns a lock file that cannot be read.
///
/// A client that is still writing its first lock checks for other locks afterwards, and yields. A client that is
/// refreshing its lock still has its former file, which can be read. A client whose file has lost its content replaces
/// the file at its next refresh, after 5 minutes in restic and in Stowaway.
pub(super) fn has_no_owner(unchanged: Duration) -> bool {
    unchanged >= LOCK_REFRESH + MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_counts_from_its_first_observation_and_again_after_a_change() {
        let mut seen = ObservedLocks::default();
        let (start, minute) = (Instant::now(), Duration::from_mins(1));
        let (file, other) = ((Id::random(), 0), (Id::random(), 0));
        assert_eq!(seen.unchanged_for(file, start), Duration::ZERO);
        assert_eq!(seen.unchanged_for(file, start + minute), minute);
        assert_eq!(seen.unchanged_for(other, start + minute), Duration::ZERO);
        let filled = (file.0, 150);
        assert_eq!(seen.unchanged_for(filled, start + 2 * minute), Duration::ZERO);
        assert_eq!(seen.unchanged_for(filled, start + 3 * minute), minute);
    }

    #[test]
    fn holder_has_stopped_only_after_its_lease_and_the_margin() {
        let minutes = Duration::from_mins;
        for (lease, unchanged, expected) in [
            (minutes(5), minutes(0), false),
            (minutes(5), minutes(6), false),
            (minutes(5), minutes(7), true),
            (minutes(30), minutes(7), false),
            (Duration::MAX, minutes(60), false),
        ] {
            assert_eq!(has_stopped(lease, unchanged), expected, "{lease:?} {unchanged:?}");
        }
        assert!(!has_no_owner(minutes(6)) && has_no_owner(minutes(7)));
    }
}

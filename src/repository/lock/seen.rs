//! Lock files that stay as they are: what follows from that by the clock of this process alone, which only runs forward.
//!
//! Each client replaces its lock file by a younger one again and again, and stops working when it cannot. So a file that was
//! watched for longer than its holder would have left it is no longer acted under. No clock of another machine counts, and a
//! file that was only just found counts in full. Pure.

use std::{collections::HashMap, time::Duration};

use rustic_core::Id;
use tokio::time::Instant;

use super::LOCK_REFRESH;

/// For requests of the holder that are still on their way when its lease is over, and for clocks that run at another speed.
const MARGIN: Duration = Duration::from_mins(2);

/// Lock files with their lengths, and since when each was seen.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<(Id, u64), Instant>);

impl Seen {
    /// For how long that file was seen as it is. Its name is the hash of its whole content, so only its length can differ.
    pub fn unchanged_for(&mut self, file: (Id, u64), now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.entry(file).or_insert(now))
    }
}

/// Whether the holder of an exclusive lock of Stowaway, which gives itself that lease, has stopped removing.
///
/// It was refreshed last before it was seen for the first time. The holder counts its lease from before that, and ends all
/// that it does under the lock when the lease is over.
pub(super) fn has_stopped(lease: Duration, unchanged: Duration) -> bool {
    unchanged >= lease.saturating_add(MARGIN)
}

/// Whether a lock file that cannot be read is the lock of no client.
///
/// A client that is still writing its first lock looks for locks of others once it is written, and gives way. One that is
/// refreshing has its former file, which can be read. And one whose file has lost its content replaces it when the next
/// refresh is due, after the 5 minutes of restic and of Stowaway.
pub(super) fn has_no_owner(unchanged: Duration) -> bool {
    unchanged >= LOCK_REFRESH + MARGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_counts_from_the_first_look_and_again_once_it_has_changed() {
        let mut seen = Seen::default();
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
    fn holder_has_stopped_only_once_its_lease_and_what_is_on_its_way_are_over() {
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

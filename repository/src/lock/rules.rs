//! How locks of other clients are treated, and the purpose of a lock.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;

use super::probe::{LockOwnerProbe, NoProbe};

/// The longest interval between refreshes of a lock; the same as in restic.
pub const LOCK_REFRESH: Duration = Duration::from_mins(5);
/// A lock that was not refreshed for this long is stale; the same rule as in restic.
pub(super) const STALE: SignedDuration = SignedDuration::from_mins(30);

/// How locks of other clients are treated.
#[derive(Clone, Debug)]
pub struct LockRules {
    /// Determines whether the holders of locks are alive.
    pub probe: Arc<dyn LockOwnerProbe>,
    /// How long to wait for a conflicting lock. Zero means not to wait.
    pub wait: Duration,
}

impl Default for LockRules {
    fn default() -> Self {
        Self { probe: Arc::new(NoProbe), wait: Duration::ZERO }
    }
}

/// The purpose of a lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Purpose {
    /// Reading. Other clients may read and write, but not remove.
    Read,
    /// Writing, which relies on existing data. Other clients may read and write, but not remove.
    Write,
    /// Removing. Other clients may neither read nor write.
    Remove,
}

impl Purpose {
    /// Whether the lock excludes all other clients.
    pub fn is_exclusive(self) -> bool {
        self == Self::Remove
    }
}

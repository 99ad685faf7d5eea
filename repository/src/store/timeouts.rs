//! The timeouts of requests to a store.

use std::time::Duration;

/// The timeouts of requests to a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// The timeout of a single attempt. An upload gets another second for each 128 KiB.
    pub request: Duration,
    /// How long after the first attempt a request may be retried, until the store is reached. It is short, so that a
    /// wrong address is reported soon.
    pub retries: Duration,
    /// How long after the first attempt a request may be retried, after the store was reached. It is long, because a
    /// failure would discard the work of the run. It must be less than the 20 minutes after which a run gives up a lock
    /// that it cannot refresh.
    pub outage: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let (retries, outage) = (Duration::from_mins(1), Duration::from_mins(15));
        Self { request: Duration::from_secs(30), retries, outage }
    }
}

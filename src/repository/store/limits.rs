//! How much of the network the requests of one store may use: so many at once, so many bytes a second each way.
//!
//! It must not know what the requests are.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

use crate::model::StoreLimits;

/// The limits of a store, shared by all that speak to it.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    requests: Option<Arc<Semaphore>>,
    upload: Option<Arc<Mutex<Account>>>,
    download: Option<Arc<Mutex<Account>>>,
}

impl Limits {
    pub fn new(limits: &StoreLimits) -> Self {
        let account = |rate: Option<u64>| rate.map(|rate| Arc::new(Mutex::new(Account::new(rate, Instant::now()))));
        Self {
            requests: limits.connections.map(|most| Arc::new(Semaphore::new(most.max(1).into()))),
            upload: account(limits.upload_bytes_per_second),
            download: account(limits.download_bytes_per_second),
        }
    }

    /// Waits until one more request may begin; it counts as long as the answer is kept.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.requests.as_ref()?.acquire().await.ok()
    }

    /// Waits until so many bytes may be sent.
    pub async fn send(&self, bytes: u64) {
        wait(self.upload.as_ref(), bytes).await;
    }

    /// Waits for what was received before, and counts these bytes.
    pub async fn receive(&self, bytes: u64) {
        wait(self.download.as_ref(), bytes).await;
    }
}

async fn wait(account: Option<&Arc<Mutex<Account>>>, bytes: u64) {
    let Some(account) = account else { return };
    let pause = account.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

/// An account that may be overdrawn once, and is then paid off at the rate: a request of any size goes out as one, and
/// the next one waits until it is paid for.
#[derive(Debug)]
struct Account {
    bytes_per_second: u64,
    paid_off: Instant,
}

impl Account {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_off: now }
    }

    /// Takes the bytes, and tells how long to wait before they are used.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let begins = self.paid_off.max(now);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.paid_off = begins + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        begins - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_those_before_them_and_for_no_others() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut account = Account::new(1000, start);
        assert_eq!(account.take(5000, at(0)), Duration::ZERO, "nothing was sent before");
        assert_eq!(account.take(1000, at(0)), Duration::from_secs(5));
        assert_eq!(account.take(500, at(2)), Duration::from_secs(4));
        assert_eq!(account.take(1, at(60)), Duration::ZERO, "what was not used is not saved up");
        assert_eq!(account.take(1000, at(60)), Duration::from_millis(1));
    }

    #[tokio::test]
    async fn no_more_requests_than_allowed_run_at_once() {
        let limits = Limits::new(&StoreLimits { connections: Some(2), ..StoreLimits::default() });
        let (first, _second) = (limits.begin().await, limits.begin().await);
        let third = limits.begin();
        tokio::pin!(third);
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        assert!(futures::poll!(&mut third).is_ready());
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let limits = Limits::new(&StoreLimits::default());
        assert!(limits.requests.is_none() && limits.upload.is_none() && limits.download.is_none());
    }
}

//! Limits for the requests to a store: the number of parallel requests, and the bytes per second for uploads and
//! downloads.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

use stowaway_model::StoreLimits;

/// The limits of a store, shared by all its users in this process.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    requests: Option<Arc<Semaphore>>,
    upload: Option<Arc<Mutex<RateLimiter>>>,
    download: Option<Arc<Mutex<RateLimiter>>>,
}

impl Limits {
    pub fn new(limits: &StoreLimits) -> Self {
        let limiter = |rate: Option<u64>| rate.map(|rate| Arc::new(Mutex::new(RateLimiter::new(rate, Instant::now()))));
        Self {
            requests: limits.connections.map(|most| Arc::new(Semaphore::new(most.max(1).into()))),
            upload: limiter(limits.upload_bytes_per_second),
            download: limiter(limits.download_bytes_per_second),
        }
    }

    /// Waits until another request may begin. The request counts until the permit is dropped.
    pub async fn begin(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.requests.as_ref()?.acquire().await.ok()
    }

    /// Counts these bytes, and waits for the time that the bytes which were sent before them take.
    pub async fn send(&self, bytes: u64) {
        wait(self.upload.as_ref(), bytes).await;
    }

    /// Counts these bytes, and waits for the time that the bytes which were received before them take.
    pub async fn receive(&self, bytes: u64) {
        wait(self.download.as_ref(), bytes).await;
    }
}

async fn wait(limiter: Option<&Arc<Mutex<RateLimiter>>>, bytes: u64) {
    let Some(limiter) = limiter else { return };
    let pause = limiter.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

/// A rate limiter. A request of any size is sent at once, and the next request waits for the time that the rate
/// prescribes for the earlier requests.
#[derive(Debug)]
struct RateLimiter {
    bytes_per_second: u64,
    free_at: Instant,
}

impl RateLimiter {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: now }
    }

    /// Accounts for the bytes, and returns how long the caller must wait.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let begins = self.free_at.max(now);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.free_at = begins + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
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
        let mut limiter = RateLimiter::new(1000, start);
        assert_eq!(limiter.take(5000, at(0)), Duration::ZERO, "nothing was sent before");
        assert_eq!(limiter.take(1000, at(0)), Duration::from_secs(5));
        assert_eq!(limiter.take(500, at(2)), Duration::from_secs(4));
        assert_eq!(limiter.take(1, at(60)), Duration::ZERO, "what was not used is not saved up");
        assert_eq!(limiter.take(1000, at(60)), Duration::from_millis(1));
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

//! Timeouts and retries of requests to a store.

use std::{pin::pin, time::Duration};

use rand::RngExt;
use tokio::time::{Instant, error::Elapsed, sleep, timeout};

use super::{client::Store, fault::Fault, outage::WaitGuard};
use crate::StoreFault;

/// The minimum speed of an upload. A slower upload counts as stalled.
const MIN_UPLOAD_BYTES_PER_SECOND: u64 = 128 * 1024;
/// The delay before the first retry. It doubles with each retry, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A request that is unanswered for this long counts as waiting for the store, although it may still be answered.
const SILENCE: Duration = Duration::from_secs(15);

impl Store {
    /// Repeats a request, each attempt with a deadline, until it succeeds, fails permanently, or the time for retries
    /// is over. `size` is the number of bytes that are uploaded or downloaded.
    pub(super) async fn retry<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
    ) -> Result<T, Fault> {
        self.retry_while(size, request, || true).await
    }

    /// As [`Self::retry`], for a read. A read does not wait for an outage while other reads are answered, because then
    /// the file is the cause, and a check of many such files would take days.
    pub(super) async fn retry_read<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
    ) -> Result<T, Fault> {
        let is_outage = || !self.outage.answers_reads(self.timeouts.retries / 2);
        let answer = self.retry_while(size, request, is_outage).await;
        if !matches!(answer, Err(Fault::Transient(_) | Fault::Cancelled)) {
            self.outage.read_was_answered();
        }
        answer
    }

    /// As [`Self::retry`], but waits for an outage only while `is_outage` returns true, and for
    /// [`Timeouts::retries`](super::Timeouts::retries) after that.
    async fn retry_while<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
        is_outage: impl Fn() -> bool + Send,
    ) -> Result<T, Fault> {
        let deadline = self.timeouts.request + Duration::from_secs(size / MIN_UPLOAD_BYTES_PER_SECOND);
        let most = if self.is_reached { self.timeouts.outage } else { self.timeouts.retries };
        let attempts = async {
            let started = Instant::now();
            let (mut pause, mut last_outage, mut waiting) = (FIRST_PAUSE, started, None);
            loop {
                let permit = self.limits.begin().await;
                let answer = self.try_once(deadline, request(), &mut waiting).await;
                drop(permit);
                let fault = match answer {
                    Ok(Err(Fault::Transient(fault))) => fault,
                    Ok(answer) => {
                        if let Some(waiting) = &waiting {
                            waiting.log_recovery(&self.location);
                        }
                        return answer;
                    }
                    Err(_) => StoreFault::Silent(deadline),
                };
                let is_outage = is_outage();
                if is_outage {
                    last_outage = Instant::now();
                }
                // The jitter keeps many runs from retrying at the same moment.
                let spread = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                let is_at_fault = !is_outage && last_outage.elapsed() + spread >= self.timeouts.retries;
                if is_at_fault || started.elapsed() + spread >= most {
                    return Err(Fault::Transient(fault));
                }
                let waiting = waiting.get_or_insert_with(|| self.outage.begin(started));
                waiting.record_failure(&self.location, &fault, most);
                sleep(spread).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Fault::Cancelled),
            answer = attempts => answer,
        }
    }

    /// Makes one attempt. A request that is unanswered for [`SILENCE`] is added to the waiting requests.
    async fn try_once<T>(
        &self,
        deadline: Duration,
        request: impl Future<Output = Result<T, Fault>> + Send,
        waiting: &mut Option<WaitGuard>,
    ) -> Result<Result<T, Fault>, Elapsed> {
        let started = Instant::now();
        let mut request = pin!(request);
        let silence = SILENCE.min(deadline);
        if let Ok(answer) = timeout(silence, &mut request).await {
            return Ok(answer);
        }
        let waiting = waiting.get_or_insert_with(|| self.outage.begin(started));
        waiting.record_silence(silence);
        timeout(deadline.saturating_sub(silence), request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU32, Ordering},
    };

    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{StoreAccess, Timeouts};
    use stowaway_model::{BackendConfig, Connection};

    fn store(retries: Duration) -> Store {
        let timeouts = Timeouts { request: Duration::from_secs(30), retries, outage: Duration::from_hours(1) };
        let backend = BackendConfig::Folder { path: "/nowhere".to_owned() };
        let (connection, credentials) = (Connection::default(), BTreeMap::new());
        let access = StoreAccess { backend, connection, credentials, timeouts };
        Store::at(&access, CancellationToken::new()).unwrap()
    }

    fn unavailable() -> Fault {
        Fault::Transient(StoreFault::Http("503 Service Unavailable".to_owned()))
    }

    /// A store that answers after this number of failed attempts.
    struct Tries(AtomicU32);

    impl Tries {
        fn until_answered(&self) -> Result<(), Fault> {
            let left = self.0.load(Ordering::Relaxed);
            self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            if left > 0 { Err(unavailable()) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn outage_is_waited_for_only_by_a_run_that_has_reached_its_store() {
        let store = store(Duration::ZERO);
        let tries = Tries(AtomicU32::new(2));
        let request = || async { tries.until_answered() };
        assert!(matches!(store.retry(0, request).await, Err(Fault::Transient(_))));
        tries.0.store(2, Ordering::Relaxed);
        assert!(store.reached().retry(0, request).await.is_ok());
        tries.0.store(2, Ordering::Relaxed);
        assert!(store.reached().retry_read(0, request).await.is_ok());
        let final_request = store.reached().for_final_request();
        tries.0.store(2, Ordering::Relaxed);
        assert!(matches!(final_request.retry(0, request).await, Err(Fault::Transient(_))));
    }

    #[tokio::test]
    async fn read_of_one_bad_file_fails_soon_while_others_are_answered() {
        let store = store(Duration::from_secs(1)).reached();
        let request = || async {
            store.outage.read_was_answered();
            Err::<(), _>(unavailable())
        };
        assert!(matches!(store.retry_read(0, request).await, Err(Fault::Transient(_))));
    }

    #[tokio::test]
    async fn wait_lasts_from_the_first_request_to_the_last_one_and_names_the_last_answer() {
        let store = store(Duration::ZERO).reached();
        assert_eq!(store.outage.wait(), None);
        let earlier = Instant::now().checked_sub(Duration::from_mins(3)).unwrap();
        let first = store.outage.begin(earlier);
        let second = store.outage.begin(Instant::now());
        second.record_failure("s3", &StoreFault::Http("503".to_owned()), Duration::from_mins(15));
        drop(first);
        let wait = store.outage.wait().unwrap();
        let text = wait.to_string();
        assert!(text.starts_with("waiting for the store for 180 s, since ") && text.ends_with("Z: 503"), "{text}");
        assert!(wait.since < Timestamp::now() - jiff::SignedDuration::from_secs(179), "{wait:?}");
        drop(second);
        assert_eq!(store.outage.wait(), None);
    }
}

//! How long a store is waited for: the deadline of each request, the retries, and what people hear of an outage.
//!
//! It must not know what is requested.

use std::{
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rand::RngExt;
use tokio::time::{Instant, error::Elapsed, sleep, timeout};

use super::{Store, backend::Fault};
use crate::repository::{Repository, StoreFault};

/// How long a store may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// One request; what is uploaded gets a second more for each 128 KiB.
    pub request: Duration,
    /// No retry starts later than this after the first try, until the store was reached: a wrong address is reported soon.
    pub retries: Duration,
    /// The same once the repository is open. What the run has done so far would be lost with it, so the outage of a store
    /// is waited for. Less than the 20 minutes after which a run gives up its lock because it could not be refreshed.
    pub outage: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let (retries, outage) = (Duration::from_mins(1), Duration::from_mins(15));
        Self { request: Duration::from_secs(30), retries, outage }
    }
}

/// The slowest upload that is not taken for a stalled one.
const SLOWEST_UPLOAD_BYTES_PER_SECOND: u64 = 128 * 1024;
/// Between the first two tries; doubled each time, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A request without an answer for so long counts as one that waits, although it may still be answered.
const SILENCE: Duration = Duration::from_secs(15);
/// An outage that lasts so long is logged.
const LOGGED_AFTER: Duration = Duration::from_secs(5);
/// And so long after that it is logged again.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// What a run waits for while its store is away.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreWait {
    /// When the first of the requests was made that wait now.
    pub since: Timestamp,
    /// How long ago that is.
    pub lasts: Duration,
    /// The last answer, or that there is none.
    pub why: String,
}

impl fmt::Display for StoreWait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, lasts, why } = self;
        write!(formatter, "waiting for the store for {} s, since {since:.0}: {why}", lasts.as_secs())
    }
}

impl Repository {
    /// What a run waits for, if its store is away at the moment.
    pub fn store_wait(&self) -> Option<StoreWait> {
        self.store.outage.wait()
    }
}

/// Which requests of a store wait, shared by all that speak to it.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    since: Option<(Instant, Timestamp)>,
    why: String,
    logged: Option<Instant>,
    /// When a read was answered last.
    read: Option<Instant>,
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Option<StoreWait> {
        let state = self.state();
        let (began, since) = state.since?;
        Some(StoreWait { since, lasts: began.elapsed(), why: state.why.clone() })
    }

    /// One more request waits, which was made at that moment.
    fn begin(self: &Arc<Self>, made: Instant) -> Waiting {
        let mut state = self.state();
        state.waiting += 1;
        if state.since.is_none() {
            let ago = jiff::SignedDuration::try_from(made.elapsed()).unwrap_or_default();
            state.since = Some((made, Timestamp::now().saturating_sub(ago).unwrap_or_else(|_| Timestamp::now())));
        }
        Waiting(Arc::clone(self))
    }

    fn read_was_answered(&self) {
        self.state().read = Some(Instant::now());
    }

    /// Whether a read was answered within that time.
    fn answers_reads(&self, within: Duration) -> bool {
        self.state().read.is_some_and(|read| read.elapsed() < within)
    }
}

/// A request that waits, until it is dropped.
struct Waiting(Arc<Outage>);

impl Waiting {
    /// The store gave that answer, or none; logged when that is due.
    fn continues(&self, place: &str, fault: &StoreFault, patience: Duration) {
        let mut state = self.0.state();
        state.why = fault.to_string();
        let lasts = state.since.map_or(Duration::ZERO, |(began, _)| began.elapsed());
        let is_due = state.logged.map_or(lasts >= LOGGED_AFTER, |logged| logged.elapsed() >= LOGGED_EVERY);
        if is_due {
            state.logged = Some(Instant::now());
            drop(state);
            let (seconds, most) = (lasts.as_secs(), patience.as_secs());
            tracing::warn!(
                seconds,
                "the store at {place} is away: it is waited for, for {seconds} s so far and {most} s at most: {fault}"
            );
        }
    }

    /// The store has answered.
    fn is_over(&self, place: &str) {
        let state = self.0.state();
        if let (Some((began, _)), 1, true) = (state.since, state.waiting, state.logged.is_some()) {
            tracing::info!("the store at {place} answers again, after {} s", began.elapsed().as_secs());
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
        if state.waiting == 0 {
            (state.since, state.logged) = (None, None);
        }
    }
}

impl Store {
    /// Tries a request, each time with a deadline, until it succeeds, fails for good, or the patience ends.
    pub(super) async fn retry<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
    ) -> Result<T, Fault> {
        self.retry_while(size, request, || true).await
    }

    /// The same for a request that reads. It does not wait for an outage while others are answered: then the file is at fault,
    /// and a check of many such files would take days.
    pub(super) async fn retry_read<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
    ) -> Result<T, Fault> {
        let is_away = || !self.outage.answers_reads(self.patience.retries / 2);
        let answer = self.retry_while(size, request, is_away).await;
        if !matches!(answer, Err(Fault::Passing(_) | Fault::Cancelled)) {
            self.outage.read_was_answered();
        }
        answer
    }

    /// An outage is waited for while `is_away` holds, and for the patience of a single request after that.
    async fn retry_while<T, F: Future<Output = Result<T, Fault>> + Send>(
        &self,
        size: u64,
        request: impl Fn() -> F + Send,
        is_away: impl Fn() -> bool + Send,
    ) -> Result<T, Fault> {
        let deadline = self.patience.request + Duration::from_secs(size / SLOWEST_UPLOAD_BYTES_PER_SECOND);
        let most = if self.is_under_way { self.patience.outage } else { self.patience.retries };
        let tries = async {
            let started = Instant::now();
            let (mut pause, mut was_away, mut waiting) = (FIRST_PAUSE, started, None);
            loop {
                let one = self.limits.begin().await;
                let answer = self.try_once(deadline, request(), &mut waiting).await;
                drop(one);
                let fault = match answer {
                    Ok(Err(Fault::Passing(fault))) => fault,
                    Ok(answer) => {
                        if let Some(waiting) = &waiting {
                            waiting.is_over(&self.place);
                        }
                        return answer;
                    }
                    Err(_) => StoreFault::Silent(deadline),
                };
                let is_away = is_away();
                if is_away {
                    was_away = Instant::now();
                }
                // Spread, so that many runs do not come back at the same moment.
                let spread = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                let is_at_fault = !is_away && was_away.elapsed() + spread >= self.patience.retries;
                if is_at_fault || started.elapsed() + spread >= most {
                    return Err(Fault::Passing(fault));
                }
                let waiting = waiting.get_or_insert_with(|| self.outage.begin(started));
                waiting.continues(&self.place, &fault, most);
                sleep(spread).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Fault::Cancelled),
            answer = tries => answer,
        }
    }

    /// One try. While it is without an answer for long, it counts as one that waits.
    async fn try_once<T>(
        &self,
        deadline: Duration,
        request: impl Future<Output = Result<T, Fault>> + Send,
        waiting: &mut Option<Waiting>,
    ) -> Result<Result<T, Fault>, Elapsed> {
        let made = Instant::now();
        let mut request = pin!(request);
        let silence = SILENCE.min(deadline);
        if let Ok(answer) = timeout(silence, &mut request).await {
            return Ok(answer);
        }
        let waiting = waiting.get_or_insert_with(|| self.outage.begin(made));
        waiting.0.state().why = StoreFault::Silent(silence).to_string();
        timeout(deadline.saturating_sub(silence), request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicU32, Ordering},
    };

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        model::{BackendConfig, Connection},
        repository::StoreAccess,
    };

    fn store(retries: Duration) -> Store {
        let patience = Patience { request: Duration::from_secs(30), retries, outage: Duration::from_hours(1) };
        let backend = BackendConfig::Folder { path: "/nowhere".to_owned() };
        let (connection, credentials) = (Connection::default(), BTreeMap::new());
        let access = StoreAccess { backend, connection, credentials, patience };
        Store::at(&access, CancellationToken::new()).unwrap()
    }

    fn away() -> Fault {
        Fault::Passing(StoreFault::Http("503 Service Unavailable".to_owned()))
    }

    /// A store that answers after so many tries.
    struct Tries(AtomicU32);

    impl Tries {
        fn until_answered(&self) -> Result<(), Fault> {
            let left = self.0.load(Ordering::Relaxed);
            self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            if left > 0 { Err(away()) } else { Ok(()) }
        }
    }

    #[tokio::test]
    async fn outage_is_waited_for_only_by_a_run_that_has_reached_its_store() {
        let store = store(Duration::ZERO);
        let tries = Tries(AtomicU32::new(2));
        let request = || async { tries.until_answered() };
        assert!(matches!(store.retry(0, request).await, Err(Fault::Passing(_))));
        tries.0.store(2, Ordering::Relaxed);
        assert!(store.under_way().retry(0, request).await.is_ok());
        tries.0.store(2, Ordering::Relaxed);
        assert!(store.under_way().retry_read(0, request).await.is_ok());
        let last_look = store.under_way().for_a_last_look();
        tries.0.store(2, Ordering::Relaxed);
        assert!(matches!(last_look.retry(0, request).await, Err(Fault::Passing(_))));
    }

    #[tokio::test]
    async fn read_of_one_bad_file_ends_soon_while_others_are_answered() {
        let store = store(Duration::from_secs(1)).under_way();
        let request = || async {
            store.outage.read_was_answered();
            Err::<(), _>(away())
        };
        assert!(matches!(store.retry_read(0, request).await, Err(Fault::Passing(_))));
    }

    #[tokio::test]
    async fn wait_lasts_from_the_first_request_to_the_last_one_and_names_the_last_answer() {
        let store = store(Duration::ZERO).under_way();
        assert_eq!(store.outage.wait(), None);
        let earlier = Instant::now().checked_sub(Duration::from_mins(3)).unwrap();
        let first = store.outage.begin(earlier);
        let second = store.outage.begin(Instant::now());
        second.continues("s3", &StoreFault::Http("503".to_owned()), Duration::from_mins(15));
        drop(first);
        let wait = store.outage.wait().unwrap();
        let text = wait.to_string();
        assert!(text.starts_with("waiting for the store for 180 s, since ") && text.ends_with("Z: 503"), "{text}");
        assert!(wait.since < Timestamp::now() - jiff::SignedDuration::from_secs(179), "{wait:?}");
        drop(second);
        assert_eq!(store.outage.wait(), None);
    }
}

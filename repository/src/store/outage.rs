//! The report of an outage of a store, in status and log.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::StoreFault;

/// An outage that lasts this long is logged.
const LOGGED_AFTER: Duration = Duration::from_secs(5);
/// The interval at which an outage is logged again.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// A run's wait for a store that does not answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreWait {
    /// When the oldest waiting request was started.
    pub since: Timestamp,
    /// How long ago that is.
    pub lasts: Duration,
    /// The last answer, or that there was no answer.
    pub why: String,
}

impl fmt::Display for StoreWait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, lasts, why } = self;
        write!(formatter, "waiting for the store for {} s, since {since:.0}: {why}", lasts.as_secs())
    }
}

/// The waiting requests of a store, shared by all its users in this process.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    since: Option<(Instant, Timestamp)>,
    why: String,
    logged: Option<Instant>,
    /// When a read was last answered.
    read: Option<Instant>,
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait(&self) -> Option<StoreWait> {
        let state = self.state();
        let (began, since) = state.since?;
        Some(StoreWait { since, lasts: began.elapsed(), why: state.why.clone() })
    }

    /// Adds a waiting request that was started at `started`.
    pub(super) fn begin(self: &Arc<Self>, started: Instant) -> WaitGuard {
        let mut state = self.state();
        state.waiting += 1;
        if state.since.is_none() {
            let ago = jiff::SignedDuration::try_from(started.elapsed()).unwrap_or_default();
            state.since = Some((started, Timestamp::now().saturating_sub(ago).unwrap_or_else(|_| Timestamp::now())));
        }
        WaitGuard(Arc::clone(self))
    }

    pub(super) fn read_was_answered(&self) {
        self.state().read = Some(Instant::now());
    }

    /// Whether a read was answered within this time.
    pub(super) fn answers_reads(&self, within: Duration) -> bool {
        self.state().read.is_some_and(|read| read.elapsed() < within)
    }
}

/// A waiting request. It stops waiting when this guard is dropped.
pub(super) struct WaitGuard(Arc<Outage>);

impl WaitGuard {
    /// Records that a request is unanswered for this long.
    pub(super) fn record_silence(&self, silence: Duration) {
        self.0.state().why = StoreFault::Silent(silence).to_string();
    }

    /// Records a failed attempt, and logs the outage if that is due.
    pub(super) fn record_failure(&self, location: &str, fault: &StoreFault, limit: Duration) {
        let mut state = self.0.state();
        state.why = fault.to_string();
        let lasts = state.since.map_or(Duration::ZERO, |(began, _)| began.elapsed());
        let is_due = state.logged.map_or(lasts >= LOGGED_AFTER, |logged| logged.elapsed() >= LOGGED_EVERY);
        if is_due {
            state.logged = Some(Instant::now());
            drop(state);
            let (seconds, most) = (lasts.as_secs(), limit.as_secs());
            tracing::warn!(
                seconds,
                "the store at {location} is not available: waiting for it, for {seconds} s so far and at most {most} s: \
                 {fault}"
            );
        }
    }

    /// Logs the end of an outage, if this is the last waiting request.
    pub(super) fn log_recovery(&self, location: &str) {
        let state = self.0.state();
        if let (Some((began, _)), 1, true) = (state.since, state.waiting, state.logged.is_some()) {
            tracing::info!("the store at {location} answers again, after {} s", began.elapsed().as_secs());
        }
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting = state.waiting.saturating_sub(1);
        if state.waiting == 0 {
            (state.since, state.logged) = (None, None);
        }
    }
}

//! Limits of a run: how long, how long without progress, and who may cancel it.
//!
//! It must not know what runs.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Lines;
use crate::model::{Failure, Reason};

/// How long a command may take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// From the start to the end of its stream.
    pub timeout: Option<Duration>,
    /// Between two moves of bytes, while the command is what is waited for. The time in which the repository takes or gives no
    /// bytes does not count: its store may be away for minutes.
    pub idle_timeout: Option<Duration>,
}

/// How far a stream is; to be read from another task.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Bytes of the stream so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// What accompanies one run.
#[derive(Clone, Debug)]
pub struct Control {
    /// How long it may take.
    pub limits: Limits,
    /// Ends it, and the remote command with it.
    pub cancel: CancellationToken,
    /// Takes what the command says to people.
    pub lines: Lines,
    /// Counts its bytes.
    pub progress: std::sync::Arc<Progress>,
}

/// The limits of one run that goes on.
pub(super) struct Watch<'a> {
    control: &'a Control,
    deadline: Option<Instant>,
    moved: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(super) fn start(control: &'a Control) -> Self {
        let now = Instant::now();
        Self {
            control,
            deadline: control.limits.timeout.and_then(|timeout| now.checked_add(timeout)),
            moved: Some(now),
        }
    }

    /// Bytes moved; the stream is that long by now.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.moved = Some(Instant::now());
        self.control.progress.set(bytes);
    }

    /// Until bytes move again, none is missed: there is none left, or the repository is what is waited for.
    pub(super) fn command_is_not_idle(&mut self) {
        self.moved = None;
    }

    /// Ends only if the run must: with the reason.
    pub(super) async fn interruption(&self) -> Failure {
        let idle = self.control.limits.idle_timeout.and_then(|idle| self.moved?.checked_add(idle));
        tokio::select! {
            biased;
            () = self.control.cancel.cancelled() => Failure::new(Reason::Cancelled, "the run was cancelled"),
            () = at(self.deadline) => Failure::new(Reason::Timeout, format!(
                "the command ran longer than its timeout of {:?}: raise it, or make the dump faster",
                self.control.limits.timeout.unwrap_or_default(),
            )),
            () = at(idle) => Failure::new(Reason::IdleTimeout, format!(
                "no byte moved for the idle timeout of {:?}: see the command's stderr for what it waited for",
                self.control.limits.idle_timeout.unwrap_or_default(),
            )),
        }
    }

    /// The future's outcome, or why it must not be waited for.
    pub(super) async fn unless_interrupted<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.interruption() => Err(failure),
            outcome = future => Ok(outcome),
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The data of a mutex whose holders leave it whole even if they panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

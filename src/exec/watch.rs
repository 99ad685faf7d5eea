//! The limits of a run: its timeout, its idle timeout, and its cancellation.

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

/// The time that a command may take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// From the start to the end of the stream.
    pub timeout: Option<Duration>,
    /// The longest time without a byte while the run waits for the command. Time in which the repository accepts or
    /// provides no bytes does not count, because its store may be unreachable for minutes.
    pub idle_timeout: Option<Duration>,
}

/// The progress of a stream, readable from another task.
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

/// The limits, cancellation, log lines and progress of one run.
#[derive(Clone, Debug)]
pub struct Control {
    /// The time that the command may take.
    pub limits: Limits,
    /// Ends the run, and the remote command with it.
    pub cancel: CancellationToken,
    /// Collects the lines which the command prints for users.
    pub lines: Lines,
    /// Counts the bytes of the stream.
    pub progress: std::sync::Arc<Progress>,
}

/// Watches the limits of a running command.
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

    /// Records that bytes moved: `bytes` is the length of the stream so far.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.moved = Some(Instant::now());
        self.control.progress.set(bytes);
    }

    /// Stops the idle timeout until bytes move again: either all bytes are there, or the run waits for the repository.
    pub(super) fn command_is_not_idle(&mut self) {
        self.moved = None;
    }

    /// Completes only when the run must end, with the reason.
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

    /// The future's output, or the reason why the run must end first.
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

/// Locks a mutex whose data stays consistent even if a holder panics.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

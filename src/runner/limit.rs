//! How long a run may take, if anybody said so.
//!
//! It must not know what runs.

use std::{future::pending, pin::pin, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, Reason};

/// Ends when that time is over; without one, never.
pub(super) async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}

/// Runs a restore. One that takes longer is cancelled, and then clears up what it has begun before this returns.
///
/// Errors: [`Reason::Timeout`]; its own, when it ended in time or does not know what it has done.
pub(super) async fn restore_within<T>(
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        result = &mut work => result,
        () = over(timeout) => {
            cancel.cancel();
            work.await.map_err(|failure| match failure.reason {
                Reason::OutcomeUnknown => failure,
                _ => {
                    let limit = timeout.unwrap_or_default();
                    Failure::new(Reason::Timeout, format!("the restore took longer than its timeout of {limit:?}: raise it"))
                }
            })
        }
    }
}

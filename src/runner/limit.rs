//! The optional time limit of a run.

use std::{future::pending, pin::pin, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, Reason};

/// Completes when the time is over; never without a timeout.
pub(super) async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}

/// Runs a restore. A restore which exceeds the timeout is cancelled, and cleans up before this function returns.
///
/// Errors: [`Reason::Timeout`]; the error of the restore if it ended in time, or if its outcome is unknown.
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

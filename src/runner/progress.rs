//! The progress of this run, for the status of its object: stored here by the work, and written by a task beside it. A
//! failed write does not fail the run.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
use tokio::time::{MissedTickBehavior, interval};

use super::settings::Identity;
use crate::{cluster::progress, model::RunProgress};

/// The interval of writes. A shorter run writes nothing.
const EVERY: Duration = Duration::from_secs(30);

/// The latest progress. It is global, because a run is one process.
static LATEST: Mutex<Option<RunProgress>> = Mutex::new(None);

/// Stores the latest progress.
pub(super) fn keep(progress: RunProgress) {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
}

/// Writes the progress at each interval if it has changed. Never completes; the caller drops it.
pub(super) async fn write(client: Client, identity: &Identity) -> Infallible {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut written = None;
    loop {
        ticks.tick().await;
        let latest = *LATEST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = latest.filter(|_| latest != written) {
            let pod = (identity.namespace.as_str(), identity.pod.as_str(), identity.pod_uid.as_str());
            match progress::write(&client, pod, progress, Timestamp::now()).await {
                Ok(()) => written = latest,
                // The log contains the progress, too.
                Err(error) => tracing::debug!("the progress could not be written: {error}"),
            }
        }
    }
}

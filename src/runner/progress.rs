//! How far this run is, to be shown in the status of its object: kept here by the work, and written by a task beside it.
//!
//! It must not know what is worked on. What cannot be written is no reason to fail.

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

/// How often it is written. A run that takes less writes nothing.
const EVERY: Duration = Duration::from_secs(30);

/// A run is one process.
static LATEST: Mutex<Option<RunProgress>> = Mutex::new(None);

/// Keeps how far it is.
pub(super) fn keep(progress: RunProgress) {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
}

/// Writes it now and then where it has changed; never returns, the caller drops it.
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
                // The log has it, too.
                Err(error) => tracing::debug!("the progress is not shown in the status: {error}"),
            }
        }
    }
}

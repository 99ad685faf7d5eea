//! What disturbs everybody else on the cluster, and so runs by itself, one after the other: the API server is killed, the
//! webhook is rolled, is away, or gets other certificates.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "these are tests, and a scenario is told in one piece")]

mod api_server;
mod webhook;

use tokio::sync::{Mutex, MutexGuard};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

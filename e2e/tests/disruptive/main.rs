//! Tests that disturb the whole cluster, and so run one at a time and not beside other tests. They kill the API server,
//! restart, kill or remove the webhook, replace its certificates, set all logs to the finest level, or restart the
//! node.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "these are tests, and a scenario is one long function")]

mod api_server;
mod authority;
mod canaries;
mod lease;
mod node;
mod webhook;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex, MutexGuard};

/// The lock that the running test holds.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// Whether the pod has an init container of that name.
fn has_init(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    containers.is_some_and(|containers| containers.iter().any(|container| container.name == name))
}

//! What disturbs everybody else on the cluster, and so runs by itself, one after the other: the API server is killed, the
//! webhook is rolled, is killed, is away, or gets other certificates, all logs are opened, the whole node is restarted.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "these are tests, and a scenario is told in one piece")]

mod api_server;
mod authority;
mod canaries;
mod lease;
mod node;
mod webhook;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Mutex, MutexGuard};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// Whether the pod has an init container of that name.
fn has_init(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    containers.is_some_and(|containers| containers.iter().any(|container| container.name == name))
}

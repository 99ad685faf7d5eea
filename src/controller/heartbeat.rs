//! The controller's Lease: that the controller is alive, for people and for the CLI to see.
//!
//! It decides nothing: a controller without the Lease works all the same, because the installation runs one controller.

use jiff::Timestamp;
use kube::Client;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::{build::manifests::CONTROLLER_LEASE, cluster::lease::Tenure};

/// The figure of the last renewal.
pub(super) fn register(registry: &mut Registry) -> Gauge {
    let renewed = Gauge::default();
    registry.register(
        "stowaway_controller_heartbeat_timestamp_seconds",
        "When the controller last wrote to the API server that it lives (its Lease)",
        renewed.clone(),
    );
    renewed
}

/// Renews the Lease until it is cancelled, and gives it back.
pub(super) async fn beat(client: Client, instance: &str, renewed: Gauge, token: CancellationToken) {
    let namespace = client.default_namespace().to_owned();
    let mut tenure = Tenure::new(client, &namespace, CONTROLLER_LEASE, instance);
    let mut is_reported = false;
    loop {
        let now = Timestamp::now();
        match tenure.renew(now).await {
            Ok(()) if tenure.is_held() => {
                renewed.set(now.as_second());
                is_reported = false;
            }
            Ok(()) if !is_reported => {
                tracing::warn!(
                    "another controller holds the Lease {CONTROLLER_LEASE}: two controllers may both start runs; keep one replica"
                );
                is_reported = true;
            }
            Ok(()) => {}
            Err(error) => tracing::warn!("the Lease {CONTROLLER_LEASE} was not renewed: {error}"),
        }
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(tenure.period()) => {}
        }
    }
    if let Err(error) = tenure.release().await {
        tracing::warn!("the Lease {CONTROLLER_LEASE} is not given back: {error}");
    }
}

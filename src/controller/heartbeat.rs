//! The controller's Lease: that the controller is alive, for people and for the CLI to see.
//!
//! It decides nothing: a controller without the Lease works all the same, because the installation runs one controller.

use jiff::Timestamp;
use kube::Client;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::{build::manifests::CONTROLLER_LEASE, cluster::lease::Tenure};

/// For how many rounds another controller holds the Lease before that is reported.
const ROUNDS_OF_ANOTHER: u32 = 6;

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
    // A controller that was killed has left its Lease, which ends by itself before so many rounds are over.
    let mut rounds_of_another = 0;
    loop {
        let now = Timestamp::now();
        match tokio::time::timeout(tenure.period(), tenure.renew(now)).await {
            Ok(Ok(())) if tenure.is_held() => {
                renewed.set(now.as_second());
                rounds_of_another = 0;
            }
            Ok(Ok(())) => {
                rounds_of_another += 1;
                if rounds_of_another == ROUNDS_OF_ANOTHER {
                    tracing::warn!(
                        "another controller holds the Lease {CONTROLLER_LEASE}: two controllers may both start runs; keep one \
                         replica"
                    );
                }
            }
            Ok(Err(error)) => tracing::warn!("the Lease {CONTROLLER_LEASE} was not renewed: {error}"),
            Err(_) => tracing::warn!("the Lease {CONTROLLER_LEASE} was not renewed: the API server does not answer"),
        }
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(tenure.period()) => {}
        }
    }
    let period = tenure.period();
    match tokio::time::timeout(period, tenure.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the Lease {CONTROLLER_LEASE} is not given back: {error}"),
        Err(_) => tracing::warn!("the Lease {CONTROLLER_LEASE} is not given back: the API server does not answer"),
    }
}

//! The controller's Lease, which shows users and the CLI that the controller is alive. It is not a leader election: a
//! controller without the Lease works, too, because the installation runs one controller.

use jiff::Timestamp;
use kube::Client;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio_util::sync::CancellationToken;

use crate::{cluster::lease::LeaderLease, resources::manifests::CONTROLLER_LEASE};

/// The number of rounds in which another controller must hold the Lease before that is reported.
const ROUNDS_OF_ANOTHER: u32 = 6;

/// Registers the metric of the last renewal.
pub(super) fn register(registry: &mut Registry) -> Gauge {
    let renewed = Gauge::default();
    registry.register(
        "stowaway_controller_heartbeat_timestamp_seconds",
        "When the controller last renewed its Lease",
        renewed.clone(),
    );
    renewed
}

/// Renews the Lease until `token` is cancelled, and then releases it.
pub(super) async fn beat(client: Client, instance: &str, renewed: Gauge, token: CancellationToken) {
    let namespace = client.default_namespace().to_owned();
    let mut lease = LeaderLease::new(client, &namespace, CONTROLLER_LEASE, instance);
    // The Lease of a controller which was killed expires before so many rounds are over.
    let mut rounds_of_another = 0;
    loop {
        let now = Timestamp::now();
        match tokio::time::timeout(lease.period(), lease.renew(now)).await {
            Ok(Ok(())) if lease.is_held() => {
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
            Ok(Err(error)) => tracing::warn!("failed to renew the Lease {CONTROLLER_LEASE}: {error}"),
            Err(_) => tracing::warn!("failed to renew the Lease {CONTROLLER_LEASE}: the API server does not answer"),
        }
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(lease.period()) => {}
        }
    }
    let period = lease.period();
    match tokio::time::timeout(period, lease.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("failed to release the Lease {CONTROLLER_LEASE}: {error}"),
        Err(_) => tracing::warn!("failed to release the Lease {CONTROLLER_LEASE}: the API server does not answer"),
    }
}

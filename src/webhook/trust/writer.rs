//! Writes the proposed bundle into the webhook configurations, and changes nothing else in them.
//!
//! The right to patch a webhook configuration allows its holder to have every object of the cluster sent to itself, and
//! no policy restricts that right. So the writer is a separate process, which no client calls and which reads only
//! three objects by name.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::{Round, TrustError, proposal, rounds};
use crate::{
    cluster::{
        bundles,
        client::{self, Component},
    },
    resources::manifests::{TRUST, WEBHOOK},
    telemetry,
    webhook::WebhookError,
};

/// The interval at which a round runs, in case that a change was missed.
const PERIOD: Duration = Duration::from_secs(30);
/// A longer bundle is not Stowaway's, because three certificates have less than 3 KiB.
const MAX_BUNDLE: usize = 64 * 1024;

/// Runs until `shutdown` is ready. An unreachable cluster is not an error; the writer waits for it.
///
/// # Errors
/// When no cluster is configured, or the port is in use.
pub async fn run(namespace: String, metrics_port: u16, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
    let client = client::connect(Component::Trust).await?;
    let listener = telemetry::metrics::listen(metrics_port).await;
    let listener = listener.map_err(|source| WebhookError::Listen { port: metrics_port, source })?;
    let token = CancellationToken::new();
    let health = async {
        tokio::select! {
            () = token.cancelled() => {}
            Err(error) = telemetry::metrics::serve(listener, Registry::default()) => {
                tracing::error!("the health endpoint is no longer served: {error}");
            }
        }
    };
    let stop = async {
        shutdown.await;
        token.cancel();
    };
    tokio::join!(follow(client, &namespace, &token), health, stop);
    Ok(())
}

/// Writes proposed bundles until `token` is cancelled.
pub(super) async fn follow(client: Client, namespace: &str, token: &CancellationToken) {
    let changes = bundles::changes::<ConfigMap>(&client, WEBHOOK, Some((namespace, TRUST)));
    rounds(&mut Writer { client, namespace: namespace.to_owned() }, changes, token).await;
}

struct Writer {
    client: Client,
    namespace: String,
}

impl Round for Writer {
    async fn round(&mut self) -> Result<Duration, TrustError> {
        write(&self.client, &self.namespace).await
    }
}

/// Writes the bundle where it differs. Returns how long no step will be due.
async fn write(client: &Client, namespace: &str) -> Result<Duration, TrustError> {
    let Some(bundle) = proposal::read(client, namespace).await? else { return Ok(PERIOD) };
    if bundle.len() > MAX_BUNDLE || !webhook_certs::is_bundle(&bundle) {
        tracing::warn!(
            "the proposal in ConfigMap {TRUST} is not written: it is longer than {MAX_BUNDLE} bytes, or contains something \
             that is not a certificate"
        );
        return Ok(PERIOD);
    }
    let configurations = bundles::configurations(client, WEBHOOK).await?;
    let mut wait = PERIOD;
    for configuration in configurations.iter().filter(|one| one.bundles().any(|found| found != bundle)) {
        if bundles::publish(client, configuration, &bundle).await? {
            tracing::info!("the proposed bundle was written to a webhook configuration {WEBHOOK}");
        } else {
            // Another client changed the configuration meanwhile.
            wait = Duration::ZERO;
        }
    }
    Ok(wait)
}

//! Keeps the webhook trusted: maintains the certificates that a replica serves with, and the bundles by which the API
//! server trusts them, through rotations and through any change of the objects that hold them.
//!
//! Each round reads everything again and takes at most one step, so that no state must be remembered. Thus a deleted or
//! damaged Secret, a bundle that was wiped, a clock that jumped, and an API server that was unreachable need no special
//! cases. Watches only trigger rounds; without them a round runs every few seconds.
//!
//! A replica does not write webhook configurations. It proposes a bundle, and a process with its own service account
//! ([`run_writer`]) writes that bundle and nothing else. So an attacker who takes over the webhook cannot choose which
//! objects are sent to it.
//!
//! No key is ever logged.

mod authority;
mod folder;
mod proposal;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::writer::run as run_writer;
use self::{authority::Authority, folder::Folder};
use super::certificates::{Certificates, ServingError};
use crate::{
    cluster::{
        bundles::{self, Configuration},
        call::CallError,
    },
    resources::manifests::{AUTHORITY, WEBHOOK},
};

/// The minimum time between the starts of two rounds, however many changes there are.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The pause after the first failure; each consecutive failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Timeout of a round.
const MAX_ROUND: Duration = Duration::from_secs(20);
/// Timeout of the shutdown.
const MAX_END: Duration = Duration::from_secs(3);

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the webhook.
    pub namespace: String,
    /// The name of the replica's pod, which is unique among the replicas.
    pub instance: String,
    /// A directory with `tls.crt` and `tls.key` that another component keeps current, such as a mounted Secret of
    /// cert-manager. If it is set, no certificate is issued and no bundle is proposed.
    pub certificates_folder: Option<PathBuf>,
}

/// Why a round failed. It is retried after a pause.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A certificate could not be issued.
    #[error(transparent)]
    Certificate(#[from] webhook_certs::CertificateError),
    /// The state could not be serialized.
    #[error("failed to write the state of the authorities: {0}")]
    State(#[from] webhook_certs::StateError),
    /// A certificate cannot be served.
    #[error(transparent)]
    Unusable(#[from] ServingError),
    /// The directory with the certificates cannot be used.
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    /// The API server did not respond in time.
    #[error("the API server did not answer within {} s", MAX_ROUND.as_secs())]
    Slow,
}

/// Sets `certificates` and publishes `bundles` until `token` is cancelled. It retries failures indefinitely.
pub async fn run(
    client: Client,
    settings: Settings,
    certificates: Arc<Certificates>,
    bundles: watch::Sender<Vec<String>>,
    token: CancellationToken,
) {
    run_by_clock(client, settings, certificates, bundles, token, Timestamp::now).await;
}

/// [`run`], with another clock.
async fn run_by_clock(
    client: Client,
    settings: Settings,
    certificates: Arc<Certificates>,
    bundles: watch::Sender<Vec<String>>,
    token: CancellationToken,
    clock: impl Fn() -> Timestamp + Send + Sync,
) {
    let secret = settings.certificates_folder.is_none().then_some((settings.namespace.as_str(), AUTHORITY));
    let changes = bundles::changes::<Secret>(&client, WEBHOOK, secret);
    let mut replica = Replica::new(client.clone(), &settings, certificates, bundles, clock);
    rounds(&mut replica, changes, &token).await;
    replica.end().await;
}

/// A process that runs in rounds.
trait Round {
    /// Reads everything once, and takes the step that is due. Returns how long no step will be due.
    fn round(&mut self) -> impl Future<Output = Result<Duration, TrustError>> + Send;
}

/// Runs a round after each change, and when the previous round requested it. It retries failures indefinitely.
async fn rounds(part: &mut impl Round, changes: impl Stream<Item = ()>, token: &CancellationToken) {
    let mut changes = pin!(changes);
    let mut failures = 0_u32;
    while !token.is_cancelled() {
        let begun = Instant::now();
        let result = timeout(MAX_ROUND, part.round()).await.unwrap_or(Err(TrustError::Slow));
        let pause = match result {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(MAX_PAUSE);
                failures = failures.saturating_add(1);
                tracing::warn!("maintaining the certificates failed, retrying in {} s: {error}", pause.as_secs());
                pause
            }
        };
        // After a failure changes are ignored, because a round that failed due to the API server's state would fail
        // again.
        let next_change = async { if failures == 0 { changes.next().await } else { std::future::pending().await } };
        tokio::select! {
            () = token.cancelled() => break,
            _ = next_change => {}
            () = sleep(pause) => {}
        }
        tokio::select! {
            () = token.cancelled() => break,
            () = sleep_until(begun + SHORTEST_PAUSE) => {}
        }
        while changes.next().now_or_never().flatten().is_some() {}
    }
}

/// The source of certificates.
enum Source {
    /// The webhook's own authority.
    Authority(Box<Authority>),
    /// A directory.
    Folder(Folder),
}

/// One replica.
struct Replica<Clock> {
    client: Client,
    source: Source,
    certificates: Arc<Certificates>,
    bundles: watch::Sender<Vec<String>>,
    clock: Clock,
}

impl<Clock: Fn() -> Timestamp + Send + Sync> Round for Replica<Clock> {
    async fn round(&mut self) -> Result<Duration, TrustError> {
        match &mut self.source {
            Source::Folder(folder) => {
                // The bundles are published even if the directory cannot be read.
                let taken = folder.take(&self.certificates);
                observe(&self.client, &self.bundles).await?;
                Ok(taken?)
            }
            Source::Authority(authority) => {
                authority.renew_lease((self.clock)()).await;
                let configurations = observe(&self.client, &self.bundles).await?;
                authority.round(&configurations, &self.certificates, &self.clock).await
            }
        }
    }
}

impl<Clock> Replica<Clock> {
    fn new(
        client: Client,
        settings: &Settings,
        certificates: Arc<Certificates>,
        bundles: watch::Sender<Vec<String>>,
        clock: Clock,
    ) -> Self {
        let source = match &settings.certificates_folder {
            Some(folder) => Source::Folder(Folder::new(folder.clone())),
            None => Source::Authority(Box::new(Authority::new(&client, settings))),
        };
        Self { client, source, certificates, bundles, clock }
    }

    async fn end(self) {
        if let Source::Authority(authority) = self.source
            && timeout(MAX_END, authority.end()).await.is_err()
        {
            tracing::warn!("the lease could not be released in time; the other replicas wait until it expires");
        }
    }
}

/// Reads the webhook configurations, and publishes their bundles.
async fn observe(client: &Client, bundles: &watch::Sender<Vec<String>>) -> Result<Vec<Configuration>, TrustError> {
    let configurations = bundles::configurations(client, WEBHOOK).await?;
    let found: Vec<String> = configurations.iter().flat_map(Configuration::bundles).map(str::to_owned).collect();
    bundles.send_if_modified(|known| {
        let is_new = *known != found;
        *known = found;
        is_new
    });
    Ok(configurations)
}

//! Keeps the webhook trusted: what a replica serves with, and what the API server trusts it by, through rotations and
//! whatever happens to the objects that hold them.
//!
//! Each round reads everything anew and takes at most one step, so that nothing has to be remembered: a deleted or damaged
//! Secret, a bundle that somebody wiped, a clock that jumped and an API server that was away are all just found. Watches
//! only say when to look; without them it looks every few seconds.
//!
//! A replica writes no webhook configuration. It proposes a bundle, and a process with an account of its own ([`run_writer`])
//! writes that and nothing else: who takes over the webhook does not choose what is sent to it.
//!
//! It must not know how connections are served. No key is ever logged.

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
    build::manifests::{AUTHORITY, WEBHOOK},
    cluster::{
        bundles::{self, Configuration},
        call::CallError,
    },
};

/// The shortest pause between two rounds, whatever is heard.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The pause after the first failure in a row; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A round is over after this long, with whatever came of it.
const LONGEST_ROUND: Duration = Duration::from_secs(20);
/// How long the end may take.
const LONGEST_END: Duration = Duration::from_secs(3);

/// What the trust of one replica is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the webhook.
    pub namespace: String,
    /// The replica's own name among all replicas: the name of its pod.
    pub instance: String,
    /// A folder with `tls.crt` and `tls.key` that somebody else keeps fresh, such as a mounted Secret of cert-manager. With
    /// it no certificate is issued, and no bundle proposed.
    pub certificates_folder: Option<PathBuf>,
}

/// Why a round failed; the next one comes after a pause.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    /// A call to the API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] webhook_certs::CertificateError),
    /// What is to be stored cannot be written.
    #[error("failed to write the state of the authorities: {0}")]
    State(#[from] webhook_certs::StateError),
    /// A certificate that cannot be served with.
    #[error(transparent)]
    Unusable(#[from] ServingError),
    /// The folder of the certificates.
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {} s", LONGEST_ROUND.as_secs())]
    Slow,
}

/// Sets `certificates` and tells `bundles` for as long as `token` is not cancelled. It never gives up.
pub async fn run(
    client: Client,
    settings: Settings,
    certificates: Arc<Certificates>,
    bundles: watch::Sender<Vec<String>>,
    token: CancellationToken,
) {
    run_by_clock(client, settings, certificates, bundles, token, Timestamp::now).await;
}

/// [`run`], by another clock.
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

/// What is done in rounds.
trait Round {
    /// Looks at everything once, and takes the step that is due. Tells how long nothing will be due.
    fn round(&mut self) -> impl Future<Output = Result<Duration, TrustError>> + Send;
}

/// Makes a round after each change, and when the one before has said so. It never gives up.
async fn rounds(part: &mut impl Round, changes: impl Stream<Item = ()>, token: &CancellationToken) {
    let mut changes = pin!(changes);
    let mut failures = 0_u32;
    while !token.is_cancelled() {
        let begun = Instant::now();
        let result = timeout(LONGEST_ROUND, part.round()).await.unwrap_or(Err(TrustError::Slow));
        let pause = match result {
            Ok(pause) => {
                failures = 0;
                pause
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
                failures = failures.saturating_add(1);
                tracing::warn!("the certificates are looked at again in {} s: {error}", pause.as_secs());
                pause
            }
        };
        // After a failure what is heard changes nothing: whoever fails because of the API server's state would only fail
        // again.
        let heard = async { if failures == 0 { changes.next().await } else { std::future::pending().await } };
        tokio::select! {
            () = token.cancelled() => break,
            _ = heard => {}
            () = sleep(pause) => {}
        }
        tokio::select! {
            () = token.cancelled() => break,
            () = sleep_until(begun + SHORTEST_PAUSE) => {}
        }
        while changes.next().now_or_never().flatten().is_some() {}
    }
}

/// Where certificates come from.
enum Source {
    /// From our own authority.
    Authority(Box<Authority>),
    /// From a folder.
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
                // The bundles are worth telling even if the folder cannot be read.
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
            && timeout(LONGEST_END, authority.end()).await.is_err()
        {
            tracing::warn!("the lease could not be given back in time; the others wait for its end");
        }
    }
}

/// The webhook configurations, of whose bundles everybody is told.
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

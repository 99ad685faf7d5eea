//! The admission webhook: what pods get when they are made, and what is refused to whoever writes workloads and our objects.
//!
//! It must not decide anything itself on pods; `inject` does. It reads no Secret of others, no pod and no workload from the
//! cluster, writes nothing because of a review, and so says the same to a dry run.
//!
//! A request's way: `serve` (connections, TLS) -> `router` (paths, how much is read) -> `review` (the API server's form) ->
//! `decision` (with `inject` and `validate`) -> `review`. Beside it, `trust` keeps the certificate that is served with.

pub mod certificates;
pub mod decision;
pub mod metrics;
pub mod readiness;
pub mod repositories;
pub mod review;
pub mod router;
pub mod serve;
pub mod trust;
pub mod validate;

use std::{future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use rustls::pki_types::InvalidDnsNameError;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use certificates::{Bundles, Certificates};
use metrics::Metrics;
use readiness::{Readiness, SelfCall};
use repositories::Repositories;
use router::Admission;
use serve::{Limits, Server};

/// What the webhook is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Reference of our image, for what is put into pods.
    pub image: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// Name of its Service there.
    pub service: String,
    /// Name of its own pod, which no other replica has.
    pub instance: String,
    /// Where the API server calls it.
    pub port: u16,
    /// Where kubelet and Prometheus ask.
    pub health_port: u16,
    /// How long it serves after it was told to end; by then every API server has heard of it.
    pub drain: Duration,
    /// Where certificate and key lie as files, kept up to date by somebody else; it makes its own without.
    pub certificates_folder: Option<PathBuf>,
}

impl Settings {
    /// The name by which the API server calls, and which the certificate has to be for.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Neither a kubeconfig nor the files of a pod are there.
    #[error("failed to find the cluster: {0}; set KUBECONFIG, or run in a pod")]
    Client(#[from] kube::Error),
    /// A port cannot be listened on.
    #[error("failed to listen on port {port}: {source}; choose another one by --port or --health-port")]
    Listen {
        /// Which one.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Service and namespace make no name.
    #[error("{name:?} is no server name; set --service and POD_NAMESPACE")]
    Name {
        /// What they make.
        name: String,
        /// Why.
        #[source]
        source: InvalidDnsNameError,
    },
    /// TLS cannot be set up.
    #[error("failed to set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Runs until `shutdown` is ready, and what is being asked then, and for a while after, is answered.
///
/// # Errors
/// When no cluster is configured, or a port is taken. A cluster that does not answer is waited for.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
    let client = Client::try_default().await?;
    let listen = async |port| serve::listen(port).await.map_err(|source| WebhookError::Listen { port, source });
    let serving = Serving {
        admission: listen(settings.port).await?,
        health: listen(settings.health_port).await?,
        image: settings.image.clone(),
        server_name: settings.server_name(),
        certificates: Certificates::new(),
        repositories: Arc::default(),
        limits: Limits::default(),
        drain: settings.drain,
    };
    let end = CancellationToken::new();
    let (sender, bundles) = watch::channel(Vec::new());
    let trust = trust::Settings {
        namespace: settings.namespace,
        instance: settings.instance,
        certificates_folder: settings.certificates_folder,
    };
    let trust = trust::run(client.clone(), trust, serving.certificates.clone(), sender, end.clone());
    let repositories = serving.repositories.clone();
    let follow = repositories.follow(client, end.clone());
    let serve = async {
        let result = serve(serving, bundles, shutdown).await;
        end.cancel();
        result
    };
    let ((), (), result) = tokio::join!(follow, trust, serve);
    result
}

/// All that serving needs; nothing of it is the cluster's.
pub struct Serving {
    /// Where the API server calls.
    pub admission: TcpListener,
    /// Where kubelet and Prometheus ask.
    pub health: TcpListener,
    /// See [`Settings::image`].
    pub image: String,
    /// See [`Settings::server_name`].
    pub server_name: String,
    /// What is shown to whoever connects.
    pub certificates: Arc<Certificates>,
    /// What is known of the Repositories.
    pub repositories: Arc<Repositories>,
    /// How long connections may take.
    pub limits: Limits,
    /// See [`Settings::drain`].
    pub drain: Duration,
}

/// Serves until `shutdown` is ready. Then readiness goes off at once, and for the time of `drain` everything is answered as
/// before, but each answer closes its connection; after that nothing more is accepted, and what is in flight is finished.
///
/// # Errors
/// When the server's name is none.
pub async fn serve(serving: Serving, bundles: Bundles, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
    let Serving { admission, health, image, server_name, certificates, repositories, limits, drain } = serving;
    let port = admission.local_addr().map_err(|source| WebhookError::Listen { port: 0, source })?.port();
    let call =
        SelfCall::new(port, &server_name).map_err(|source| WebhookError::Name { name: server_name.clone(), source })?;
    let metrics = Arc::new(Metrics::new(certificates.clone()));
    let readiness = Readiness::new(repositories.synced());
    let leaving = readiness.leaving();
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let admission = Server {
        listener: admission,
        tls: Some(serve::tls(certificates)?),
        router: router::admission(Admission::new(image, repositories, metrics.clone())),
        metrics: Some(metrics.clone()),
        limits,
        leaving: leaving.clone(),
    };
    let health = Server {
        listener: health,
        tls: None,
        router: router::health(readiness.clone(), metrics),
        metrics: None,
        limits,
        leaving,
    };
    let shutdown = async {
        shutdown.await;
        tracing::info!("shutting down");
        readiness.leave();
        sleep(drain).await;
        stop.cancel();
    };
    let admission = async {
        admission.run(stop.clone()).await;
        end.cancel();
    };
    let verified = readiness.keep_verified(call, bundles, end.clone());
    tokio::join!(admission, health.run(end.clone()), verified, shutdown);
    Ok(())
}

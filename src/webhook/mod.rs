//! The admission webhook. It injects containers into pods when they are created, and refuses invalid workloads and
//! objects of Stowaway.
//!
//! `inject` makes the decisions about pods. The webhook reads no Secrets of other parties, no pods and no workloads
//! from the cluster. A review causes no writes, so the answer to a dry run is the same.
//!
//! The path of a request: `serve` (connections, TLS) -> `router` (paths, limits of size and time) -> `review` (the API
//! server's format) -> `decision` (with `inject` and `validate`) -> `review`. Independently, `trust` maintains the
//! serving certificate.

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

use rustls::pki_types::InvalidDnsNameError;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::client::{self, Component};

use certificates::{Bundles, Certificates};
use metrics::Metrics;
use readiness::{Readiness, SelfCall};
use repositories::Repositories;
use router::Admission;
use serve::{Limits, Server};

/// The webhook's settings at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image reference of the injected containers.
    pub image: String,
    /// The namespace in which the webhook runs.
    pub namespace: String,
    /// Name of the webhook's Service in that namespace.
    pub service: String,
    /// Name of the webhook's own pod, which is unique among the replicas.
    pub instance: String,
    /// Port on which the API server connects.
    pub port: u16,
    /// Port on which the kubelet and Prometheus connect.
    pub health_port: u16,
    /// How long the webhook serves after the end signal. By then every API server has removed this replica from the
    /// endpoints.
    pub drain: Duration,
    /// Directory with certificate and key as files, which another component keeps up to date. Without it the webhook
    /// issues its own.
    pub certificates_folder: Option<PathBuf>,
}

impl Settings {
    /// The host name with which the API server connects, and for which the certificate must be valid.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// There is neither a kubeconfig nor the service account files of a pod.
    #[error("failed to find the cluster: {0}; set KUBECONFIG, or run in a pod")]
    Client(#[from] kube::Error),
    /// Listening on a port failed.
    #[error("failed to listen on port {port}: {source}; choose another port by --port or --health-port")]
    Listen {
        /// The port.
        port: u16,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Service and namespace do not make a valid host name.
    #[error("{name:?} is not a valid host name; set --service and POD_NAMESPACE")]
    Name {
        /// The invalid name.
        name: String,
        /// The cause.
        #[source]
        source: InvalidDnsNameError,
    },
    /// TLS cannot be set up.
    #[error("failed to set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Runs until `shutdown` is ready, and then drains: requests that arrive during the drain are still answered.
///
/// # Errors
/// When no cluster is configured, or a port is in use. An unreachable cluster is not an error; the webhook waits for
/// it.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), WebhookError> {
    let client = client::connect(Component::Webhook).await?;
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

/// The parts that serving needs. None of them is a connection to the cluster.
pub struct Serving {
    /// Listener for the API server.
    pub admission: TcpListener,
    /// Listener for the kubelet and Prometheus.
    pub health: TcpListener,
    /// See [`Settings::image`].
    pub image: String,
    /// See [`Settings::server_name`].
    pub server_name: String,
    /// The serving certificate.
    pub certificates: Arc<Certificates>,
    /// The cached Repositories.
    pub repositories: Arc<Repositories>,
    /// Limits of connections.
    pub limits: Limits,
    /// See [`Settings::drain`].
    pub drain: Duration,
}

/// Serves until `shutdown` is ready. Then readiness is withdrawn at once. During `drain` every request is still
/// answered, but each answer closes its connection. After that no connection is accepted, and requests in flight are
/// finished.
///
/// # Errors
/// When the server name is invalid.
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

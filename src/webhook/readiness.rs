//! Readiness of a replica: it is ready only if a call like the API server's has just succeeded. The call connects to
//! the replica's own listener with the name of the Service, and trusts exactly the bundles which the webhook
//! configurations in the cluster hold now. So the API server never calls a replica whose certificate it would refuse.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{certificates::Bundles, serve::PROTOCOL};

/// Timeout of the call.
const DEADLINE: Duration = Duration::from_secs(5);
/// The interval at which the call is repeated after a success.
const RECHECK: Duration = Duration::from_secs(10);
/// The pause after the first failed call, and the longest pause. Each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Larger than any answer to the call.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// A review that every version answers, and that no metric counts.
const SELF_REVIEW: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"self","dryRun":true,"kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"containers":[{"name":"a"}]}}}}"#;

/// The conditions of readiness.
#[derive(Debug)]
pub struct Readiness {
    synced: watch::Receiver<bool>,
    verified: watch::Sender<bool>,
    leaving: Arc<AtomicBool>,
}

impl Readiness {
    /// Not ready. `synced`: whether the Repositories were listed.
    pub fn new(synced: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { synced, verified: watch::Sender::new(false), leaving: Arc::default() })
    }

    /// The reason why the replica is not ready; none if it is ready.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.leaving.load(Ordering::Relaxed) {
            return Some("shutting down");
        }
        if !*self.verified.borrow() {
            return Some("a call of this server, as the API server would make it, has not succeeded yet");
        }
        (!*self.synced.borrow()).then_some("the Repositories have not been listed yet")
    }

    /// Withdraws readiness for good. From now on every answer closes its connection.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// The flag that [`Self::leave`] sets.
    pub(super) fn leaving(&self) -> Arc<AtomicBool> {
        self.leaving.clone()
    }

    /// Whether the last call succeeded, as a channel to wait on.
    pub fn verified(&self) -> watch::Receiver<bool> {
        self.verified.subscribe()
    }

    /// Repeats the call until `end`. A changed bundle triggers a call at once.
    pub(super) async fn keep_verified(&self, call: SelfCall, mut bundles: Bundles, end: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut reported = String::new();
        loop {
            let known = bundles.borrow_and_update().clone();
            let wait = match call.verify(&known).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    if !self.verified.send_replace(true) {
                        tracing::info!("the webhook configurations trust the certificate; ready");
                        reported.clear();
                    }
                    RECHECK
                }
                Err(error) => {
                    self.verified.send_replace(false);
                    let error = error.to_string();
                    if reported != error {
                        tracing::warn!("not ready: {error}");
                        reported = error;
                    }
                    let wait = pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                    wait
                }
            };
            let changed = async {
                // The sender is gone, so the last bundles stay.
                if bundles.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
                () = end.cancelled() => return,
            }
        }
    }
}

/// Why the call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SelfCallError {
    /// No bundle was published, or none was read yet.
    #[error("the bundles of the webhook configurations are not known yet")]
    NoBundles,
    /// The bundle of a webhook entry holds no certificate.
    #[error("a caBundle of the webhook configurations is empty or cannot be read")]
    EmptyBundle,
    /// TLS could not be set up.
    #[error("failed to set up TLS for the call of this server: {0}")]
    Setup(#[from] rustls::Error),
    /// No connection, or an untrusted certificate.
    #[error("the call of this server failed: {0}")]
    Call(#[from] io::Error),
    /// The call timed out.
    #[error("the call of this server took longer than {} s", DEADLINE.as_secs())]
    Timeout,
    /// The response is not a review.
    #[error("the call of this server was not answered with a review")]
    Answer,
}

/// A call like the API server's.
pub(super) struct SelfCall {
    port: u16,
    name: ServerName<'static>,
}

impl fmt::Debug for SelfCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SelfCall").field("port", &self.port).finish_non_exhaustive()
    }
}

impl SelfCall {
    /// A call to the listener at this port of this machine, with the host name `<service>.<namespace>.svc`.
    ///
    /// # Errors
    /// When the host name is invalid.
    pub fn new(port: u16, name: &str) -> Result<Self, InvalidDnsNameError> {
        Ok(Self { port, name: ServerName::try_from(name)?.to_owned() })
    }

    /// Makes one call per distinct bundle.
    async fn verify(&self, bundles: &[String]) -> Result<(), SelfCallError> {
        if bundles.is_empty() {
            return Err(SelfCallError::NoBundles);
        }
        for (index, bundle) in bundles.iter().enumerate() {
            if !bundles[..index].contains(bundle) {
                timeout(DEADLINE, self.call(bundle)).await.map_err(|_| SelfCallError::Timeout)??;
            }
        }
        Ok(())
    }

    async fn call(&self, bundle: &str) -> Result<(), SelfCallError> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(bundle.as_bytes());
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        if roots.is_empty() {
            return Err(SelfCallError::EmptyBundle);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config =
            builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        let stream = self.connect().await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(self.name.clone(), stream).await?;
        let head = format!(
            "POST /pods HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            SELF_REVIEW.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(SELF_REVIEW.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 200") && answer.contains(r#""uid":"self","allowed":true"#) {
            return Ok(());
        }
        Err(SelfCallError::Answer)
    }

    /// Connects to the loopback address of either family, because a pod may have only one of them.
    async fn connect(&self) -> io::Result<TcpStream> {
        let to = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, self.port));
        match to(Ipv4Addr::LOCALHOST.into()).await {
            Ok(stream) => Ok(stream),
            Err(_) => to(Ipv6Addr::LOCALHOST.into()).await,
        }
    }
}

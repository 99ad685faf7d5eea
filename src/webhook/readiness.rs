//! Whether the API server should send us anything: only when a call as it makes one has just succeeded.
//!
//! It must not know who makes the certificates, nor where bundles come from. The call goes through our own listener, with
//! the name of the Service, and trusts exactly what the webhook configurations in the cluster say now. So a replica with a
//! certificate that the API server would refuse is never called.

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

/// How long the call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often what holds is looked at again.
const RECHECK: Duration = Duration::from_secs(10);
/// The pause after a call that failed, and the longest one; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// More than the answer has.
const MAXIMUM_ANSWER_BYTES: u64 = 64 * 1024;
/// A question that every version answers, and that counts nowhere.
const QUESTION: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"self","dryRun":true,"kind":{"group":"","version":"v1","kind":"Pod"},"operation":"CREATE","object":{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"containers":[{"name":"a"}]}}}}"#;

/// What has to hold before we are called.
#[derive(Debug)]
pub struct Readiness {
    synced: watch::Receiver<bool>,
    verified: watch::Sender<bool>,
    leaving: Arc<AtomicBool>,
}

impl Readiness {
    /// Nothing is known yet but whether the Repositories are.
    pub fn new(synced: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self { synced, verified: watch::Sender::new(false), leaving: Arc::default() })
    }

    /// What stands in the way; none when we are ready.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.leaving.load(Ordering::Relaxed) {
            return Some("shutting down");
        }
        if !*self.verified.borrow() {
            return Some("a call of this server, as the API server would make it, has not succeeded yet");
        }
        (!*self.synced.borrow()).then_some("the Repositories have not been listed yet")
    }

    /// Never ready again: from now on every answer closes its connection.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// What [`Self::leave`] sets.
    pub(super) fn leaving(&self) -> Arc<AtomicBool> {
        self.leaving.clone()
    }

    /// Whether the last call succeeded; for those who wait for it.
    pub fn verified(&self) -> watch::Receiver<bool> {
        self.verified.subscribe()
    }

    /// Calls again and again until it is told to end; at once when a bundle has changed.
    pub(super) async fn keep_verified(&self, call: SelfCall, mut bundles: Bundles, end: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        loop {
            let known = bundles.borrow_and_update().clone();
            let wait = match call.verify(&known).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    if !self.verified.send_replace(true) {
                        tracing::info!("the certificate is trusted by what the cluster has; ready");
                        told.clear();
                    }
                    RECHECK
                }
                Err(error) => {
                    self.verified.send_replace(false);
                    let error = error.to_string();
                    if told != error {
                        tracing::warn!("not ready: {error}");
                        told = error;
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            let changed = async {
                // Nobody publishes bundles any more: what was last known stays.
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
    /// Nothing was published, or it was not read yet.
    #[error("what the webhook configurations trust is not known yet")]
    NoBundles,
    /// A webhook entry trusts nothing.
    #[error("a caBundle of the webhook configurations is empty or cannot be read")]
    EmptyBundle,
    /// TLS cannot be set up.
    #[error("the call cannot be made: {0}")]
    Setup(#[from] rustls::Error),
    /// No connection, or a certificate that is not trusted.
    #[error("the call of this server failed: {0}")]
    Call(#[from] io::Error),
    /// Too slow.
    #[error("the call of this server took longer than {} s", DEADLINE.as_secs())]
    Timeout,
    /// Something else answers.
    #[error("the call of this server was not answered by a review")]
    Answer,
}

/// A call as the API server makes one.
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
    /// To the listener at that port of this machine, by the name `<service>.<namespace>.svc`.
    ///
    /// # Errors
    /// When that is no name.
    pub fn new(port: u16, name: &str) -> Result<Self, InvalidDnsNameError> {
        Ok(Self { port, name: ServerName::try_from(name)?.to_owned() })
    }

    /// Calls once for each different bundle.
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
            QUESTION.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(QUESTION.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.take(MAXIMUM_ANSWER_BYTES).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 200") && answer.contains(r#""uid":"self","allowed":true"#) {
            return Ok(());
        }
        Err(SelfCallError::Answer)
    }

    /// To the loopback address of either family: a pod may have but one of them.
    async fn connect(&self) -> io::Result<TcpStream> {
        let to = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, self.port));
        match to(Ipv4Addr::LOCALHOST.into()).await {
            Ok(stream) => Ok(stream),
            Err(_) => to(Ipv6Addr::LOCALHOST.into()).await,
        }
    }
}

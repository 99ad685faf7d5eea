//! One listener: accepts a limited number of connections, and shuts down gracefully.
//!
//! A client that is slow or silent does not affect others. Each connection is a task with a deadline in every phase.
//! When the maximum number of connections is reached, the connection that has waited longest without a request is
//! closed.

mod connection;

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use futures::FutureExt;
use rustls::{ServerConfig, crypto::ring, server::ResolvesServerCert};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{self, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use connection::Connection;

/// The protocol that the API server uses with webhooks. HTTP/2 is not offered, so that it spreads its calls over all
/// replicas.
pub(super) const PROTOCOL: &[u8] = b"http/1.1";
/// The pause after a failed accept (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

/// Deadlines of a connection, and the maximum number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head. The router has the deadline of the body.
    pub head: Duration,
    /// For a request as a whole: a backstop for the router's own deadline.
    pub request: Duration,
    /// For the client to receive an answer.
    pub answer: Duration,
    /// Between two requests. Longer than the 90 s after which the API server itself closes idle connections, because a
    /// request on a connection that is just being closed fails.
    pub idle: Duration,
    /// For requests in flight after the listener is closed.
    pub end: Duration,
    /// Maximum number of connections.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(5),
            request: Duration::from_secs(10),
            answer: Duration::from_secs(5),
            idle: Duration::from_mins(2),
            end: Duration::from_secs(5),
            connections: 1024,
        }
    }
}

/// A listener, and the state that its connections share.
pub(super) struct Server {
    pub listener: TcpListener,
    /// Without it, the server uses plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub router: Router,
    /// Only connections of the API server are counted.
    pub metrics: Option<Arc<Metrics>>,
    pub limits: Limits,
    /// While this is set, every answer closes its connection.
    pub leaving: Arc<AtomicBool>,
}

impl Server {
    /// Accepts connections until `stop`, and then lets open connections finish.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut open: HashMap<task::Id, Arc<Connection>> = HashMap::new();
        loop {
            let has_room = open.len() < self.limits.connections;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    open.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
                }
                accepted = self.listener.accept(), if has_room => match accepted {
                    Ok((stream, _)) => {
                        self.spawn(stream, &stop, &mut tasks, &mut open);
                        if open.len() >= self.limits.connections {
                            connection::shed(open.values());
                        }
                    }
                    Err(error) => {
                        tracing::warn!("a connection was not accepted: {error}");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        // Clients that are already in the queue connected while this server was still ready.
        while let Some(Ok((stream, _))) = self.listener.accept().now_or_never() {
            self.spawn(stream, &stop, &mut tasks, &mut open);
        }
        drop(self.listener);
        let rest = async { while tasks.join_next().await.is_some() {} };
        if timeout(self.limits.end, rest).await.is_err() {
            tracing::warn!("{} connections were closed before they had finished", tasks.len());
        }
    }

    fn spawn(
        &self,
        stream: TcpStream,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
        open: &mut HashMap<task::Id, Arc<Connection>>,
    ) {
        let connection = Arc::new(Connection::new(self.limits, self.leaving.clone(), self.metrics.clone()));
        let run = connection.clone().run(stream, self.tls.clone(), self.router.clone(), stop.clone());
        open.insert(tasks.spawn(run).id(), connection);
    }
}

/// TLS 1.2 and 1.3 with AEAD ciphers only (the library has no others), and the certificate that `certificates` holds at
/// the time of a handshake. Sessions are never resumed, so that each handshake presents the current certificate.
///
/// # Errors
/// Never in practice, because the versions are known.
pub(super) fn tls(certificates: Arc<dyn ResolvesServerCert>) -> Result<TlsAcceptor, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Listens on all addresses of both families, or of one family if the machine has only one.
///
/// # Errors
/// When the port is in use, or not permitted.
pub(super) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

/// Whether answers close their connections.
pub(super) fn is_leaving(leaving: &AtomicBool) -> bool {
    leaving.load(Ordering::Relaxed)
}

//! The real server on the loopback interface, and a client which sends raw bytes, so that it can be slow, silent, or
//! stop in the middle of a request.

use std::{sync::Arc, time::Duration};

use futures::stream;
use jiff::Timestamp;
use kube::{api::DynamicObject, runtime::watcher::Event};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use stowaway::webhook::{Serving, certificates::Certificates, repositories::Repositories, serve, serve::Limits};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use webhook_certs::Authority;

use crate::injection::IMAGE;

/// The name in the certificates.
pub const NAME: &str = "stowaway-webhook.stowaway-system.svc";
/// The time limit of each operation of a test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    pub port: u16,
    pub health_port: u16,
    pub certificates: Arc<Certificates>,
    pub repositories: Arc<Repositories>,
    pub bundles: watch::Sender<Vec<String>>,
    pub authority: Authority,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server with a certificate of its own authority.
    pub async fn start(limits: Limits, drain: Duration) -> Self {
        let server = Self::without_certificate(limits, drain).await;
        server.issue(&server.authority);
        server
    }

    pub async fn without_certificate(limits: Limits, drain: Duration) -> Self {
        let (admission, health) = (listener().await, listener().await);
        let (port, health_port) = (admission.local_addr().unwrap().port(), health.local_addr().unwrap().port());
        let (bundles, known) = watch::channel(Vec::new());
        let (shutdown, requested) = oneshot::channel();
        let (certificates, repositories) = (Certificates::new(), Arc::<Repositories>::default());
        let serving = Serving {
            admission,
            health,
            image: IMAGE.to_owned(),
            server_name: NAME.to_owned(),
            certificates: certificates.clone(),
            repositories: repositories.clone(),
            limits,
            drain,
        };
        let task = tokio::spawn(async move {
            let requested = async { drop(requested.await) };
            serve(serving, known, requested).await.unwrap();
        });
        Self {
            port,
            health_port,
            certificates,
            repositories,
            bundles,
            authority: authority(),
            shutdown: Some(shutdown),
            task,
        }
    }

    /// Serves a new leaf certificate of this authority from now on.
    pub fn issue(&self, authority: &Authority) {
        let leaf = authority.issue_leaf(&[NAME.to_owned()], Timestamp::now()).unwrap();
        self.certificates.set(leaf.certificate(), leaf.key()).unwrap();
    }

    /// Delivers an empty list of Repositories, so that the server counts as synchronized.
    pub async fn sync(&self) {
        let events = [Event::Init, Event::<DynamicObject>::InitDone].map(Ok::<_, String>);
        self.repositories.keep(stream::iter(events)).await;
    }

    pub async fn connect(&self) -> Client<TlsStream<TcpStream>> {
        self.connect_trusting(&self.authority).await.unwrap()
    }

    pub async fn connect_trusting(&self, authority: &Authority) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        connect(self.port, config(authority)).await
    }

    /// Connects to the admission port without TLS.
    pub async fn connect_raw(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Status and body of a path of the health port.
    pub async fn health(&self, path: &str) -> (u16, String) {
        let mut client = Client(TcpStream::connect(("127.0.0.1", self.health_port)).await.unwrap());
        let answer = client.exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        (answer.status, answer.body)
    }

    /// Repeats the request until the body contains this.
    pub async fn becomes(&self, path: &str, expected: &str) {
        let until = async { while !self.health(path).await.1.contains(expected) {} };
        timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("{path} never returns {expected:?}"));
    }

    /// Starts the shutdown.
    pub fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has ended.
    pub async fn ended(self) {
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap()
}

pub fn authority() -> Authority {
    Authority::issue("test", Timestamp::now()).unwrap()
}

/// A TLS configuration which trusts this authority, as the API server does.
pub fn config(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(
        CertificateDer::pem_slice_iter(authority.certificate().as_bytes()).map(Result::unwrap),
    );
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config =
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

pub async fn connect(port: u16, config: ClientConfig) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(NAME).unwrap();
    Ok(Client(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

pub struct Client<S>(pub S);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub closes: bool,
    pub body: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Sends these bytes, and reads one answer.
    pub async fn exchange(&mut self, bytes: &[u8]) -> std::io::Result<Answer> {
        self.send(bytes).await?;
        self.answer().await
    }

    /// Sends a review of a pod.
    pub async fn admit(&mut self) -> std::io::Result<Answer> {
        self.exchange(&question()).await
    }

    pub async fn answer(&mut self) -> std::io::Result<Answer> {
        timeout(PATIENCE, self.read()).await.expect("no answer")
    }

    async fn read(&mut self) -> std::io::Result<Answer> {
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            bytes.push(self.0.read_u8().await?);
        };
        let head = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0").parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            closes: head.contains("connection: close"),
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// Waits until the server closes the connection, whatever it sends before.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset counts as the end.
        let _ended = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the connection is never closed");
    }
}

/// A whole request with the review of a pod which gets the helper.
pub fn question() -> Vec<u8> {
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "annotations": { "stowaway.dev/backupcommand": "dump" } },
        "spec": { "containers": [{ "name": "press" }] },
    });
    request(&super::creation(&pod).to_string())
}

/// A whole request with this body.
pub fn request(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "POST /pods?timeout=3s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length";
    format!("{head}: {length}\r\n\r\n{body}").into_bytes()
}

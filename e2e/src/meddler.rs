//! A man-in-the-middle proxy for exec connections. It terminates TLS with a certificate of its own authority, and
//! drops, duplicates, reorders, changes or delays single messages of the command's stdout, or reports a success that
//! did not happen.
//!
//! It implements just enough of HTTP and WebSocket (RFC 6455, section 5.2) to find the messages of one channel. No
//! network does such things by itself, but the proof of a stream must not depend on that.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::config::{AuthInfo, Kubeconfig};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webhook_certs::Authority;

use crate::Namespace;

/// The manipulation of the messages of stdout, which are counted from 0 over all connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tampering {
    /// All messages pass unchanged.
    Nothing,
    /// The connection is cut instead of forwarding that message.
    Cut(u64),
    /// That message is replaced by the status of a successful command and an orderly close of the connection.
    FakeSuccess(u64),
    /// That message is dropped.
    Lose(u64),
    /// That message is sent twice.
    Double(u64),
    /// That message is sent after its successor.
    Swap(u64),
    /// One bit of that message is flipped.
    Change(u64),
    /// That message, and with it all later ones, is delayed.
    Delay(u64, Duration),
}

/// A running proxy. Dropping it cuts all connections.
pub struct MitmProxy {
    kubeconfig: PathBuf,
    messages: Arc<AtomicU64>,
    task: JoinHandle<()>,
    _folder: TempDir,
}

impl MitmProxy {
    /// Starts a proxy between the API server and the clients that use [`MitmProxy::kubeconfig`].
    pub async fn start(namespace: &Namespace, tampering: Tampering) -> Result<Self> {
        let cluster = &namespace.cluster;
        let server = cluster.api_server().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = Authority::issue("mitm-proxy", jiff::Timestamp::now())?;
        let leaf = authority.issue_leaf(&["127.0.0.1".to_owned()], jiff::Timestamp::now())?;
        let key = PrivatePkcs8KeyDer::from(leaf.key().to_vec());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(leaf.certificate().to_vec())], key.into())?;
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let read = Kubeconfig::read_from(&cluster.kubeconfig)?;
        let trusted = authority_of(&read).context("the kubeconfig names no authority of the API server")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&trusted) {
            roots.add(certificate?)?;
        }
        let connector =
            TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()));

        let folder = tempfile::tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let token = namespace.token_of_an_admin().await?;
        let own = own_kubeconfig(read, listener.local_addr()?, authority.certificate(), &token);
        std::fs::write(&kubeconfig, yaml_serde::to_string(&own)?)?;

        let messages = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&messages);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let messages = Arc::clone(&counting);
                // An error ends the connection, and the client reports that.
                connections
                    .spawn(async move { pass(client, server, &acceptor, &connector, tampering, &messages).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { kubeconfig, messages, task, _folder: folder })
    }

    /// A kubeconfig that connects through this proxy, with the token of an administrator of the namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// The number of messages of stdout so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::SeqCst)
    }
}

impl Drop for MitmProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn authority_of(config: &Kubeconfig) -> Option<Vec<u8>> {
    let cluster = config.clusters.first()?.cluster.as_ref()?;
    match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => STANDARD.decode(data).ok(),
        (None, Some(path)) => std::fs::read(path).ok(),
        (None, None) => None,
    }
}

/// Points the kubeconfig at the proxy, and replaces client certificates by a token, because TLS client authentication
/// does not work through a proxy that terminates TLS.
fn own_kubeconfig(mut config: Kubeconfig, address: SocketAddr, authority: &str, token: &str) -> Kubeconfig {
    for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("https://{address}"));
        cluster.certificate_authority = None;
        cluster.certificate_authority_data = Some(STANDARD.encode(authority));
    }
    for user in &mut config.auth_infos {
        user.auth_info = Some(AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() });
    }
    config
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    tampering: Tampering,
    messages: &AtomicU64,
) -> Result<()> {
    let client = acceptor.accept(client).await?;
    let name = ServerName::IpAddress(server.ip().into());
    let upstream = connector.connect(name, TcpStream::connect(server).await?).await?;
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(upstream);
    let upgraded = Notify::new();
    tokio::select! {
        ended = requests(from_client, to_server, &upgraded) => ended,
        ended = responses(from_server, to_client, &upgraded, tampering, messages) => ended,
    }
}

/// Forwards the requests of the client, and notifies `upgraded` when one requests a WebSocket.
async fn requests(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, upgraded: &Notify) -> Result<()> {
    const HEADER: &[u8] = b"upgrade: websocket";
    let mut buffer = vec![0; 64 * 1024];
    let mut seen: Vec<u8> = Vec::new();
    let mut is_upgraded = false;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if !is_upgraded {
            seen.extend(buffer[..count].iter().map(u8::to_ascii_lowercase));
            is_upgraded = seen.windows(HEADER.len()).any(|window| window == HEADER);
            seen.drain(..seen.len().saturating_sub(HEADER.len()));
            if is_upgraded {
                upgraded.notify_one();
            }
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}

/// Forwards the responses of the server, message by message once the connection is a WebSocket.
async fn responses(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    upgraded: &Notify,
    tampering: Tampering,
    messages: &AtomicU64,
) -> Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            biased;
            // The client waits for the response to this request, so no bytes of an earlier response are in transit.
            () = upgraded.notified() => break,
            count = from.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                to.write_all(&buffer[..count]).await?;
                to.flush().await?;
            }
        }
    }
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        header.push(from.read_u8().await?);
    }
    to.write_all(&header).await?;
    to.flush().await?;
    if !header.starts_with(b"HTTP/1.1 101") {
        tokio::io::copy(&mut from, &mut to).await?;
        return Ok(());
    }
    let mut held: Option<Vec<u8>> = None;
    loop {
        let (frame, is_stdout) = frame(&mut from).await?;
        let mut passed = vec![frame];
        if is_stdout {
            let number = messages.fetch_add(1, Ordering::SeqCst);
            match tampering {
                Tampering::Cut(at) if at == number => return Ok(()),
                Tampering::FakeSuccess(at) if at == number => {
                    let status = br#"{"metadata":{},"status":"Success"}"#;
                    let length = u8::try_from(status.len() + 1)?;
                    to.write_all(&[&[0x82, length, 3][..], status, &[0x88, 2, 3, 0xe8]].concat()).await?;
                    to.flush().await?;
                    to.shutdown().await?;
                    return Ok(());
                }
                Tampering::Lose(at) if at == number => passed.clear(),
                Tampering::Double(at) if at == number => passed.push(passed[0].clone()),
                Tampering::Swap(at) if at == number => held = passed.pop(),
                Tampering::Change(at) if at == number => {
                    if let Some(last) = passed[0].last_mut() {
                        *last ^= 1;
                    }
                }
                Tampering::Delay(at, pause) if at == number => tokio::time::sleep(pause).await,
                _ => passed.extend(held.take()),
            }
        }
        for frame in passed {
            to.write_all(&frame).await?;
        }
        to.flush().await?;
    }
}

/// Reads one frame, and returns it unchanged together with whether it carries stdout (channel 1).
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, bool)> {
    let mut frame = vec![from.read_u8().await?, from.read_u8().await?];
    ensure!(frame[1] & 0x80 == 0, "a server does not mask");
    let length = match frame[1] {
        126 => {
            let length = from.read_u16().await?;
            frame.extend(length.to_be_bytes());
            u64::from(length)
        }
        127 => {
            let length = from.read_u64().await?;
            frame.extend(length.to_be_bytes());
            length
        }
        length => u64::from(length),
    };
    if length > 64 << 20 {
        bail!("a frame of {length} bytes");
    }
    let header = frame.len();
    frame.resize(header + usize::try_from(length)?, 0);
    from.read_exact(&mut frame[header..]).await?;
    // An unfragmented binary message, which is the only form that the API server sends.
    let is_stdout = frame[0] == 0x82 && length > 1 && frame[header] == 1;
    Ok((frame, is_stdout))
}

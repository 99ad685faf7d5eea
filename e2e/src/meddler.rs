//! A man in the middle of an exec: it ends the TLS of the API server with a certificate of our own authority, and loses,
//! doubles, moves, changes or delays single messages of the command's stdout, or says that all went well when it did not.
//!
//! It knows just enough of HTTP and WebSocket (RFC 6455, section 5.2) to tell the messages of one channel apart. What it
//! does no network does by itself; the proof of a stream must not rest on that.

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

/// What happens to the messages of stdout, which are counted from 0 over all connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meddling {
    /// Nothing.
    Nothing,
    /// The connection ends instead of that message.
    Cut(u64),
    /// Instead of that message comes the news that the command ended well, and the connection is closed in good order.
    FakeSuccess(u64),
    /// That message never comes.
    Lose(u64),
    /// That message comes twice.
    Double(u64),
    /// That message comes after the one that follows it.
    Swap(u64),
    /// One bit of that message is another.
    Change(u64),
    /// That message comes later, and all that follow it.
    Delay(u64, Duration),
}

/// A running man in the middle; dropping it cuts all connections.
pub struct Meddler {
    kubeconfig: PathBuf,
    messages: Arc<AtomicU64>,
    task: JoinHandle<()>,
    _folder: TempDir,
}

impl Meddler {
    /// Stands between the cluster and whoever uses [`Meddler::kubeconfig`].
    pub async fn start(namespace: &Namespace, meddling: Meddling) -> Result<Self> {
        let cluster = &namespace.cluster;
        let server = cluster.api_server().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = Authority::issue("meddler", jiff::Timestamp::now())?;
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
        std::fs::write(&kubeconfig, serde_norway::to_string(&own)?)?;

        let messages = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&messages);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let messages = Arc::clone(&counting);
                // Whatever fails is a connection that ends: the client is there to notice.
                connections
                    .spawn(async move { pass(client, server, &acceptor, &connector, meddling, &messages).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { kubeconfig, messages, task, _folder: folder })
    }

    /// The way through it, as somebody who may do everything in the namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// How many messages of stdout came so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::SeqCst)
    }
}

impl Drop for Meddler {
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

/// A client's certificate cannot pass through a man in the middle; a token can.
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
    meddling: Meddling,
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
        ended = answers(from_server, to_client, &upgraded, meddling, messages) => ended,
    }
}

/// Passes what the client says, and notices when it asks for a WebSocket.
async fn requests(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, upgraded: &Notify) -> Result<()> {
    const MARK: &[u8] = b"upgrade: websocket";
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
            is_upgraded = seen.windows(MARK.len()).any(|window| window == MARK);
            seen.drain(..seen.len().saturating_sub(MARK.len()));
            if is_upgraded {
                upgraded.notify_one();
            }
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}

/// Passes what the server says, message by message once it is a WebSocket.
async fn answers(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    upgraded: &Notify,
    meddling: Meddling,
    messages: &AtomicU64,
) -> Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, from);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            biased;
            // The client waits for the answer to its request, so nothing of an earlier one is under way.
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
            match meddling {
                Meddling::Cut(at) if at == number => return Ok(()),
                Meddling::FakeSuccess(at) if at == number => {
                    let status = br#"{"metadata":{},"status":"Success"}"#;
                    let length = u8::try_from(status.len() + 1)?;
                    to.write_all(&[&[0x82, length, 3][..], status, &[0x88, 2, 3, 0xe8]].concat()).await?;
                    to.flush().await?;
                    to.shutdown().await?;
                    return Ok(());
                }
                Meddling::Lose(at) if at == number => passed.clear(),
                Meddling::Double(at) if at == number => passed.push(passed[0].clone()),
                Meddling::Swap(at) if at == number => held = passed.pop(),
                Meddling::Change(at) if at == number => {
                    if let Some(last) = passed[0].last_mut() {
                        *last ^= 1;
                    }
                }
                Meddling::Delay(at, pause) if at == number => tokio::time::sleep(pause).await,
                _ => passed.extend(held.take()),
            }
        }
        for frame in passed {
            to.write_all(&frame).await?;
        }
        to.flush().await?;
    }
}

/// One frame as it came, and whether it carries stdout (channel 1).
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
    // A whole binary message, as the API server sends them.
    let is_stdout = frame[0] == 0x82 && length > 1 && frame[header] == 1;
    Ok((frame, is_stdout))
}

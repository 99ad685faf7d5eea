//! An HTTP proxy in front of an S3 server, which answers some requests with an error, or never. It forwards the other
//! requests unchanged, because their signature covers the `Host` that the client sent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// The fault that a request meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The proxy answers with 503; the request does not reach the server.
    Unavailable,
    /// The proxy never answers; the request does not reach the server.
    Hang,
    /// The proxy closes the connection, as if no server were there.
    Unreachable,
    /// The server executes the request, and the proxy drops the response.
    LoseResponse,
}

/// The requests that meet a fault.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The fault.
    pub fault: Fault,
    /// Only requests with this method match; any method if empty.
    pub method: &'static str,
    /// Only requests whose path contains this text match.
    pub path: &'static str,
    /// The number of matching requests that pass first.
    pub after: usize,
    /// The number of matching requests that then meet the fault; later ones pass.
    pub times: usize,
    /// After the first faulty request, every request of any kind meets [`Fault::Unreachable`].
    pub then_unreachable: bool,
}

impl Rule {
    /// Every request meets the fault.
    pub fn always(fault: Fault) -> Self {
        Self { fault, method: "", path: "", after: 0, times: usize::MAX, then_unreachable: false }
    }

    /// Limits the rule to requests with that method whose path contains `path`.
    #[must_use]
    pub fn on(mut self, method: &'static str, path: &'static str) -> Self {
        (self.method, self.path) = (method, path);
        self
    }

    /// Lets this number of matching requests pass first.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.after = requests;
        self
    }

    /// Limits the fault to this number of requests.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// Makes the server unreachable after the first faulty request.
    #[must_use]
    pub fn then_unreachable(mut self) -> Self {
        self.then_unreachable = true;
        self
    }
}

/// A running proxy; dropping it closes all connections.
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    server: SocketAddr,
    rule: Mutex<Option<Rule>>,
    seen: AtomicUsize,
    faults: AtomicUsize,
}

impl FaultProxy {
    /// Listens on a free port of the loopback interface, and forwards everything to `server` until a rule is set.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind the fault proxy")?;
        let address = listener.local_addr()?;
        let state =
            Arc::new(State { server, rule: Mutex::new(None), seen: AtomicUsize::new(0), faults: AtomicUsize::new(0) });
        let serving = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let state = serving.clone();
                // An error closes the connection without a response, which is what some faults simulate.
                connections.spawn(async move { drop(serve(client, &state).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, task })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the rule, or removes it, and starts to count matching requests from 0.
    pub fn set_rule(&self, rule: Option<Rule>) {
        self.state.seen.store(0, Ordering::SeqCst);
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// The number of requests that met a fault so far.
    pub fn faults(&self) -> usize {
        self.state.faults.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn fault_of(&self, request: &Request) -> Option<Fault> {
        let mut held = self.rule.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = held.as_ref()?;
        let matches = (rule.method.is_empty() || request.method == rule.method) && request.path.contains(rule.path);
        if !matches {
            return None;
        }
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        if seen < rule.after || seen - rule.after >= rule.times {
            return None;
        }
        self.faults.fetch_add(1, Ordering::SeqCst);
        let fault = rule.fault;
        if rule.then_unreachable {
            *held = Some(Rule::always(Fault::Unreachable));
        }
        Some(fault)
    }
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/xml\r\n\r\n\
    <?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";

/// Serves one request per connection. The forwarded head requests `Connection: close`, so that everything after it can
/// be copied without parsing.
async fn serve(mut client: TcpStream, state: &State) -> Result<()> {
    let request = read_request(&mut client).await?;
    let fault = state.fault_of(&request);
    match fault {
        Some(Fault::Unavailable) => {
            // Reads the body first, because a client that still sends would see the closed connection, not the
            // response.
            let rest = request.length.saturating_sub(request.body_start.len() as u64);
            let (mut reader, mut writer) = client.split();
            tokio::io::copy(&mut (&mut reader).take(rest), &mut tokio::io::sink()).await?;
            writer.write_all(UNAVAILABLE.as_bytes()).await?;
            Ok(writer.shutdown().await?)
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Unreachable) => Ok(()),
        Some(Fault::LoseResponse) => {
            let mut server = forward(&request, state.server).await?;
            let (mut from_client, _to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let sending = async {
                let _sent = tokio::io::copy(&mut from_client, &mut to_server).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = sending => {}
                _dropped = async { tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await } => {}
            }
            Ok(())
        }
        None => {
            let mut server = forward(&request, state.server).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            Ok(())
        }
    }
}

/// The head of a request, and the part of its body that was read together with it.
struct Request {
    method: String,
    path: String,
    head: String,
    length: u64,
    body_start: Vec<u8>,
}

/// The longest request head that is accepted; an S3 client sends much shorter ones.
const MAX_HEAD: usize = 64 * 1024;

async fn read_request(client: &mut TcpStream) -> Result<Request> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(read.len() < MAX_HEAD, "the head of a request has no end");
        ensure!(
            client.read_buf(&mut read).await? > 0,
            "the client closed the connection before its request was complete"
        );
    };
    let body_start = read.split_off(end);
    let whole = String::from_utf8(read).context("the head of a request is not UTF-8")?;
    let mut parts = whole.split(' ');
    let (method, path) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().to_owned());
    let named = |line: &str, name: &str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
    let length = whole.lines().find(|line| named(line, "content-length")).and_then(|line| line.split_once(':'));
    let length = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    let kept: Vec<&str> = whole.trim_end().lines().filter(|line| !named(line, "connection")).collect();
    let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    Ok(Request { method, path, head, length, body_start })
}

async fn forward(request: &Request, server: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request.head.as_bytes()).await?;
    stream.write_all(&request.body_start).await?;
    Ok(stream)
}

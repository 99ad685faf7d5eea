//! An HTTP proxy in front of an S3 server that answers wrongly, late or not at all. Requests pass as they are (their
//! signature covers the `Host` that the client sent), so the server behind it is a real one.

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

/// What happens to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It is answered by 503, and never reaches the server.
    Unavailable,
    /// It is never answered, and never reaches the server.
    Hang,
    /// The connection is closed, as by a server that is gone.
    Gone,
    /// The server carries it out, and the answer is lost.
    LoseAnswer,
}

/// Which requests go wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What happens to them.
    pub fault: Fault,
    /// Only requests with this method; all when empty.
    pub method: &'static str,
    /// Only requests whose path holds this text.
    pub path: &'static str,
    /// So many matching requests pass first.
    pub after: usize,
    /// Then so many go wrong; the rest passes.
    pub times: usize,
    /// From the first wrong one on, every request of any kind is cut off.
    pub then_gone: bool,
}

impl Rule {
    /// Every request goes wrong.
    pub fn always(fault: Fault) -> Self {
        Self { fault, method: "", path: "", after: 0, times: usize::MAX, then_gone: false }
    }

    /// The same for requests with that method whose path holds `path`.
    #[must_use]
    pub fn on(mut self, method: &'static str, path: &'static str) -> Self {
        (self.method, self.path) = (method, path);
        self
    }

    /// The same after so many that pass.
    #[must_use]
    pub fn after(mut self, requests: usize) -> Self {
        self.after = requests;
        self
    }

    /// The same for so many requests.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    /// The same, and from then on the server is gone.
    #[must_use]
    pub fn then_gone(mut self) -> Self {
        self.then_gone = true;
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
    /// Listens on a free port of the loopback and passes everything on to `server`, until a rule is set.
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
                // An error closes the connection without an answer, which is what some faults are for.
                connections.spawn(async move { drop(serve(client, &state).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, task })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what goes wrong from now on.
    pub fn set_rule(&self, rule: Option<Rule>) {
        self.state.seen.store(0, Ordering::SeqCst);
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// How many requests went wrong so far.
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
        if rule.then_gone {
            *held = Some(Rule::always(Fault::Gone));
        }
        Some(fault)
    }
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/xml\r\n\r\n\
    <?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";

/// One request a connection: the server is asked to close, so that everything after the head is only copied.
async fn serve(mut client: TcpStream, state: &State) -> Result<()> {
    let request = read_request(&mut client).await?;
    let fault = state.fault_of(&request);
    match fault {
        Some(Fault::Unavailable) => {
            // A client that still sends its body would take the end of the connection for the answer.
            let rest = request.length.saturating_sub(request.begun.len() as u64);
            let (mut reader, mut writer) = client.split();
            tokio::io::copy(&mut (&mut reader).take(rest), &mut tokio::io::sink()).await?;
            writer.write_all(UNAVAILABLE.as_bytes()).await?;
            Ok(writer.shutdown().await?)
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Gone) => Ok(()),
        Some(Fault::LoseAnswer) => {
            let mut server = forward(&request, state.server).await?;
            let (mut from_client, _unanswered) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let sending = async {
                let _sent = tokio::io::copy(&mut from_client, &mut to_server).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = sending => {}
                _answered = async { tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await } => {}
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

/// The head of a request, and what came of its body with it.
struct Request {
    method: String,
    path: String,
    head: String,
    length: u64,
    begun: Vec<u8>,
}

/// Longer heads than any that a client of S3 sends are refused.
const LONGEST_HEAD: usize = 64 * 1024;

async fn read_request(client: &mut TcpStream) -> Result<Request> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(read.len() < LONGEST_HEAD, "a request without an end of its head");
        ensure!(client.read_buf(&mut read).await? > 0, "closed before a request came");
    };
    let begun = read.split_off(end);
    let whole = String::from_utf8(read).context("a head that is no text")?;
    let mut words = whole.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let named = |line: &str, name: &str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
    let length = whole.lines().find(|line| named(line, "content-length")).and_then(|line| line.split_once(':'));
    let length = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0);
    let kept: Vec<&str> = whole.trim_end().lines().filter(|line| !named(line, "connection")).collect();
    let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
    Ok(Request { method, path, head, length, begun })
}

async fn forward(request: &Request, server: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(request.head.as_bytes()).await?;
    stream.write_all(&request.begun).await?;
    Ok(stream)
}

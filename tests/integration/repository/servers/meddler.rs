//! A proxy in front of an HTTP server, which injects faults where a test requests them and passes all other traffic
//! unchanged.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The proxy answers with this status, and the server does not receive the request.
    Status(u16),
    /// The request is never answered.
    Hang,
    /// The request is executed, and the answer is dropped.
    Unacknowledged,
    /// Half of the server's answer is passed on.
    Cut,
    /// The proxy answers as if a file of this length existed, and the server does not receive the request.
    There(u64),
}

#[derive(Default)]
struct State {
    rules: Vec<(&'static str, &'static str, Fault, usize)>,
    seen: Vec<String>,
    /// Parts of headers, in lower case. A request without one of them is refused.
    required: Vec<&'static str>,
    /// Appended to the query of each listing, to get small pages.
    page: Option<&'static str>,
    in_flight: usize,
    max_in_flight: usize,
}

/// A running proxy; it ends with the test's runtime.
#[derive(Clone)]
pub struct MitmProxy {
    state: Arc<Mutex<State>>,
}

impl MitmProxy {
    /// Starts a proxy for this endpoint, and replaces the endpoint by the proxy's.
    pub async fn between(endpoint: &mut String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (host, path) = endpoint.strip_prefix("http://").unwrap().split_once('/').map_or_else(
            || (endpoint[7..].to_owned(), String::new()),
            |(host, path)| (host.to_owned(), format!("/{path}")),
        );
        let state = Arc::<Mutex<State>>::default();
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, host.clone(), Arc::clone(&served)));
            }
        });
        *endpoint = format!("http://127.0.0.1:{port}{path}");
        Self { state }
    }

    /// From now on, this many requests with this method and this part in path and query fail.
    pub fn fail(&self, method: &'static str, part: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().rules.push((method, part, fault, times));
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// Refuses requests whose headers do not contain this text in lower case. Upload sessions of Google are exempt,
    /// because their URL authorizes them.
    pub fn require(&self, part: &'static str) {
        self.state.lock().unwrap().required.push(part);
    }

    /// Appends this to the query of each listing.
    pub fn set_page(&self, query: &'static str) {
        self.state.lock().unwrap().page = Some(query);
    }

    pub fn requests(&self, method: &str, part: &str) -> usize {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    pub fn max_in_flight(&self) -> usize {
        self.state.lock().unwrap().max_in_flight
    }
}

async fn serve(connection: TcpStream, server: String, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let mut parts = line.split_whitespace();
    let (method, mut target) = (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned());
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        connection.read_line(&mut header).await.unwrap();
        let (name, value) = header.trim().split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "" => break,
            "connection" => continue,
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
        headers.push_str(&header);
    }
    let mut body = vec![0; length];
    if connection.read_exact(&mut body).await.is_err() {
        return;
    }
    let fault = begin(&mut state.lock().unwrap(), &method, &mut target, &headers.to_ascii_lowercase());
    let answer = match fault {
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Status(status)) => {
            format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
        }
        Some(Fault::There(length)) => {
            let modified = "last-modified: Thu, 01 Jan 2026 00:00:00 GMT";
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{modified}\r\nconnection: close\r\n\r\n")
                .into_bytes()
        }
        _ => {
            // One request per connection, so that the answer ends with the connection.
            let mut to = TcpStream::connect(server).await.unwrap();
            let head = format!("{method} {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
            to.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            let mut answer = Vec::new();
            let _ = to.read_to_end(&mut answer).await;
            answer
        }
    };
    state.lock().unwrap().in_flight -= 1;
    let length = match fault {
        Some(Fault::Unacknowledged) => 0,
        Some(Fault::Cut) => answer.len() / 2,
        _ => answer.len(),
    };
    let _ = connection.write_all(&answer[..length]).await;
    let _ = connection.shutdown().await;
}

fn begin(state: &mut State, method: &str, target: &mut String, headers: &str) -> Option<Fault> {
    let is_listing = ["comp=list", "/o?", "list-type=2"].iter().any(|part| target.contains(part));
    if let Some(page) = state.page.filter(|_| method == "GET" && is_listing) {
        target.push_str(page);
    }
    state.seen.push(format!("{method} {target}"));
    state.in_flight += 1;
    state.max_in_flight = state.max_in_flight.max(state.in_flight);
    let is_session = target.contains("upload_id=");
    if !is_session && state.required.iter().any(|part| !headers.contains(part)) {
        return Some(Fault::Status(403));
    }
    let rule =
        state.rules.iter_mut().find(|(of, part, _, times)| *times > 0 && *of == method && target.contains(part))?;
    rule.3 -= 1;
    Some(rule.2)
}

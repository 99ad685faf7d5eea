//! What is between us and a server of HTTP, and misbehaves where a test says so. What passes is the server's own.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// How a request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Is answered with this status, and the server does not see it.
    Status(u16),
    /// Is never answered.
    Hang,
    /// Is carried out, and the answer does not arrive.
    Unacknowledged,
    /// Gets half of the server's answer.
    Cut,
    /// Is answered as if a file of that length were there, and the server does not see it.
    There(u64),
}

#[derive(Default)]
struct State {
    rules: Vec<(&'static str, &'static str, Fault, usize)>,
    seen: Vec<String>,
    /// Parts of headers, in lower case; requests without one of them are refused.
    required: Vec<&'static str>,
    /// Put behind the query of each listing, so that it comes in small pages.
    page: Option<&'static str>,
    under_way: usize,
    most_under_way: usize,
}

/// A running meddler; it ends with the test's runtime.
#[derive(Clone)]
pub struct Meddler {
    state: Arc<Mutex<State>>,
}

impl Meddler {
    /// Gets between the client of this endpoint and its server.
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

    /// From now on, this many requests of that method whose path and query hold that part go wrong so.
    pub fn fail(&self, method: &'static str, part: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().rules.push((method, part, fault, times));
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// Refuses requests without this in their headers, in lower case. (A session of Google's is opened by its URL.)
    pub fn require(&self, part: &'static str) {
        self.state.lock().unwrap().required.push(part);
    }

    /// Asks the server for listings with this behind their query.
    pub fn set_page(&self, query: &'static str) {
        self.state.lock().unwrap().page = Some(query);
    }

    pub fn requests(&self, method: &str, part: &str) -> usize {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    pub fn most_under_way(&self) -> usize {
        self.state.lock().unwrap().most_under_way
    }
}

async fn serve(connection: TcpStream, server: String, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace();
    let (method, mut target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
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
            // One request a connection, so that its answer ends with it.
            let mut to = TcpStream::connect(server).await.unwrap();
            let head = format!("{method} {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
            to.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            let mut answer = Vec::new();
            let _ = to.read_to_end(&mut answer).await;
            answer
        }
    };
    state.lock().unwrap().under_way -= 1;
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
    state.under_way += 1;
    state.most_under_way = state.most_under_way.max(state.under_way);
    let is_session = target.contains("upload_id=");
    if !is_session && state.required.iter().any(|part| !headers.contains(part)) {
        return Some(Fault::Status(403));
    }
    let rule =
        state.rules.iter_mut().find(|(of, part, _, times)| *times > 0 && *of == method && target.contains(part))?;
    rule.3 -= 1;
    Some(rule.2)
}

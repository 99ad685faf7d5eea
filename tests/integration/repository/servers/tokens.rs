//! A fake of the services which issue identities to machines and pods of a cloud, because no real one exists outside of
//! the clouds. Each test defines the answers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A request for a token.
pub struct TokenRequest {
    /// Method and target.
    pub line: String,
    headers: BTreeMap<String, String>,
    pub body: String,
}

impl TokenRequest {
    /// Whether the request has this first line, and a header with this value.
    pub fn is(&self, line: &str, (header, value): (&str, &str)) -> bool {
        self.line == line && self.headers.get(header).is_some_and(|given| given == value)
    }

    /// Whether the body has all these form fields, percent-encoded as sent.
    pub fn has_fields(&self, fields: &[&str]) -> bool {
        fields.iter().all(|field| self.body.split('&').any(|given| given == *field))
    }
}

/// A running service; it ends with the test's runtime.
pub struct FakeTokenService {
    /// Host and port.
    pub address: String,
    given: Arc<AtomicUsize>,
}

impl FakeTokenService {
    /// Starts a service with these answers. It refuses a request without an answer.
    pub async fn start(answers: impl Fn(&TokenRequest) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let given = Arc::<AtomicUsize>::default();
        let (answers, counted) = (Arc::new(answers), Arc::clone(&given));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (answers, counted) = (Arc::clone(&answers), Arc::clone(&counted));
                tokio::spawn(async move {
                    let mut connection = BufReader::new(connection);
                    let Some(request) = read(&mut connection).await else { return };
                    let answer = answers(&request);
                    counted.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
                    let status = if answer.is_some() { "200 OK" } else { "403 Forbidden" };
                    let text = answer.unwrap_or_default();
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
                    let _ = connection.write_all((head + &text).as_bytes()).await;
                });
            }
        });
        Self { address, given }
    }

    /// The number of requests which were answered.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }
}

async fn read(connection: &mut BufReader<TcpStream>) -> Option<TokenRequest> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        connection.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    connection.read_exact(&mut body).await.ok()?;
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    Some(TokenRequest { line, headers, body: String::from_utf8(body).ok()? })
}

//! A fake S3 service in memory, with path-style URLs and without signatures. It misbehaves where a test requests it.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex},
};

use stowaway::{
    model::{BackendConfig, Connection, Credential, S3Config, Secret},
    repository::OpenOptions,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Answers with this status and does nothing.
    Status(u16),
    /// Never answers.
    Hang,
    /// Executes the request, and closes the connection without an answer.
    Unacknowledged,
    /// Closes the connection and does nothing.
    Cut,
    /// Answers that the request succeeded, and does nothing.
    Lie,
    /// Another client creates an object of the same length first, and the request may not replace it.
    Rival,
}

struct Rule {
    method: &'static str,
    part: &'static str,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    rules: Vec<Rule>,
    seen: Vec<String>,
    page: usize,
    /// How many further changes succeed.
    changes_left: Option<usize>,
    /// The region for which requests must be signed, and whether the refusal names it in a header.
    region: Option<(&'static str, bool)>,
}

/// A running service; it ends with the test's runtime.
#[derive(Clone)]
pub struct FakeS3 {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
}

impl FakeS3 {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&served)));
            }
        });
        Self { state, address }
    }

    /// From now on, this many requests with this method and this part in path and query fail.
    pub fn fail(&self, method: &'static str, part: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().rules.push(Rule { method, part, fault, times });
    }

    /// After this many further writes or deletions every request fails.
    pub fn fail_after(&self, changes: usize) {
        self.state.lock().unwrap().changes_left = Some(changes);
    }

    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.rules.clear();
        state.changes_left = None;
    }

    /// Another service with the same objects.
    pub async fn copy(&self) -> Self {
        let copy = Self::start().await;
        copy.state.lock().unwrap().objects.clone_from(&self.state.lock().unwrap().objects);
        copy
    }

    /// Refuses requests which are signed for another region, as Amazon does: with the region in the body, or only in a
    /// header.
    pub fn set_region(&self, region: &'static str, in_header: bool) {
        self.state.lock().unwrap().region = Some((region, in_header));
    }

    /// Listings return this many objects a page.
    pub fn set_page(&self, objects: usize) {
        self.state.lock().unwrap().page = objects;
    }

    pub fn keys(&self, part: &str) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().filter(|key| key.contains(part)).cloned().collect()
    }

    pub fn remove(&self, key: &str) {
        self.state.lock().unwrap().objects.remove(key);
    }

    pub fn requests(&self, method: &str, part: &str) -> usize {
        let seen = &self.state.lock().unwrap().seen;
        seen.iter().filter(|line| line.starts_with(method) && line.contains(part)).count()
    }

    pub fn access(&self) -> OpenOptions {
        let key = |text: &str| Secret::new(text.to_owned());
        OpenOptions {
            backend: BackendConfig::S3(S3Config {
                endpoint: format!("http://{}", self.address),
                bucket: "bucket".to_owned(),
                prefix: "pre/fix".to_owned(),
                region: "somewhere-1".to_owned(),
                path_style: true,
            }),
            connection: Connection {
                credentials: [Credential::S3AccessKeyId, Credential::S3SecretAccessKey].into(),
                ..Connection::default()
            },
            credentials: [(Credential::S3AccessKeyId, key("key")), (Credential::S3SecretAccessKey, key("hush-hush"))]
                .into(),
            ..super::folder(std::path::Path::new("/nowhere"))
        }
    }
}

async fn serve(connection: TcpStream, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut parts = line.split_whitespace();
        let (method, target) = (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            connection.read_line(&mut header).await.unwrap();
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
        if connection.read_exact(&mut body).await.is_err() {
            return;
        }
        let fault = fault_of(&mut state.lock().unwrap(), &method, &target);
        let elsewhere = state.lock().unwrap().region.filter(|(region, _)| {
            let signed = headers.get("authorization").cloned().unwrap_or_default();
            !signed.contains(&format!("/{region}/s3/aws4_request"))
        });
        let (status, answer_headers, answer) = match fault {
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Cut) => return,
            Some(Fault::Status(status)) => (status, String::new(), Vec::new()),
            Some(Fault::Lie) => (if method == "DELETE" { 204 } else { 200 }, String::new(), Vec::new()),
            Some(Fault::Rival) => {
                let rivals = body.iter().map(|byte| !byte).collect();
                let _ = answer(&mut state.lock().unwrap(), &method, &target, &headers, rivals);
                (412, String::new(), b"<Error><Code>PreconditionFailed</Code></Error>".to_vec())
            }
            None if elsewhere.is_some() => of_another_region(&method, elsewhere.unwrap()),
            Some(Fault::Unacknowledged) | None => answer(&mut state.lock().unwrap(), &method, &target, &headers, body),
        };
        if fault == Some(Fault::Unacknowledged) {
            return;
        }
        let length = if answer_headers.contains("content-length") {
            String::new()
        } else {
            format!("content-length: {}\r\n", answer.len())
        };
        let head = format!("HTTP/1.1 {status} Whatever\r\n{length}{answer_headers}\r\n");
        if connection.write_all(&[head.as_bytes(), &answer].concat()).await.is_err() {
            return;
        }
    }
}

fn of_another_region(method: &str, (region, in_header): (&str, bool)) -> (u16, String, Vec<u8>) {
    let header = format!("x-amz-bucket-region: {region}\r\n");
    let body = format!(
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The region is wrong</Message><Region>{region}</Region></Error>"
    );
    match (in_header, method) {
        (true, _) => (301, header, Vec::new()),
        (false, "HEAD") => (400, String::new(), Vec::new()),
        (false, _) => (400, String::new(), body.into_bytes()),
    }
}

fn fault_of(state: &mut State, method: &str, target: &str) -> Option<Fault> {
    state.seen.push(format!("{method} {target}"));
    match &mut state.changes_left {
        Some(0) => return Some(Fault::Status(503)),
        Some(left) if ["PUT", "DELETE", "POST"].contains(&method) => *left -= 1,
        _ => {}
    }
    let rule =
        state.rules.iter_mut().find(|rule| rule.times > 0 && rule.method == method && target.contains(rule.part))?;
    rule.times -= 1;
    Some(rule.fault)
}

fn answer(
    state: &mut State,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: Vec<u8>,
) -> (u16, String, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let nothing = |status| (status, String::new(), Vec::new());
    let Some(key) = path.strip_prefix("/bucket").map(|key| key.trim_start_matches('/').to_owned()) else {
        return (404, String::new(), b"<Error><Code>NoSuchBucket</Code></Error>".to_vec());
    };
    match method {
        "GET" if query.contains("list-type=2") => (200, String::new(), listing(state, query).into_bytes()),
        "PUT" if headers.contains_key("if-none-match") && state.objects.contains_key(&key) => {
            (412, String::new(), b"<Error><Code>PreconditionFailed</Code></Error>".to_vec())
        }
        "PUT" => {
            state.objects.insert(key, body);
            (200, "etag: \"x\"\r\n".to_owned(), Vec::new())
        }
        "DELETE" => {
            state.objects.remove(&key);
            nothing(204)
        }
        "HEAD" => match state.objects.get(&key) {
            Some(object) => (200, format!("content-length: {}\r\n", object.len()), Vec::new()),
            None => nothing(404),
        },
        "GET" => match (state.objects.get(&key), headers.get("range")) {
            (None, _) => (404, String::new(), b"<Error><Code>NoSuchKey</Code></Error>".to_vec()),
            (Some(object), None) => (200, String::new(), object.clone()),
            (Some(object), Some(range)) => {
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                if first >= object.len() {
                    return (416, String::new(), b"<Error><Code>InvalidRange</Code></Error>".to_vec());
                }
                let last = last.min(object.len() - 1);
                let range = format!("content-range: bytes {first}-{last}/{}\r\n", object.len());
                (206, range, object[first..=last].to_vec())
            }
        },
        _ => nothing(405),
    }
}

fn listing(state: &State, query: &str) -> String {
    let value = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_default().replace("%2F", "/")
    };
    let (prefix, after) = (value("prefix"), value("continuation-token"));
    let mut found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let mut text = String::from("<ListBucketResult>");
    let mut last = String::new();
    for (key, object) in found.by_ref().take(state.page) {
        let size = object.len();
        write!(
            text,
            "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>x</ETag>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        )
        .unwrap();
        last.clone_from(key);
    }
    let more = found.next().is_some();
    write!(text, "<IsTruncated>{more}</IsTruncated>").unwrap();
    if more {
        write!(text, "<NextContinuationToken>{last}</NextContinuationToken>").unwrap();
    }
    text + "</ListBucketResult>"
}

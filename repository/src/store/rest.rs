//! A repository's files on a server with restic's REST protocol, version 2 (restic's documentation, "REST Backend").
//! The caller adds retries and deadlines.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use bytes::Bytes;
use futures::stream;
use http::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LAST_MODIFIED, RANGE},
};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{Body, Client, RequestBuilder, Response};
use serde::Deserialize;

use super::{fault::Fault, file::Write, http::is_distrust, http::with_causes, partial::pieces_of};
use crate::StoreFault;
use stowaway_model::{Credential, RestConfig, Secret};

/// The media type of version 2 of the protocol, whose listings contain sizes.
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// A repository on a server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    client: Client,
    url: String,
    login: Option<(Secret, Secret)>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

impl Server {
    pub fn new(config: &RestConfig, credentials: &BTreeMap<Credential, Secret>, client: Client) -> Self {
        let given = |credential| credentials.get(&credential).cloned();
        let login = given(Credential::RestUser).zip(given(Credential::RestPassword));
        Self { client, url: config.url.trim_end_matches('/').to_owned(), login }
    }

    /// Creates the folders of a repository.
    pub async fn prepare(&self) -> Result<(), Fault> {
        answer(self.request(Method::POST, "?create=true")).await.map(drop)
    }

    pub async fn stat(&self, path: &str) -> Result<u64, Fault> {
        let response = answer(self.request(Method::HEAD, path)).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.ok_or_else(|| refused(&response, "the answer contains no length"))
    }

    pub async fn modified(&self, path: &str) -> Result<Option<Timestamp>, Fault> {
        let response = answer(self.request(Method::HEAD, path)).await?;
        let text = response.headers().get(LAST_MODIFIED).and_then(|time| time.to_str().ok());
        Ok(text.and_then(|time| DateTimeParser::new().parse_timestamp(time).ok()))
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Fault> {
        let content = body(answer(self.request(Method::GET, path)).await?).await?;
        if path == "config" && content.is_empty() {
            // Servers write a file directly under its final name, so another client is writing the config.
            return Err(Fault::Transient(StoreFault::Http("the config is empty".to_owned())));
        }
        Ok(content)
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Fault> {
        let range = format!("bytes={offset}-{}", offset + length.max(1) - 1);
        let response = answer(self.request(Method::GET, path).header(RANGE, range)).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(refused(&response, "the server does not support reading a part of a file"));
        }
        body(response).await
    }

    /// Lists the names and sizes of all files of a kind.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Fault> {
        let request = self.request(Method::GET, &format!("{folder}/")).header(ACCEPT, VERSION_2);
        let response = answer(request).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind != VERSION_2 {
            return Err(refused(&response, "the server does not support version 2 of restic's REST protocol"));
        }
        let listed: Vec<Listed> = serde_json::from_slice(&body(response).await?)
            // The library's error is omitted, because it quotes the answer, and a Repository may specify any server.
            .map_err(|_| Fault::Transient(StoreFault::Http("the listing cannot be read".to_owned())))?;
        Ok(listed.into_iter().map(|Listed { name, size }| (name, size)).collect())
    }

    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Fault> {
        let size = content.iter().map(|part| part.len() as u64).sum();
        // The body outlives this borrow. The bytes are shared and not copied.
        let parts = content.to_vec();
        let body = Body::wrap_stream(stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)));
        self.write_body(path, body, size, mode).await
    }

    /// Writes a file from a local file. Its name is the hash of the content.
    pub async fn write_file(&self, path: &str, content: &Arc<File>, size: u64) -> Result<(), Fault> {
        self.write_body(path, Body::wrap_stream(pieces_of(content, size)), size, Write::Replace).await
    }

    async fn write_body(&self, path: &str, body: Body, size: u64, mode: Write) -> Result<(), Fault> {
        let request = self.request(Method::POST, path).header(CONTENT_LENGTH, size);
        match answer(request.body(body)).await {
            // Servers do not replace a file; they answer 403 if it exists.
            Err(Fault::Denied(denied)) => match (self.stat(path).await, mode) {
                (Ok(_), Write::CreateNew) => Err(Fault::Taken),
                // The name is the hash of the content, so the existing file has the same content.
                (Ok(there), Write::Replace) if there == size => Ok(()),
                (Err(fault @ Fault::Transient(_)), _) => Err(fault),
                _ => Err(Fault::Denied(denied)),
            },
            written => written.map(drop),
        }
    }

    pub async fn remove(&self, path: &str) -> Result<(), Fault> {
        answer(self.request(Method::DELETE, path)).await.map(drop)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The protocol has no folders below `data`.
        let path = match path.strip_prefix("data/").and_then(|path| path.rsplit_once('/')) {
            Some((_, name)) => format!("data/{name}"),
            None => path.to_owned(),
        };
        let request = self.client.request(method, format!("{}/{path}", self.url));
        match &self.login {
            Some((user, password)) => request.basic_auth(user.expose(), Some(password.expose())),
            None => request,
        }
    }
}

/// Sends a request and returns the head of a successful answer.
async fn answer(request: RequestBuilder) -> Result<Response, Fault> {
    let response = request.send().await.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let classify = match status.as_u16() {
        404 => Fault::Missing,
        401 | 403 => Fault::Denied,
        413 | 507 => Fault::Full,
        // 400 is the answer to uploads that were truncated or changed in transit.
        400 | 408 | 409 | 425 | 429 | 500.. => Fault::Transient,
        // This includes redirects. An HTTP client turns a redirected write into a read, which would look like success.
        _ => Fault::Permanent,
    };
    Err(classify(StoreFault::Http(status.to_string())))
}

async fn body(response: Response) -> Result<Bytes, Fault> {
    response.bytes().await.map_err(broken)
}

fn broken(error: reqwest::Error) -> Fault {
    let text = with_causes(&error.without_url());
    if is_distrust(&text) { Fault::Permanent(StoreFault::Http(text)) } else { Fault::Transient(StoreFault::Http(text)) }
}

fn refused(response: &Response, why: &str) -> Fault {
    Fault::Permanent(StoreFault::Http(format!("{why} ({})", response.status())))
}

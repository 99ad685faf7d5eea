//! A repository's files as objects of a cloud's store, in restic's layout; and which store it is.
//!
//! It must not know what the files mean. Retries and deadlines are its caller's.

mod azure;
mod gcs;
mod s3;

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use opendal::{Builder, Error, ErrorKind, HttpTransporter, OperationContext, Operator, Writer};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Client;

use super::{Write, http};
use crate::repository::StoreFault;

/// A bucket or container, or a prefix in one.
#[derive(Clone, Debug)]
pub(in super::super) struct Objects {
    service: Arc<RwLock<Service>>,
}

/// A connection to it.
#[derive(Clone, Debug)]
struct Service {
    operator: Operator,
    parts: Parts,
    /// Where the service has regions.
    bucket: Option<s3::Bucket>,
}

/// How the service takes an object of several parts.
#[derive(Clone, Debug)]
enum Parts {
    /// By this operator, and without conditions, which few such services know.
    Plain(Operator),
    /// Only if there is none of that name, where that is wanted.
    OnlyIfAbsent,
    /// In a session, which the library has only under a condition.
    Session,
}

impl Objects {
    fn of(service: Service) -> Self {
        Self { service: Arc::new(RwLock::new(service)) }
    }

    pub async fn stat(&self, path: &str) -> Result<u64, Error> {
        let stat = move |service: Service| async move {
            let found = service.operator.stat(path).await;
            if found.as_ref().is_err_and(|error| service.bucket.is_some() && matches!(status(error), Some(301 | 400))) {
                // The answer to such a request has no body, which would name the region: the answer to another one has.
                let _ = service.operator.list_with("/").limit(1).await;
            }
            found.map(|metadata| metadata.content_length())
        };
        self.attempt(stat).await
    }

    pub async fn modified(&self, path: &str) -> Result<Option<Timestamp>, Error> {
        let stat = move |service: Service| async move { service.operator.stat(path).await };
        self.attempt(stat).await.map(|metadata| metadata.last_modified().map(Into::into))
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Error> {
        let read = move |service: Service| async move { service.operator.read(path).await };
        self.attempt(read).await.map(|data| data.to_bytes())
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Error> {
        let read = move |service: Service| async move {
            service.operator.read_with(path).range(offset..offset + length).await
        };
        self.attempt(read).await.map(|data| data.to_bytes())
    }

    /// Names and sizes of all objects of a folder and those below it, or an error.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Error> {
        let list = move |service: Service| async move {
            let mut lister = service.operator.lister_with(&format!("{folder}/")).recursive(true).await?;
            let mut files = Vec::new();
            while let Some(entry) = lister.try_next().await? {
                if entry.metadata().is_file() {
                    files.push((entry.name().to_owned(), entry.metadata().content_length()));
                }
            }
            Ok(files)
        };
        self.attempt(list).await
    }

    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Error> {
        let write = move |Service { operator, .. }: Service| async move {
            let content = content.to_vec();
            match mode {
                Write::Replace => operator.write(path, content).await.map(drop),
                Write::CreateNew => match operator.write_with(path, content.clone()).if_not_exists(true).await {
                    // A service that knows no conditions (501): the caller has looked just before.
                    Err(error) if status(&error) == Some(501) => operator.write(path, content).await.map(drop),
                    written => written.map(drop),
                },
            }
        };
        self.attempt(write).await
    }

    /// An object of several parts, which is not seen before it is closed. To be aborted otherwise. The caller has made
    /// another request before, so that the region is known.
    pub async fn begin(&self, path: &str, mode: Write, is_there: bool) -> Result<Writer, Error> {
        let Service { operator, parts, .. } = self.service();
        let writer = operator.writer_with(path);
        match &parts {
            Parts::Plain(operator) => operator.writer(path).await,
            Parts::OnlyIfAbsent => writer.if_not_exists(mode == Write::CreateNew).await,
            // Every object has another generation than 0.
            Parts::Session if is_there => writer.if_version_not_match("0").await,
            Parts::Session => writer.if_not_exists(true).await,
        }
    }

    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.attempt(move |service: Service| async move { service.operator.delete(path).await }).await
    }

    fn service(&self) -> Service {
        self.service.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a request, and repeats it once when the service refuses it and names another region.
    async fn attempt<T, F>(&self, request: impl Fn(Service) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let used = self.service();
        let refused = match request(used.clone()).await {
            Err(refused) => refused,
            answered => return answered,
        };
        match self.in_named_region(&used) {
            Some(other) => request(other).await,
            None => Err(refused),
        }
    }

    /// The connection to the region that the service named when it refused a request on this connection.
    fn in_named_region(&self, used: &Service) -> Option<Service> {
        let bucket = used.bucket.as_ref()?;
        let mut current = self.service.write().unwrap_or_else(PoisonError::into_inner);
        let is_corrected = current.bucket.as_ref().is_some_and(s3::Bucket::is_corrected);
        if is_corrected {
            // Another request was refused for the same reason, and was faster.
            return (!bucket.is_corrected()).then(|| current.clone());
        }
        *current = bucket.in_named_region()?;
        Some(current.clone())
    }
}

fn operator(builder: impl Builder, client: &Client) -> Result<Operator, String> {
    operator_with(builder, HttpTransporter::new(ReqwestTransport::new(client.clone())))
}

fn operator_with(builder: impl Builder, transport: HttpTransporter) -> Result<Operator, String> {
    let context = OperationContext::new().with_http_transport(transport);
    let operator = Operator::new(builder).map_err(|error| error.message().to_owned())?;
    Ok(operator.with_context(context))
}

/// The folder as the library wants it.
fn root(prefix: &str) -> String {
    format!("/{}", prefix.trim_matches('/'))
}

/// The status that the service answered with: the library keeps it as text only.
fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status: ")?;
    rest.get(..3)?.parse().ok()
}

/// Whether the service says that it, or a quota of it, is full.
pub(super) fn is_full(error: &Error) -> bool {
    const CODES: [&str; 4] = ["XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "StorageFull"];
    status(error) == Some(507) || CODES.iter().any(|code| error.message().contains(code))
}

/// Whether the service does not know us (any more), or there is nobody that we could be.
pub(super) fn is_denied(error: &Error) -> bool {
    const CODES: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];
    let is_nobody = || error.to_string().contains("failed to load signing credential");
    error.kind() == ErrorKind::PermissionDenied
        || status(error) == Some(401)
        || CODES.iter().any(|code| error.message().contains(code))
        || is_nobody()
}

/// Whether the service was reached, and refused for good.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Unsupported)
        || http::is_distrust(&http::with_causes(error))
        || status(error)
            .is_some_and(|status| (400..500).contains(&status) && ![408, 409, 425, 429, 499].contains(&status))
}

/// What is told of an answer: a library's error fills a page, and holds the request's URL, whose query may be a
/// credential.
pub(super) fn told(error: &Error) -> StoreFault {
    let causes = std::error::Error::source(error).map(http::with_causes).unwrap_or_default();
    let line = error.message().trim().lines().next().unwrap_or_default();
    let told = match (line, status(error)) {
        ("", Some(status)) => format!("{}: status {status}", error.kind()),
        ("", None) => error.kind().to_string(),
        _ if causes.is_empty() || line.contains(&causes) => format!("{}: {line}", error.kind()),
        _ => format!("{}: {line}: {causes}", error.kind()),
    };
    StoreFault::Object(told.chars().take(400).collect())
}

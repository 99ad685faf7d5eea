//! A repository's files in an object store (S3, Azure Blob Storage or Google Cloud Storage), in restic's layout. The
//! caller adds retries and deadlines.

mod azure;
mod connection;
mod gcs;
mod s3;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use opendal::{Error, ErrorKind, Operator, Writer};
use reqwest::Client;

use connection::Parts;
use s3::Bucket;
use stowaway_model::{Credential, S3Config, Secret};

use super::{file::Write, http};
use crate::StoreFault;

/// The maximum length of the message of a failed request.
const MAX_FAULT_CHARS: usize = 400;

/// A bucket or container, or a prefix in one.
#[derive(Clone, Debug)]
pub(in super::super) struct Objects {
    service: Arc<RwLock<Service>>,
}

/// A connection to the object store.
#[derive(Clone, Debug)]
struct Service {
    operator: Operator,
    parts: Parts,
    /// Set if the service has regions.
    bucket: Option<Bucket>,
}

impl Service {
    fn of_bucket(bucket: Bucket) -> Result<Self, String> {
        let (operator, parts) = bucket.connect()?;
        Ok(Self { operator, parts, bucket: Some(bucket) })
    }
}

impl Objects {
    /// Uses the given keys, or else the identity of the machine or pod.
    pub fn s3(config: &S3Config, credentials: &BTreeMap<Credential, Secret>, client: &Client) -> Result<Self, String> {
        Ok(Self::of(Service::of_bucket(Bucket::new(config, credentials, client))?))
    }

    fn of(service: Service) -> Self {
        Self { service: Arc::new(RwLock::new(service)) }
    }

    pub async fn stat(&self, path: &str) -> Result<u64, Error> {
        let stat = move |service: Service| async move {
            let found = service.operator.stat(path).await;
            if found.as_ref().is_err_and(|error| service.bucket.is_some() && matches!(status(error), Some(301 | 400))) {
                // The answer to a HEAD request has no body, which would contain the region. The answer to a listing has
                // a body.
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

    /// Lists the names and sizes of all objects of a folder, including its subfolders.
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
                    // A service that does not support conditions (501). The caller has checked just before that the
                    // object does not exist.
                    Err(error) if status(&error) == Some(501) => operator.write(path, content).await.map(drop),
                    written => written.map(drop),
                },
            }
        };
        self.attempt(write).await
    }

    /// Begins a multipart upload. The object becomes visible when the writer is closed; otherwise the writer must be
    /// aborted. The caller must have made another request before, so that the region is known.
    pub async fn begin(&self, path: &str, mode: Write, is_there: bool) -> Result<Writer, Error> {
        let Service { operator, parts, .. } = self.service();
        let writer = operator.writer_with(path);
        match &parts {
            Parts::Plain(operator) => operator.writer(path).await,
            Parts::OnlyIfAbsent => writer.if_not_exists(mode == Write::CreateNew).await,
            // A condition that always holds: no object has the generation 0.
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
        match self.in_reported_region(&used) {
            Some(other) => request(other).await,
            None => Err(refused),
        }
    }

    /// Returns a connection to the region that the service specified when it refused a request on the connection
    /// `used`.
    fn in_reported_region(&self, used: &Service) -> Option<Service> {
        let bucket = used.bucket.as_ref()?;
        let mut current = self.service.write().unwrap_or_else(PoisonError::into_inner);
        let is_corrected = current.bucket.as_ref().is_some_and(Bucket::is_corrected);
        if is_corrected {
            // Another request was refused for the same reason, and has already switched the connection.
            return (!bucket.is_corrected()).then(|| current.clone());
        }
        *current = Service::of_bucket(bucket.in_reported_region()?).ok()?;
        Some(current.clone())
    }
}

/// Returns the HTTP status of the service's answer. The library provides it only as text.
fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status: ")?;
    rest.get(..3)?.parse().ok()
}

/// Whether the service reports that the bucket or container itself does not exist. The answer to a HEAD request has no
/// body, so it does not report that.
pub(super) fn is_bucket_missing(error: &Error) -> bool {
    const TEXTS: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"];
    status(error) == Some(404) && TEXTS.iter().any(|text| error.message().contains(text))
}

/// Whether the service reports that it is full, or that a quota is exceeded.
pub(super) fn is_full(error: &Error) -> bool {
    const CODES: [&str; 4] = ["XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "StorageFull"];
    status(error) == Some(507) || CODES.iter().any(|code| error.message().contains(code))
}

/// Whether the service rejected the credentials, or no credentials were found.
pub(super) fn is_denied(error: &Error) -> bool {
    const CODES: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];
    let has_no_credentials = || error.to_string().contains("failed to load signing credential");
    error.kind() == ErrorKind::PermissionDenied
        || status(error) == Some(401)
        || CODES.iter().any(|code| error.message().contains(code))
        || has_no_credentials()
}

/// Whether the service refused the request permanently. A redirect that was not followed is such an answer.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Unsupported)
        || http::is_distrust(&http::with_causes(error))
        || status(error)
            .is_some_and(|status| (300..500).contains(&status) && ![408, 409, 425, 429, 499].contains(&status))
}

/// Formats the error of a failed request for users.
///
/// A Repository may specify any endpoint, and the message gets into its status. So the message contains nothing of the
/// answer's body, except the code and the message of an error in the services' format. It does not contain the
/// request's URL, whose query may contain a credential, and no part of an invalid credential.
pub(super) fn fault(error: &Error) -> StoreFault {
    let kind = error.kind();
    let message = error.message().trim();
    let shown = match status(error) {
        Some(status) => match service_error(message) {
            Some(text) => format!("{kind}: status {status}: {text}"),
            None => format!("{kind}: status {status}"),
        },
        None => {
            let causes = std::error::Error::source(error).map(http::with_causes).unwrap_or_default();
            // A message of the TLS library about a certificate is shown in full.
            let causes = if http::is_distrust(&causes) { causes } else { heads_of_causes(error) };
            [head(message), &causes].iter().filter(|text| !text.is_empty()).fold(kind.to_string(), |shown, text| {
                if shown.contains(*text) { shown } else { format!("{shown}: {text}") }
            })
        }
    };
    StoreFault::Object(shown.chars().take(MAX_FAULT_CHARS).collect())
}

/// Returns the code and the message of a service's error. The library provides them in the `Debug` format of its own
/// struct; for an answer in any other format it provides the body itself.
fn service_error(message: &str) -> Option<String> {
    const STRUCTS: [&str; 3] = ["S3Error {", "AzblobError {", "GcsErrorResponse {"];
    if !STRUCTS.iter().any(|name| message.starts_with(name)) {
        return None;
    }
    let field = |name: &str| {
        let (_, rest) = message.split_once(&format!("{name}: \""))?;
        let text = rest.split('"').next()?;
        (!text.is_empty()).then(|| text.trim_end_matches('\\').to_owned())
    };
    let is_plain =
        |code: &String| code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let code = field("code").filter(is_plain).or_else(|| field("reason").filter(is_plain));
    let fields: Vec<String> = [code, field("message")].into_iter().flatten().collect();
    (!fields.is_empty()).then(|| fields.join(": "))
}

/// Returns the causes of an error, each cut by [`head`].
fn heads_of_causes(error: &Error) -> String {
    let mut heads: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let head = head(&text).to_owned();
        if !head.is_empty() && !heads.contains(&head) {
            heads.push(head);
        }
        cause = error.source();
    }
    heads.join(": ")
}

/// Returns the text before the first character after which libraries quote a value, a body or a URL.
fn head(text: &str) -> &str {
    let end = text.find([':', '"', '\'', '`', '{', '<', '\n']).unwrap_or(text.len());
    text[..end].trim_end_matches(" (https").trim_end_matches(" (http").trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary-of-an-internal-service";

    fn answered(status: u16, message: &str) -> String {
        let error = Error::new(ErrorKind::Unexpected, message.to_owned())
            .with_context("response", format!("Parts {{ status: {status}, version: HTTP/1.1 }}"));
        fault(&error).to_string()
    }

    #[test]
    fn body_of_an_answer_is_not_shown_unless_it_is_an_error_of_the_service() {
        for body in [CANARY, &format!("<html><Code>{CANARY}</Code></html>"), &format!("{{\"token\": \"{CANARY}\"}}")] {
            assert_eq!(answered(500, body), "Unexpected: status 500");
        }
        let aws = r#"S3Error { code: "InvalidAccessKeyId", message: "The key does not exist.", resource: "/b/canary-of-an-internal-service", request_id: "1" }"#;
        assert_eq!(answered(403, aws), "Unexpected: status 403: InvalidAccessKeyId: The key does not exist.");
        let google = r#"GcsErrorResponse { error: GcsError { code: 403, message: "No access", errors: [GcsErrorDetail { reason: "forbidden" }] } }"#;
        assert_eq!(answered(403, google), "Unexpected: status 403: forbidden: No access");
    }

    #[test]
    fn missing_bucket_differs_from_a_missing_file_in_all_services() {
        let error = |message: &str| {
            Error::new(ErrorKind::NotFound, message.to_owned())
                .with_context("response", "Parts { status: 404, version: HTTP/1.1 }")
        };
        for body in [
            r#"S3Error { code: "NoSuchBucket", message: "The specified bucket does not exist" }"#,
            r#"AzblobError { code: "ContainerNotFound", message: "The specified container does not exist." }"#,
            r#"GcsErrorResponse { error: GcsError { code: 404, message: "The specified bucket does not exist." } }"#,
        ] {
            assert!(is_bucket_missing(&error(body)), "{body}");
        }
        assert!(!is_bucket_missing(&error(r#"S3Error { code: "NoSuchKey", message: "The key does not exist" }"#)));
    }

    #[test]
    fn cause_of_a_credential_that_cannot_be_used_is_named_without_its_content() {
        let parsed = serde_json::from_str::<u8>(&format!("\"{CANARY}\"")).unwrap_err();
        assert!(parsed.to_string().contains(CANARY));
        let shown = fault(&Error::new(ErrorKind::Unexpected, "signing http request").set_source(parsed)).to_string();
        assert_eq!(shown, "Unexpected: signing http request: invalid type");
        let exchange = std::io::Error::other(format!("exchange token failed: {CANARY}"));
        let shown = super::fault(&Error::new(ErrorKind::Unexpected, "signing http request").set_source(exchange));
        assert_eq!(shown.to_string(), "Unexpected: signing http request: exchange token failed");
    }

    #[test]
    fn cause_of_a_broken_connection_is_shown() {
        let refused = std::io::Error::from_raw_os_error(111);
        let shown = fault(&Error::new(ErrorKind::Unexpected, "send http request").set_source(refused)).to_string();
        assert_eq!(shown, "Unexpected: send http request: Connection refused (os error 111)");
    }
}

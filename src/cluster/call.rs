//! The time limits of calls to the API server, and the error of a call, which states what the caller was doing.

use std::{future::Future, time::Duration};

/// The time limit of a single read.
const MAX_CALL: Duration = Duration::from_secs(15);
/// The time for which the API server itself waits for one admission webhook: the largest `timeoutSeconds`.
const MAX_ADMISSION: Duration = Duration::from_secs(30);
/// The time limit of a single write.
const MAX_WRITE: Duration = MAX_ADMISSION.saturating_add(Duration::from_secs(5));
/// The time limit of a list, which may be long.
const MAX_LIST: Duration = Duration::from_secs(45);

/// Returns the response to a call, or an error when there is none within [`MAX_CALL`]. The API server may still
/// carry out the request after that.
pub(super) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    limited(MAX_CALL, call).await
}

/// Does the same as [`within`] for a write, which admission webhooks may delay.
pub(super) async fn admitted<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    limited(MAX_WRITE, call).await
}

/// Does the same as [`within`] for a list.
pub(super) async fn within_longer<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    limited(MAX_LIST, call).await
}

async fn limited<T>(limit: Duration, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_late| {
        let why = format!("no answer within {} s; an admission webhook may be slow", limit.as_secs());
        Err(kube::Error::Service(std::io::Error::new(std::io::ErrorKind::TimedOut, why).into()))
    })
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing}: {}", explain(source))]
pub struct CallError {
    /// The action which failed, and its object.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: Box<kube::Error>,
}

impl CallError {
    /// Creates the error in a `map_err`; `doing` states what was being done, on which object.
    pub fn at(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self { doing: doing.into(), source: Box::new(source) }
    }

    /// Whether the object exists and could not be parsed.
    pub fn is_unreadable(&self) -> bool {
        matches!(*self.source, kube::Error::SerdeError(_))
    }

    /// The HTTP status of the response, if there was a response.
    pub fn code(&self) -> Option<u16> {
        code(&self.source)
    }
}

/// The HTTP status of an error response.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The message of the API server where there is one, and else the message of the error.
pub(super) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => format!("{} ({})", status.message, status.code),
        kube::Error::Service(error) => error.to_string(),
        // The text of this error would quote the value which could not be parsed.
        kube::Error::SerdeError(error) => without_values(error),
        error => error.to_string(),
    }
}

/// The reason why JSON could not be parsed, without any part of the input, because an object's fields may hold
/// passwords.
pub fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field ") {
        return text;
    }
    let is_quote = |character: char| matches!(character, '"' | '`');
    let (Some(first), Some(last)) = (text.find(is_quote), text.rfind(is_quote)) else { return text };
    format!("{}…{}", &text[..first], &text[last + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn call_without_an_answer_has_an_end() {
        let error = limited(Duration::ZERO, std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert!(explain(&error).contains("no answer within"), "{error}");
    }

    #[tokio::test]
    async fn write_that_an_admission_webhook_delays_has_the_time_of_the_slowest_webhook() {
        assert!(MAX_WRITE > MAX_ADMISSION && MAX_CALL < MAX_ADMISSION);
        assert_eq!(admitted(async { Ok(7) }).await.unwrap(), 7);
    }

    #[test]
    fn response_that_cannot_be_read_is_named_without_its_content() {
        let read = |text: &str| without_values(&serde_json::from_str::<u32>(text).unwrap_err());
        assert_eq!(read("-17"), "invalid value: integer …, expected u32 at line 1 column 3");
        let secret = read(r#""hunter2 \" and `more`""#);
        assert!(secret.contains("invalid type: string") && !secret.contains("hunter2"), "{secret}");
        assert!(!secret.contains("more"), "{secret}");
    }
}

//! How long a call to the API server may take, and what can go wrong with it.
//!
//! It must not know what the call is for; the caller says it in words.

use std::{future::Future, time::Duration};

/// No single call takes longer. The API server itself waits up to 30 s for one admission webhook of others; the caller makes
/// the call again later rather than keep all other objects waiting.
const LONGEST_CALL: Duration = Duration::from_secs(15);
/// Nor does a list, which may be long.
const LONGEST_LIST: Duration = Duration::from_secs(45);

/// The answer to a call, or an error when there is none within [`LONGEST_CALL`]. The API server may carry out what was asked
/// of it all the same.
pub(super) async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    limited(LONGEST_CALL, call).await
}

/// The same for a list.
pub(super) async fn within_longer<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    limited(LONGEST_LIST, call).await
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
    /// What was being done, on which object.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: Box<kube::Error>,
}

impl CallError {
    /// For `map_err`: what was being done, on which object.
    pub fn at(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self { doing: doing.into(), source: Box::new(source) }
    }

    /// Whether an object was there and could not be read.
    pub fn is_unreadable(&self) -> bool {
        matches!(*self.source, kube::Error::SerdeError(_))
    }

    /// The HTTP status that the API server answered, if it answered.
    pub fn code(&self) -> Option<u16> {
        code(&self.source)
    }
}

/// The HTTP status of an answer.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The API server's own words, where there are some.
pub(super) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => format!("{} ({})", status.message, status.code),
        kube::Error::Service(error) => error.to_string(),
        // Its text quotes what could not be read.
        kube::Error::SerdeError(error) => without_values(error),
        error => error.to_string(),
    }
}

/// Why something cannot be read, without any part of it: an object's fields may hold passwords.
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

    #[test]
    fn what_cannot_be_read_is_named_without_its_content() {
        let read = |text: &str| without_values(&serde_json::from_str::<u32>(text).unwrap_err());
        assert_eq!(read("-17"), "invalid value: integer …, expected u32 at line 1 column 3");
        let secret = read(r#""hunter2 \" and `more`""#);
        assert!(secret.contains("invalid type: string") && !secret.contains("hunter2"), "{secret}");
        assert!(!secret.contains("more"), "{secret}");
    }
}

//! What can go wrong with a call to the API server.
//!
//! It must not know what the call is for; the caller says it in words.

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
        error => error.to_string(),
    }
}

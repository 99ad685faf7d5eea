//! The first error of a run that several tasks carry out.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::RepositoryError;

/// Records the first error of several tasks, and notifies the tasks that wait. Later errors mostly follow from the
/// first.
#[derive(Debug, Default)]
pub(super) struct FirstError {
    error: Mutex<Option<RepositoryError>>,
    happened: CancellationToken,
}

impl FirstError {
    pub fn set(&self, error: RepositoryError) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.happened.cancel();
    }

    pub fn take(&self) -> Option<RepositoryError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn happened(&self) -> &CancellationToken {
        &self.happened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_errors_do_not_replace_the_first() {
        let first = FirstError::default();
        assert!(!first.happened().is_cancelled());
        first.set(RepositoryError::NotFound { location: "first".into() });
        first.set(RepositoryError::Cancelled { location: "second".into() });
        assert!(first.happened().is_cancelled());
        assert!(matches!(first.take(), Some(RepositoryError::NotFound { .. })));
    }
}

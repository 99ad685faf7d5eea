//! The locks of an open repository: its own, and those of other clients.

use super::{foreign, probe::FoundLock, unreadable::UnreadableLock};
use crate::{Repository, RepositoryError, store::Store};

/// The note of [`Repository::lock_note`].
const REFUSED: &str = "the store refused the lock of this run, so the run read without a lock: a prune at the same time may \
                       have removed data that the run needed; everything that was read was compared with its hash";

impl Repository {
    /// Returns a note for users if the repository is read without a lock, because the store refuses writes.
    pub fn lock_note(&self) -> Option<&'static str> {
        self.lock.is_refused.then_some(REFUSED)
    }

    /// Returns the locks of other clients, and the lock files that cannot be read.
    pub async fn other_locks(&self) -> Result<(Vec<FoundLock>, Vec<UnreadableLock>), RepositoryError> {
        foreign::list(&self.store, &self.cipher, self.lock.current().await).await
    }

    /// Whether another client holds an exclusive lock. `store` is the store of this repository, possibly with another
    /// cancel token.
    pub(in super::super) async fn is_locked_by_another_exclusively(
        &self,
        store: &Store,
    ) -> Result<bool, RepositoryError> {
        let (locks, _) = foreign::list(store, &self.cipher, self.lock.current().await).await?;
        Ok(locks.iter().any(|lock| lock.exclusive))
    }
}

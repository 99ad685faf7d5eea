//! An open repository, and work under its lock.

use std::pin::pin;

use super::{
    RepositoryError,
    crypto::Cipher,
    format::{Id, MasterKey},
    lock::Lock,
    store::{Store, StoreWait},
};
use stowaway_model::DamagedPacks;

/// An open repository, in which Stowaway holds a lock.
pub struct Repository {
    pub(super) store: Store,
    pub(super) master: MasterKey,
    pub(super) cipher: Cipher,
    pub(super) version: u32,
    /// The polynomial by which content is cut into chunks, see [`chunker`](mod@crate::chunker).
    pub(super) polynomial: u64,
    pub(super) id: String,
    /// The key file that the password opened.
    pub(super) key: Id,
    /// See [`OpenOptions::damaged_packs`](crate::OpenOptions::damaged_packs).
    pub(super) damaged_packs: DamagedPacks,
    pub(super) lock: Lock,
}

impl Repository {
    /// The repository's own id, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Version of the repository's format: 1, or 2, which has compression.
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// The repository's location, without credentials.
    pub fn location(&self) -> &str {
        self.store.location()
    }

    /// Returns the current wait, if the run is waiting for the store.
    pub fn store_wait(&self) -> Option<StoreWait> {
        self.store.wait()
    }

    /// Runs `work` with a store whose requests are cancelled when the work ends or the lock is lost.
    pub(super) async fn with_lock<T, Work>(&self, work: impl FnOnce(Store) -> Work) -> Result<T, RepositoryError>
    where
        Work: Future<Output = Result<T, RepositoryError>>,
    {
        let run = self.store.with_child_token();
        let ends = run.cancel().clone();
        // Dropping this future also cancels requests that run in other tasks.
        let _ends_when_dropped = ends.clone().drop_guard();
        let mut work = pin!(work(run));
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.lock.lost().cancelled() => ends.cancel(),
        }
        // The work is not dropped in the middle, because its result reports whether a snapshot became visible before.
        match work.await {
            Err(RepositoryError::Cancelled { .. }) => self
                .lock
                .check(&self.store)
                .await
                .and(Err(RepositoryError::Cancelled { location: self.store.location().to_owned() })),
            other => other,
        }
    }

    /// Removes the lock. Dropping a repository also removes it, but in the background.
    pub async fn close(self) {
        self.lock.release().await;
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Repository")
            .field("location", &self.store.location())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

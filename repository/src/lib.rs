//! Repositories in restic's format: stores streams and folders, lists snapshots, restores files, folders and archives,
//! and does the maintenance. All code that touches stored data is here.
//!
//! This crate must not know Kubernetes. The formats of files and blobs are in [`mod@format`]. The crate guarantees the
//! following, each with a test in `tests/integration/repository`:
//!
//! 1. A source that fails ends the run, and a file that cannot be read is listed: [`archive`], [`folder`].
//! 2. The snapshot is written last, after a check that all files it needs are in the store: [`commit`].
//! 3. A listing that fails is never taken for an empty one: [`store`] returns a whole listing or an error.
//! 4. Every request of [`store`] has a deadline and bounded retries.
//! 5. restic's locks are written and respected: [`lock`].
//! 6. Memory is bounded for every operation, because data that grows with the repository or with a folder is in
//!    temporary files: [`scratch`].

mod archive;
mod blob_location;
mod blob_table;
mod chunker;
mod commit;
mod crypto;
mod crypto_stream;
mod damaged_packs;
mod directory;
mod error;
mod export;
mod first_error;
#[cfg(test)]
mod fixtures;
mod folder;
mod format;
mod index_file;
mod keys;
mod known_blobs;
#[cfg(test)]
mod large_tests;
mod lock;
mod long_blob;
mod maintenance;
mod open;
mod pack;
mod pack_check;
mod packer;
mod polynomial;
mod read;
mod remains;
mod scratch;
mod snapshot_files;
mod snapshots;
mod source;
mod store;
mod tree;
mod tree_nodes;
mod trees;
mod verify;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use tokio::sync::mpsc;

pub use directory::{each_entry, names};
pub use error::{RepositoryError, StoreFault};
pub use export::{ArchiveTarget, Archived, StoreAccess};
pub use folder::{
    FolderMetadata, FolderRules, LISTED, Listed, Listing, RestoredFolder, Shrunken, StoredFolder, TarContent, Trouble,
    Troubles, file_system_of, is_refusal, is_refusal_of_attribute, is_systems_own,
};
pub use keys::{KeySummary, add_key, change_password, list_keys, remove_key};
pub use known_blobs::Lacking;
pub use lock::{
    FoundLock, LOCK_REFRESH, Liveness, LockHolder, LockOwnerProbe, LockRules, NoProbe, ProcessesHere, Unlock, Unlocked,
    UnreadableLock,
};
pub use maintenance::{
    CheckReport, Finding, Findings, Forget, HarmedSnapshot, PruneReport, PruneRules, RepackReport, Unused, UnusedError,
};
pub use open::{create, open, open_exclusively, open_or_create, open_to_read, remove_locks};
pub use read::{Entry, EntryKind, StoredFile};
pub use remains::Remains;
pub use snapshot_files::{SnapshotList, UnreadableFile};
pub use snapshots::{SnapshotSummary, ambiguous, by_id, by_run};
pub use store::{StoreWait, Timeouts, install_transport, known_host_keys};

use self::format::{Id, MasterKey};
use stowaway_model::stream::StreamItem;
use stowaway_model::{BackendConfig, Connection, Credential, DamagedPacks, Proof, Secret, SnapshotIdentity};

/// The parameters for opening a repository.
#[derive(Clone, Debug)]
pub struct Access {
    pub backend: BackendConfig,
    /// Opens one of the repository's keys. A new key is created with this password.
    pub password: Secret,
    /// A second password, which is tried when `password` opens no key; see [`stowaway_model::StoredPassword`].
    pub untrimmed_password: Option<Secret>,
    /// Settings of the connection to the store. Each credential that `connection.credentials` lists must be in
    /// `credentials`.
    pub connection: Connection,
    pub credentials: BTreeMap<Credential, Secret>,
    /// The owner that Stowaway writes into its lock files.
    pub holder: LockHolder,
    /// How locks of other clients are treated.
    pub locks: LockRules,
    pub timeouts: Timeouts,
    /// The ids that the repository may have, 64 hex digits each. A repository with another id is not opened. If the
    /// list is empty, any id is accepted.
    pub expected_ids: Vec<String>,
    /// Packs that a check found damaged. What is stored or removed relies on none of them. A pack that is listed by
    /// mistake costs only storage.
    pub damaged_packs: DamagedPacks,
}

/// Options for storing a stream.
#[derive(Clone, Debug)]
pub struct StoreRules {
    /// Store a stream of 0 bytes instead of failing.
    pub allow_empty: bool,
    /// Tag a stream without proof as accepted, so that restores use it, instead of as unproven.
    pub accept_unproven: bool,
    /// The time of the snapshot and of the stored file.
    pub time: Timestamp,
    /// Set if the stream is the content of a block device, which is compared with its last good snapshot.
    pub device: Option<DeviceRules>,
}

/// How a block device is compared with its last good snapshot.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRules {
    /// Accept a device that is blank, or much smaller than in its last good snapshot.
    pub accept_shrunken: bool,
}

/// Counters of a running operation, which another thread may read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    uploaded: AtomicU64,
}

impl Progress {
    /// Bytes that were read from the source so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the store acknowledged so far.
    pub fn bytes_uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }
}

/// The result of storing a stream: the snapshot is visible and was read back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// SHA-256 of the stream, 64 hex digits.
    pub digest: String,
    /// Bytes that the run added to the store.
    pub added_bytes: u64,
    /// How it was proven that the stream is complete.
    pub proof: Proof,
    /// Set if a block device has lost its content since its last good snapshot; see [`StoredFolder::shrunken`].
    pub shrunken: Option<Shrunken>,
    /// Files of earlier runs that were missing from the repository, or could not be read, when the run began.
    pub lacking: Lacking,
}

/// An open repository, in which Stowaway holds a lock.
pub struct Repository {
    store: store::Store,
    master: MasterKey,
    cipher: crypto::Cipher,
    version: u32,
    /// The polynomial by which content is cut into chunks, see [`chunker`].
    polynomial: u64,
    id: String,
    /// The key file that the password opened.
    key: Id,
    /// See [`Access::damaged_packs`].
    damaged_packs: DamagedPacks,
    lock: lock::Lock,
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

    /// Stores a stream as the only file of a new snapshot. The snapshot becomes visible only if the stream ended with
    /// [`StreamItem::End`], all its bytes arrived, and all files that the snapshot needs are in the store. The snapshot gets
    /// the identity's tags, and tags for digest and proof.
    ///
    /// Errors: [`RepositoryError::Stream`] with the stream's own failure; [`RepositoryError::CommitUnknown`] if the
    /// snapshot may be visible nevertheless. After any other error no snapshot is visible.
    pub async fn store_stream(
        &self,
        identity: &SnapshotIdentity,
        rules: &StoreRules,
        pieces: mpsc::Receiver<StreamItem>,
        progress: Arc<Progress>,
    ) -> Result<Stored, RepositoryError> {
        let stored = |run| async move { archive::store_stream(self, &run, identity, rules, pieces, progress).await };
        self.with_lock(stored).await
    }

    /// Runs `work` with a store whose requests are cancelled when the work ends or the lock is lost.
    async fn with_lock<T, Work>(&self, work: impl FnOnce(store::Store) -> Work) -> Result<T, RepositoryError>
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

//! restic-format repositories: streams and folders in, snapshots listed, files, folders and archives out. Everything that touches
//! stored data is here.
//!
//! It must not know Kubernetes. Formats of small files are `rustic_core`'s, the engine; what is written, read, removed, checked
//! and restored is done here, since a green run must restore. Each of these has a test in
//! `tests/integration/repository`:
//!
//! 1. a failed source ends the run, and a file that cannot be read is listed: [`archive`], [`folder`];
//! 2. a snapshot is made last, after a look at all that it needs of the run: [`commit`];
//! 3. a failed listing is never an empty one: [`store`] answers wholly or not at all;
//! 4. every request of [`store`] has a deadline and bounded retries;
//! 5. restic's locks are written and honoured: [`lock`];
//! 6. memory has a bound, whatever is stored, restored or checked, because what grows with the repository, or with a folder, is
//!    in temporary files: [`scratch`].

mod archive;
mod blob_table;
mod chunker;
mod commit;
mod crypto;
mod crypto_stream;
mod engine;
mod error;
mod export;
#[cfg(test)]
mod fixtures;
mod folder;
mod index_file;
mod keys;
mod known;
#[cfg(test)]
mod large_tests;
mod lock;
mod long_blob;
mod open;
mod pack;
mod pack_check;
mod packer;
mod part;
mod read;
mod scratch;
mod snapshot_files;
mod snapshots;
mod source;
mod store;
mod tree;
mod tree_nodes;
mod trees;
mod upkeep;
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
use rustic_core::repofile::MasterKey;
use tokio::sync::mpsc;

pub use error::{RepositoryError, StoreFault};
pub use export::{ArchivePlace, Archived, StoreAccess};
pub use folder::{
    FolderMetadata, FolderRules, LISTED, RestoredFolder, Shrunken, StoredFolder, TarContent, Trouble, Troubles,
    is_refusal, is_refusal_of_attribute, is_systems_own,
};
pub(crate) use folder::{Listed, Listing};
pub use keys::{KeySummary, add_key, change_password, list_keys, remove_key};
pub use known::Lacking;
pub use lock::{
    FoundLock, LOCK_REFRESH, Liveness, LockHolder, LockJudge, LockRules, NoJudge, ProcessesHere, Unlock, Unlocked,
    UnreadableLock,
};
pub use open::{create, open, open_exclusively, open_or_create, open_to_read, remove_locks};
pub use read::{Entry, EntryKind, StoredFile};
pub use snapshot_files::{SnapshotList, UnreadableFile};
pub use snapshots::{SnapshotSummary, by_id, by_run};
pub use store::{Patience, StoreWait, install_transport, known_host_keys};
pub use upkeep::{
    CheckReport, Finding, Findings, Forget, HarmedSnapshot, PruneReport, PruneRules, RepackReport, Unused, UnusedError,
};

use crate::{
    model::{BackendConfig, Connection, Credential, Proof, Secret, SnapshotIdentity},
    stream::Piece,
};

/// All that opening a repository takes.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it is.
    pub backend: BackendConfig,
    /// Opens one of its keys, and is what a new key is made with.
    pub password: Secret,
    /// Tried when `password` opens no key; see [`crate::model::StoredPassword`].
    pub untrimmed_password: Option<Secret>,
    /// How its store is spoken to. Of its `credentials` none may be missing from the following.
    pub connection: Connection,
    /// What opens the store.
    pub credentials: BTreeMap<Credential, Secret>,
    /// Who we are to others that find our lock.
    pub holder: LockHolder,
    /// How we meet theirs.
    pub locks: LockRules,
    /// How long the store may take.
    pub patience: Patience,
    /// The ids that the repository may have, 64 hex digits each; any id when empty. One with another id is not opened.
    pub expected_ids: Vec<String>,
}

/// How a stream is stored.
#[derive(Clone, Debug)]
pub struct StoreRules {
    /// Store a stream of 0 bytes.
    pub allow_empty: bool,
    /// The snapshot's time, and the stored file's.
    pub time: Timestamp,
    /// Of a block device: how it is compared with its last good snapshot. Other streams are not.
    pub device: Option<DeviceRules>,
}

/// How a block device is compared with its last good snapshot.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRules {
    /// Whether it may be blank, or much smaller than that.
    pub accept_shrunken: bool,
}

/// What moves while a stream is stored; may be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    uploaded: AtomicU64,
}

impl Progress {
    /// Bytes of the stream that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the store acknowledged so far.
    pub fn bytes_uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }
}

/// A stream that is stored, visible, and was read back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Its SHA-256, 64 hex digits.
    pub digest: String,
    /// Bytes that the run added to the store.
    pub added_bytes: u64,
    /// How the stream's end was proven.
    pub proof: Proof,
    /// Whether a block device has lost its content since its last good snapshot; see [`StoredFolder::shrunken`].
    pub shrunken: Option<Shrunken>,
    /// What the repository lacked when the run began, and earlier runs had stored.
    pub lacking: Lacking,
}

/// An open repository, with a lock of ours in it.
pub struct Repository {
    store: store::Store,
    master: MasterKey,
    cipher: crypto::Cipher,
    version: u32,
    /// What content is cut by, see [`chunker`].
    polynomial: u64,
    id: String,
    /// The key file that the password opened.
    key: rustic_core::Id,
    lock: lock::Lock,
}

impl Repository {
    /// The repository's own id, 64 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Version of its format: 1, or 2, which has compression.
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// Where it is, without credentials.
    pub fn place(&self) -> &str {
        self.store.place()
    }

    /// Stores a stream as the one file of a new snapshot, which becomes visible only if the stream ended with
    /// [`Piece::End`], all its bytes arrived, and all that was written is there. The snapshot gets the identity's tags,
    /// and those for digest and proof.
    ///
    /// Errors: [`RepositoryError::Stream`] with the stream's own failure; [`RepositoryError::CommitUnknown`] when the
    /// snapshot may be visible all the same; in all other cases nothing is.
    pub async fn store_stream(
        &self,
        identity: &SnapshotIdentity,
        rules: &StoreRules,
        pieces: mpsc::Receiver<Piece>,
        progress: Arc<Progress>,
    ) -> Result<Stored, RepositoryError> {
        let stored = |run| async move { archive::store_stream(self, &run, identity, rules, pieces, progress).await };
        self.while_locked(stored).await
    }

    /// Does work whose requests to the store end with it, and when the lock is lost.
    async fn while_locked<T, Work>(&self, work: impl FnOnce(store::Store) -> Work) -> Result<T, RepositoryError>
    where
        Work: Future<Output = Result<T, RepositoryError>>,
    {
        let run = self.store.cancelled_with_its_run();
        let ends = run.cancel().clone();
        // Dropping this future ends the engine, too.
        let _ends_when_dropped = ends.clone().drop_guard();
        let mut work = pin!(work(run));
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.lock.lost().cancelled() => ends.cancel(),
        }
        // Not left alone in the middle: it says whether a snapshot became visible before that.
        match work.await {
            Err(RepositoryError::Cancelled { .. }) => self
                .lock
                .check(&self.store)
                .await
                .and(Err(RepositoryError::Cancelled { place: self.store.place().to_owned() })),
            other => other,
        }
    }

    /// Removes the lock. Dropping a repository does so, too, but does not wait for it.
    pub async fn close(self) {
        self.lock.release().await;
    }
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Repository")
            .field("place", &self.store.place())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

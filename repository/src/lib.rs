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
mod chunker;
mod commit;
mod crypto;
mod crypto_stream;
mod directory;
mod error;
mod export;
mod file_tree;
mod first_error;
#[cfg(test)]
mod fixtures;
mod folder;
mod format;
mod holder;
mod index;
mod keys;
#[cfg(test)]
mod large_tests;
mod lock;
mod long_blob;
mod maintenance;
mod open;
mod options;
mod pack;
mod packer;
mod polynomial;
mod progress;
mod read;
mod remains;
mod repository;
mod scratch;
mod snapshots;
mod source;
mod store;
mod trees;
mod verify;

pub use archive::{DeviceRules, StoreRules, Stored};
pub use directory::{each_entry, names};
pub use error::{RepositoryError, StoreFault};
pub use export::{ArchiveTarget, Archived, StoreAccess};
pub use folder::{
    FolderMetadata, FolderRules, LISTED, Listed, Listing, RestoredFolder, Shrunken, StoredFolder, TarContent, Trouble,
    Troubles, file_system_of, is_refusal, is_refusal_of_attribute, is_systems_own,
};
pub use holder::LockHolder;
pub use index::lacking::Lacking;
pub use keys::{KeySummary, add_key, change_password, list_keys, remove_key};
pub use lock::{
    FoundLock, LOCK_REFRESH, Liveness, LockOwnerProbe, LockRules, NoProbe, ProcessesHere, Unlock, Unlocked,
    UnreadableLock,
};
pub use maintenance::{
    CheckReport, Finding, Findings, Forget, HarmedSnapshot, PruneReport, PruneRules, RepackReport, Unused, UnusedError,
};
pub use open::{create, open, open_exclusively, open_or_create, open_to_read, remove_locks};
pub use options::OpenOptions;
pub use progress::Progress;
pub use read::{Entry, EntryKind, StoredFile};
pub use remains::Remains;
pub use repository::Repository;
pub use snapshots::snapshot_files::{SnapshotList, UnreadableFile};
pub use snapshots::summary::{SnapshotSummary, ambiguous, by_id, by_run};
pub use store::{StoreWait, Timeouts, install_transport, known_host_keys};

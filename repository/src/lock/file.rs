//! Reads and writes lock files.

use std::{fmt, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    super::{
        RepositoryError,
        crypto::{self, Cipher},
        format::{Id, LockFile},
        store::{Kind, Store, Write},
    },
    LockHolder,
    unreadable::UnreadableLock,
};

/// A lock in the repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundLock {
    /// The id of the lock file, 64 hex digits.
    pub id: String,
    /// The owner that the lock file names.
    pub holder: LockHolder,
    /// The holder's process, on its host or in its container.
    pub process: u32,
    /// Whether the lock excludes readers and writers. A shared lock excludes only exclusive locks.
    pub exclusive: bool,
    /// When the lock was last refreshed.
    pub refreshed: Timestamp,
}

impl fmt::Display for FoundLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} on {} (process {})", self.holder.user, self.holder.host, self.process)
    }
}

/// Writes a lock file, and returns its id.
pub(super) async fn write(
    store: &Store,
    cipher: &Cipher,
    version: u32,
    file: &LockFile,
) -> Result<Id, RepositoryError> {
    let broken = |what: String| RepositoryError::Internal { location: store.location().to_owned(), what };
    let json = serde_json::to_vec(file).map_err(|error| broken(error.to_string()))?;
    let content: Bytes = cipher.encrypt_file(&json, version).map_err(|error| broken(error.to_string()))?.into();
    let id = crypto::id_of(&content);
    store.write(Kind::Lock, &id, vec![content], Write::Replace).await?;
    Ok(id)
}

/// The result of reading a lock file.
#[derive(Debug)]
pub(super) enum Content {
    /// A lock, and its lease if it has one.
    Lock(FoundLock, Option<Duration>),
    Unreadable(UnreadableLock),
}

/// Reads a lock file. Returns none if the file does not exist any more.
pub(super) async fn read(store: &Store, cipher: &Cipher, id: &Id) -> Result<Option<Content>, RepositoryError> {
    let Some(content) = store.read(Kind::Lock, id).await? else { return Ok(None) };
    let file: Option<LockFile> = cipher.decrypt_file(&content).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let Some(file) = file else {
        let modified = store.modified(Kind::Lock, id).await?;
        let bytes = content.len() as u64;
        return Ok(Some(Content::Unreadable(UnreadableLock { path: Kind::Lock.path(id), bytes, modified })));
    };
    let lease = file.lease_seconds.map(Duration::from_secs);
    let lock = FoundLock {
        id: id.to_hex(),
        holder: LockHolder { host: file.hostname, user: file.username },
        process: file.pid,
        exclusive: file.exclusive,
        refreshed: file.time,
    };
    Ok(Some(Content::Lock(lock, lease)))
}

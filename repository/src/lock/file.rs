//! Reads and writes lock files.

use std::time::Duration;

use bytes::Bytes;

use super::{probe::FoundLock, unreadable::UnreadableLock};
use crate::{
    RepositoryError,
    crypto::{self, Cipher},
    format::{Id, LockFile},
    holder::LockHolder,
    store::{Kind, Store, Write},
};

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

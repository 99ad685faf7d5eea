//! The keys of a repository. As in restic, each key is a file which contains the master key, encrypted with a password.
//!
//! A new key is read back and opened before another key is removed, and the key in use is never removed without a
//! replacement. So there is always a password that opens the repository.

use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    OpenOptions, Repository, RepositoryError, crypto,
    format::{Id, KeyFile},
    open::{open, open_exclusively, open_key, open_to_read, write_key},
    store::Kind,
};
use stowaway_model::Secret;

/// The shortest accepted prefix of a key's id; restic prints 8 digits.
const SHORTEST_PREFIX: usize = 8;

/// A key of a repository.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySummary {
    /// 64 hex digits.
    pub id: String,
    /// Whether it is the key that the password opened.
    pub in_use: bool,
    /// The user who created the key; empty if the file does not contain it.
    pub user: String,
    /// The host on which the key was created; empty if the file does not contain it.
    pub host: String,
    pub created: Option<Timestamp>,
}

/// Returns all keys, ordered by id. Logs a warning about each file in the folder of keys that is not a key.
pub async fn list_keys(access: OpenOptions, cancel: CancellationToken) -> Result<Vec<KeySummary>, RepositoryError> {
    let repository = open_to_read(access, cancel).await?;
    let listed = list(&repository).await;
    repository.close().await;
    listed
}

/// Adds a key with this password, and returns its id.
///
/// Errors: the written key does not open the repository. The key is removed then.
pub async fn add_key(
    access: OpenOptions,
    cancel: CancellationToken,
    password: Secret,
) -> Result<String, RepositoryError> {
    let new = OpenOptions { password, untrimmed_password: None, ..access.clone() };
    let repository = open(access, cancel).await?;
    let added = add(&repository, &new).await;
    repository.close().await;
    added.map(Id::to_hex)
}

/// Removes the only key whose id begins with `prefix`, under an exclusive lock, and returns its id.
///
/// Errors: [`RepositoryError::InvalidRequest`] if the prefix matches no or several keys, or matches the key in use. A
/// last key is always in use.
pub async fn remove_key(
    access: OpenOptions,
    cancel: CancellationToken,
    prefix: &str,
) -> Result<String, RepositoryError> {
    let repository = open_exclusively(access, cancel).await?;
    let removed = remove(&repository, prefix).await;
    repository.close().await;
    removed.map(Id::to_hex)
}

/// Replaces the key in use by a key with a new password, under an exclusive lock. Returns the ids of the new and of the
/// old key.
///
/// Errors: as [`add_key`]. The old key is not removed then.
pub async fn change_password(
    access: OpenOptions,
    cancel: CancellationToken,
    password: Secret,
) -> Result<(String, String), RepositoryError> {
    let new = OpenOptions { password, untrimmed_password: None, ..access.clone() };
    let repository = open_exclusively(access, cancel).await?;
    let changed = async {
        let added = add(&repository, &new).await?;
        let old = repository.key;
        repository.store.remove(Kind::Key, &old).await?;
        Ok((added.to_hex(), old.to_hex()))
    }
    .await;
    repository.close().await;
    changed
}

impl Repository {
    /// Returns the number of keys. Files that are not keys do not count.
    pub async fn count_keys(&self) -> Result<u32, RepositoryError> {
        Ok(u32::try_from(list(self).await?.len()).unwrap_or(u32::MAX))
    }
}

async fn list(repository: &Repository) -> Result<Vec<KeySummary>, RepositoryError> {
    let store = &repository.store;
    let mut keys: Vec<Id> = store.list(Kind::Key).await?.into_iter().map(|(id, _)| id).collect();
    keys.sort_unstable();
    let mut summaries = Vec::with_capacity(keys.len());
    for id in keys {
        // The key was removed after it was listed.
        let Some(content) = store.read(Kind::Key, &id).await? else { continue };
        let file: KeyFile = match serde_json::from_slice(&content) {
            Ok(file) if crypto::id_of(&content) == id => file,
            // Such a file opens nothing, and does not prevent a client from using other keys.
            _ => {
                let path = Kind::Key.path(&id);
                tracing::warn!("{path} is not a key file, or is not what was written: remove it from the store");
                continue;
            }
        };
        summaries.push(KeySummary {
            id: id.to_hex(),
            in_use: id == repository.key,
            user: file.username.unwrap_or_default(),
            host: file.hostname.unwrap_or_default(),
            created: file.created,
        });
    }
    Ok(summaries)
}

async fn add(repository: &Repository, new: &OpenOptions) -> Result<Id, RepositoryError> {
    let store = &repository.store;
    let id = write_key(store, new, &repository.master).await?;
    // The key must open the master key when it is read back, whatever the store answered to the write.
    match open_key(store, &new.password, &id).await {
        Ok(Some(master)) if master == repository.master => Ok(id),
        outcome => {
            store.remove(Kind::Key, &id).await?;
            Err(outcome
                .err()
                .unwrap_or_else(|| store.damaged("the key that was written does not open it, and was removed")))
        }
    }
}

async fn remove(repository: &Repository, prefix: &str) -> Result<Id, RepositoryError> {
    let wrong = |text: String| Err(RepositoryError::InvalidRequest(text));
    let wanted = prefix.to_ascii_lowercase();
    if wanted.len() < SHORTEST_PREFIX || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return wrong(format!("{prefix:?} is not a key id: give at least {SHORTEST_PREFIX} hex digits"));
    }
    let keys: Vec<Id> = repository.store.list(Kind::Key).await?.into_iter().map(|(id, _)| id).collect();
    let mut found = keys.iter().filter(|id| id.to_hex().starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(id), None) if *id == repository.key => {
            let what = if keys.len() == 1 { "the last key: nothing would open the repository" } else { "in use" };
            wrong(format!("key {prefix} is {what}; open the repository with another key's password to remove this one"))
        }
        (Some(id), None) => {
            repository.store.remove(Kind::Key, id).await?;
            Ok(*id)
        }
        (Some(_), Some(_)) => wrong(format!("several keys begin with {prefix}: give more digits")),
        (None, _) => wrong(format!("there is no key {prefix}; `stowaway key list` shows all keys")),
    }
}

//! The keys of a repository: each a file that opens the same master key with a password of its own, as restic has them.
//!
//! A key is read back and opened before any other goes, and the one that we came in by never goes: so there is always a
//! password that opens what is stored. It must not know where passwords come from.

use jiff::Timestamp;
use rustic_core::{
    Id,
    repofile::{KeyFile, MasterKey},
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Access, Repository, RepositoryError, crypto,
    open::{open, open_exclusively, open_key, write_key},
    store::Kind,
};
use crate::model::Secret;

/// The shortest part of an id that names a key; restic shows 8 digits.
const SHORTEST_PREFIX: usize = 8;

/// One key.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeySummary {
    /// 64 hex digits.
    pub id: String,
    /// Whether it is the one that the password opened.
    pub in_use: bool,
    /// Who made it, where the file says so.
    pub user: String,
    /// On which machine.
    pub host: String,
    /// When.
    pub created: Option<Timestamp>,
}

/// All keys, in the order of their ids. A warning names files among them that are no keys.
pub async fn list_keys(access: Access, cancel: CancellationToken) -> Result<Vec<KeySummary>, RepositoryError> {
    let repository = open(access, cancel).await?;
    let listed = list(&repository).await;
    repository.close().await;
    listed
}

/// Adds a key that this password opens; gives its id.
///
/// Errors: what was written does not open the repository; then it is taken away.
pub async fn add_key(access: Access, cancel: CancellationToken, password: Secret) -> Result<String, RepositoryError> {
    let new = Access { password, untrimmed_password: None, ..access.clone() };
    let repository = open(access, cancel).await?;
    let added = add(&repository, &new).await;
    repository.close().await;
    added.map(hex)
}

/// Removes the one key whose id begins so; gives its id. All others are kept off meanwhile.
///
/// Errors: [`RepositoryError::InvalidRequest`] when none or several begin so, or when it is the one in use, which the last
/// one always is.
pub async fn remove_key(access: Access, cancel: CancellationToken, prefix: &str) -> Result<String, RepositoryError> {
    let repository = open_exclusively(access, cancel).await?;
    let removed = remove(&repository, prefix).await;
    repository.close().await;
    removed.map(hex)
}

/// Puts a key that the new password opens in place of the one in use; gives the ids of the new and of the old one. All
/// others are kept off meanwhile.
///
/// Errors: as [`add_key`]; the old key then stays.
pub async fn change_password(
    access: Access,
    cancel: CancellationToken,
    password: Secret,
) -> Result<(String, String), RepositoryError> {
    let new = Access { password, untrimmed_password: None, ..access.clone() };
    let repository = open_exclusively(access, cancel).await?;
    let changed = async {
        let added = add(&repository, &new).await?;
        let old = repository.key;
        repository.store.remove(Kind::Key, &old).await?;
        Ok((hex(added), hex(old)))
    }
    .await;
    repository.close().await;
    changed
}

impl Repository {
    /// How many keys there are: passwords that open it. Files among them that are no keys do not count.
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
        // Gone since the listing.
        let Some(content) = store.read(Kind::Key, &id).await? else { continue };
        let file: KeyFile = match serde_json::from_slice(&content) {
            Ok(file) if crypto::id_of(&content) == id => file,
            // It opens nothing, and does not keep a client from the others.
            _ => {
                let path = Kind::Key.path(&id);
                tracing::warn!("{path} is no key file, or is not what was written: remove it from the store");
                continue;
            }
        };
        summaries.push(KeySummary {
            id: hex(id),
            in_use: id == repository.key,
            user: file.username.unwrap_or_default(),
            host: file.hostname.unwrap_or_default(),
            created: file.created.map(|created| created.timestamp()),
        });
    }
    Ok(summaries)
}

async fn add(repository: &Repository, new: &Access) -> Result<Id, RepositoryError> {
    let store = &repository.store;
    let id = write_key(store, new, &repository.master).await?;
    // What cannot be opened again is no key, whatever the store said.
    match open_key(store, &new.password, &id).await {
        Ok(Some(master)) if is_same(&master, &repository.master) => Ok(id),
        outcome => {
            store.remove(Kind::Key, &id).await?;
            Err(outcome
                .err()
                .unwrap_or_else(|| store.damaged("the key that was written does not open it, and is removed")))
        }
    }
}

async fn remove(repository: &Repository, prefix: &str) -> Result<Id, RepositoryError> {
    let wrong = |text: String| Err(RepositoryError::InvalidRequest(text));
    let wanted = prefix.to_ascii_lowercase();
    if wanted.len() < SHORTEST_PREFIX || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return wrong(format!("{prefix:?} is no key's id: give at least {SHORTEST_PREFIX} hex digits of it"));
    }
    let keys: Vec<Id> = repository.store.list(Kind::Key).await?.into_iter().map(|(id, _)| id).collect();
    let mut found = keys.iter().filter(|id| hex(**id).starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(id), None) if *id == repository.key => {
            let what = if keys.len() == 1 { "the last one: nothing would open the repository" } else { "in use" };
            wrong(format!("key {prefix} is {what}; open the repository with another key's password to remove this one"))
        }
        (Some(id), None) => {
            repository.store.remove(Kind::Key, id).await?;
            Ok(*id)
        }
        (Some(_), Some(_)) => wrong(format!("several keys begin with {prefix}: give more digits")),
        (None, _) => wrong(format!("there is no key {prefix}; `stowaway key list` shows them")),
    }
}

fn is_same(one: &MasterKey, other: &MasterKey) -> bool {
    one.encrypt == other.encrypt && one.mac.k == other.mac.k && one.mac.r == other.mac.r
}

fn hex(id: Id) -> String {
    id.to_hex().as_str().to_owned()
}

//! restic's lock files, written and honoured: as long as ours is there, no restic prunes what we write or read.
//!
//! Format: restic's design document, section "Locks". Only locks of the non-exclusive kind are taken here.

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rustic_core::Id;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    RepositoryError, crypto,
    crypto::Cipher,
    store::{Kind, Store, Write},
};

/// Who a lock says that holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockHolder {
    /// Host name; a pod's name.
    pub host: String,
    /// The user, or what tells one holder from another: `pod UID ...`.
    pub user: String,
}

/// How a lock is kept.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    refresh: Duration,
    /// After a failed refresh.
    retry: Duration,
    /// Given up when not refreshed for so long, well before others think that it is stale.
    lost: Duration,
}

/// restic refreshes its own as often.
const RHYTHM: Rhythm =
    Rhythm { refresh: Duration::from_mins(5), retry: Duration::from_secs(30), lost: Duration::from_mins(20) };
/// A lock that was not refreshed for so long is nobody's any more.
const STALE: SignedDuration = SignedDuration::from_mins(30);
/// Two that write their locks at the same moment see each other's after this; as in restic.
const SETTLE: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize, Serialize)]
struct LockFile {
    time: Timestamp,
    #[serde(default)]
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

/// A lock of ours, refreshed until it is dropped or released.
#[derive(Debug)]
pub(super) struct Lock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Which file is ours at the moment; none after it was released.
    current: Mutex<Option<Id>>,
    ended: CancellationToken,
    lost: CancellationToken,
    runtime: Handle,
    /// Not cancelled with the run: the lock has to go all the same.
    cleaner: Store,
}

impl Lock {
    /// Takes a lock that lets others read and write, but not remove.
    pub async fn take(
        store: &Store,
        cipher: &Cipher,
        version: u32,
        holder: &LockHolder,
    ) -> Result<Self, RepositoryError> {
        Self::take_and_keep(store, cipher, version, holder, RHYTHM).await
    }

    async fn take_and_keep(
        store: &Store,
        cipher: &Cipher,
        version: u32,
        holder: &LockHolder,
        rhythm: Rhythm,
    ) -> Result<Self, RepositoryError> {
        refuse_exclusive(store, cipher, None).await?;
        let ours = Ours { store: store.clone(), cipher: cipher.clone(), version, holder: holder.clone() };
        let id = ours.write().await?;
        let shared = Arc::new(Shared {
            current: Mutex::new(Some(id)),
            ended: CancellationToken::new(),
            lost: CancellationToken::new(),
            runtime: Handle::current(),
            cleaner: store.for_a_last_look(),
        });
        let lock = Self { shared: Arc::clone(&shared) };
        sleep(SETTLE).await;
        if let Err(error) = refuse_exclusive(store, cipher, Some(id)).await {
            lock.release().await;
            return Err(error);
        }
        tokio::spawn(async move {
            tokio::select! {
                () = shared.ended.cancelled() => {}
                () = refresh(&shared, rhythm, &ours) => shared.lost.cancel(),
            }
        });
        Ok(lock)
    }

    /// Cancelled when the lock could not be kept.
    pub fn lost(&self) -> &CancellationToken {
        &self.shared.lost
    }

    /// The lock's file is there: nobody has removed it, and then perhaps pruned.
    pub async fn check(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.shared.lost.is_cancelled() {
            return Err(lost(store, NOT_REFRESHED));
        }
        let current = self.shared.current.lock().await;
        match *current {
            Some(id) if store.stat(Kind::Lock, &id).await?.is_some() => Ok(()),
            _ => Err(lost(store, "somebody removed it")),
        }
    }

    /// Removes the lock's file. One that cannot be removed goes stale by itself.
    pub async fn release(&self) {
        self.shared.release().await;
    }
}

const NOT_REFRESHED: &str = "it could not be refreshed";

fn lost(store: &Store, why: &str) -> RepositoryError {
    RepositoryError::LockLost { place: store.place().to_owned(), why: why.to_owned() }
}

impl Shared {
    async fn release(&self) {
        self.ended.cancel();
        if let Some(id) = self.current.lock().await.take()
            && let Err(error) = self.cleaner.remove(Kind::Lock, &id).await
        {
            tracing::warn!("the repository's lock could not be removed, and is ignored after 30 minutes: {error}");
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.shared.ended.cancel();
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move { shared.release().await });
    }
}

/// Replaces the lock's file by a younger one again and again; returns when it failed for too long.
async fn refresh(shared: &Shared, rhythm: Rhythm, our: &Ours) {
    let mut refreshed = Instant::now();
    let mut pause = rhythm.refresh;
    loop {
        sleep(pause).await;
        let mut current = shared.current.lock().await;
        match our.write().await {
            Ok(id) => {
                let old = current.replace(id);
                drop(current);
                (refreshed, pause) = (Instant::now(), rhythm.refresh);
                if let Some(old) = old
                    && let Err(error) = our.store.remove(Kind::Lock, &old).await
                {
                    tracing::warn!("an older lock of this run could not be removed: {error}");
                }
            }
            Err(error) => {
                drop(current);
                tracing::warn!("the repository's lock could not be refreshed: {error}");
                if refreshed.elapsed() > rhythm.lost {
                    return;
                }
                pause = rhythm.retry;
            }
        }
    }
}

/// What our lock files are made of.
#[derive(Clone)]
struct Ours {
    store: Store,
    cipher: Cipher,
    version: u32,
    holder: LockHolder,
}

impl Ours {
    async fn write(&self) -> Result<Id, RepositoryError> {
        // The owner of our own entry in /proc; where that is missing, restic's answer on such systems.
        let (uid, gid) = std::fs::metadata("/proc/self").map_or((0, 0), |me| (me.uid(), me.gid()));
        let file = LockFile {
            time: Timestamp::now(),
            exclusive: false,
            hostname: self.holder.host.clone(),
            username: self.holder.user.clone(),
            pid: std::process::id(),
            uid,
            gid,
        };
        write_lock(&self.store, &self.cipher, self.version, &file).await
    }
}

async fn write_lock(store: &Store, cipher: &Cipher, version: u32, file: &LockFile) -> Result<Id, RepositoryError> {
    let broken = |what: String| RepositoryError::Internal { place: store.place().to_owned(), what };
    let json = serde_json::to_vec(file).map_err(|error| broken(error.to_string()))?;
    let content: Bytes = cipher.encrypt_file(&json, version).map_err(|error| broken(error.to_string()))?.into();
    let id = crypto::id_of(&content);
    store.write(Kind::Lock, &id, vec![content], Write::Replace).await?;
    Ok(id)
}

async fn refuse_exclusive(store: &Store, cipher: &Cipher, own: Option<Id>) -> Result<(), RepositoryError> {
    for (id, _) in store.list(Kind::Lock).await? {
        if Some(id) == own {
            continue;
        }
        // Gone since the listing: it was released.
        let Some(content) = store.read(Kind::Lock, &id).await? else { continue };
        let lock: LockFile = cipher
            .decrypt_file(&content)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| store.damaged(format!("the lock {} cannot be read", Kind::Lock.path(&id))))?;
        if lock.exclusive && Timestamp::now().duration_since(lock.time) < STALE {
            let holder = format!("{} on {} (process {})", lock.username, lock.hostname, lock.pid);
            return Err(RepositoryError::Locked { place: store.place().to_owned(), holder, since: lock.time });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

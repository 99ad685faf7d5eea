//! Locks of other clients: decides which of them conflict with a lock of this process, and removes those whose holders
//! have died. A [`LockOwnerProbe`] determines whether a holder is alive.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::{
    file::{self, Content},
    probe::{FoundLock, Liveness, LockOwnerProbe},
    rules::{Purpose, STALE},
    seen::{ObservedLocks, counts_for, has_no_owner, has_stopped},
    unreadable::UnreadableLock,
};
use crate::{
    RepositoryError,
    crypto::Cipher,
    format::Id,
    store::{Kind, Store},
};

/// The deadline of a [`LockOwnerProbe`]. After it the liveness of a holder is unknown.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Fails if the lock of another client conflicts: an exclusive lock conflicts with any other lock. Removes the locks of
/// dead holders. Ignores the lock `own`. Always reads all locks, so that `seen` observes each of them from the first
/// call on.
pub(super) async fn check_foreign_locks(
    store: &Store,
    cipher: &Cipher,
    probe: &dyn LockOwnerProbe,
    purpose: Purpose,
    own: Option<Id>,
    seen: &mut ObservedLocks,
) -> Result<(), RepositoryError> {
    let mut conflict = None;
    for (id, bytes) in store.list(Kind::Lock).await? {
        if Some(id) == own {
            continue;
        }
        let Some(content) = file::read(store, cipher, &id).await? else {
            // The lock was released after it was listed.
            continue;
        };
        let unchanged = seen.unchanged_for((id, bytes), Instant::now());
        let (holder, since, lease) = match content {
            Content::Unreadable(lock) => {
                if has_no_owner(unchanged) || !lock.is_conflicting(purpose.is_exclusive(), Timestamp::now()) {
                    tracing::warn!("{lock}, is ignored; `stowaway unlock` removes it once it is 30 minutes old");
                    continue;
                }
                (lock.to_string(), lock.modified.unwrap_or_else(Timestamp::now), None)
            }
            Content::Lock(lock, lease) => {
                let liveness = liveness_of(&lock, probe).await;
                if is_abandoned(&lock, liveness) {
                    remove(store, &id, &lock).await;
                    continue;
                }
                if !purpose.is_exclusive() && !lock.exclusive {
                    continue;
                }
                let has_stopped =
                    liveness != Liveness::Alive && lease.is_some_and(|lease| has_stopped(lease, unchanged));
                if purpose == Purpose::Read && has_stopped {
                    tracing::warn!(
                        "reading despite the exclusive lock of {lock}, which was not refreshed for {} s: its holder \
                         has stopped removing data",
                        unchanged.as_secs()
                    );
                    continue;
                }
                (lock.to_string(), lock.refreshed, lease.filter(|_| purpose == Purpose::Read))
            }
        };
        let (location, expiry) = (store.location().to_owned(), expiry(lease));
        conflict.get_or_insert(RepositoryError::Locked { location, holder, since, expiry });
    }
    conflict.map_or(Ok(()), Err)
}

/// When the lock of a holder that does not run any more ends. `lease` is set for a reader, and a lock of Stowaway.
fn expiry(lease: Option<Duration>) -> String {
    const UNLOCK: &str = "`stowaway unlock` removes the lock 30 minutes after the last refresh";
    match lease.map(counts_for) {
        None => UNLOCK.to_owned(),
        Some(longest) => {
            format!("a restore waits for its lock for at most {} minutes, and {UNLOCK}", longest.as_secs().div_ceil(60))
        }
    }
}

/// Returns all locks except `own`, and the lock files that cannot be read.
pub(super) async fn list(
    store: &Store,
    cipher: &Cipher,
    own: Option<Id>,
) -> Result<(Vec<FoundLock>, Vec<UnreadableLock>), RepositoryError> {
    let (mut locks, mut unreadable) = (Vec::new(), Vec::new());
    for (id, _) in store.list(Kind::Lock).await?.into_iter().filter(|(id, _)| Some(*id) != own) {
        match file::read(store, cipher, &id).await? {
            Some(Content::Lock(lock, _)) => locks.push(lock),
            Some(Content::Unreadable(lock)) => unreadable.push(lock),
            None => {}
        }
    }
    Ok((locks, unreadable))
}

async fn liveness_of(lock: &FoundLock, probe: &dyn LockOwnerProbe) -> Liveness {
    timeout(PROBE_TIMEOUT, probe.probe(lock)).await.unwrap_or(Liveness::Unknown)
}

fn is_abandoned(lock: &FoundLock, liveness: Liveness) -> bool {
    match liveness {
        Liveness::Alive => false,
        Liveness::Dead => true,
        // The difference is absolute, because the lock of a holder whose clock is ahead would otherwise stay until that
        // time.
        Liveness::Unknown => Timestamp::now().duration_since(lock.refreshed).abs() >= STALE,
    }
}

/// Removes the lock of a dead holder. A lock that cannot be removed is ignored nevertheless.
async fn remove(store: &Store, id: &Id, lock: &FoundLock) {
    let (location, since) = (store.location(), lock.refreshed);
    match store.remove(Kind::Lock, id).await {
        Ok(()) => {
            tracing::warn!("removed the lock of {lock} in {location}, last refreshed {since:.0}: its holder has ended");
        }
        Err(error) => tracing::warn!("the lock of {lock}, whose holder has ended, could not be removed: {error}"),
    }
}

/// Which locks to remove.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unlock {
    /// The locks whose holders have ended, according to the probe or to restic's rule.
    Dead,
    /// All locks, even those of running clients. Data that such a client writes afterwards may be removed by a prune.
    All,
}

/// The result of removing locks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unlocked {
    /// Locks that were removed.
    pub removed: Vec<FoundLock>,
    /// Lock files that could not be read and were removed.
    pub removed_unreadable: Vec<UnreadableLock>,
    /// Lock files that could not be read and were kept, because they are not stale or the store does not report their
    /// age.
    pub kept_unreadable: Vec<UnreadableLock>,
    /// Errors for the locks that could not be removed.
    pub failed: Vec<String>,
}

/// Removes locks without taking one, and reports which locks it removed; see [`super::super::remove_locks`]. A lock
/// that cannot be read or removed does not prevent the removal of the other locks.
pub(in super::super) async fn remove_locks(
    store: &Store,
    cipher: &Cipher,
    probe: &dyn LockOwnerProbe,
    which: Unlock,
) -> Result<Unlocked, RepositoryError> {
    let mut unlocked = Unlocked::default();
    for (id, _) in store.list(Kind::Lock).await? {
        let content = match file::read(store, cipher, &id).await {
            Ok(Some(content)) => content,
            Ok(None) => continue,
            Err(error @ RepositoryError::Cancelled { .. }) => return Err(error),
            Err(error) => {
                unlocked.failed.push(error.to_string());
                continue;
            }
        };
        let is_removed = match &content {
            _ if which == Unlock::All => true,
            Content::Lock(lock, _) => is_abandoned(lock, liveness_of(lock, probe).await),
            Content::Unreadable(lock) => lock.is_stale(Timestamp::now()),
        };
        match (content, is_removed) {
            (Content::Lock(..), false) => {}
            (Content::Unreadable(lock), false) => unlocked.kept_unreadable.push(lock),
            (content, true) => match (store.remove(Kind::Lock, &id).await, content) {
                (Ok(()), Content::Lock(lock, _)) => unlocked.removed.push(lock),
                (Ok(()), Content::Unreadable(lock)) => unlocked.removed_unreadable.push(lock),
                (Err(error @ RepositoryError::Cancelled { .. }), _) => return Err(error),
                (Err(error), _) => unlocked.failed.push(error.to_string()),
            },
        }
    }
    Ok(unlocked)
}

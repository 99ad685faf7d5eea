//! Locks of others: which ones count, and which ones are nobody's any more and go.
//!
//! It must not know how somebody's life is found out: a [`LockJudge`] says that.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use rustic_core::Id;
use tokio::time::timeout;

use super::{
    super::{
        RepositoryError,
        crypto::Cipher,
        store::{Kind, Store},
    },
    LockHolder,
    file::{self, FoundLock},
};

/// A lock that was not refreshed for so long is nobody's any more; restic's own rule.
pub(super) const STALE: SignedDuration = SignedDuration::from_mins(30);
/// A judge that has not answered by then knows nothing.
const JUDGEMENT: Duration = Duration::from_secs(10);

/// Whether the holder of a lock still runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Liveness {
    /// It runs: its lock counts, however old it is.
    Alive,
    /// It is gone for good: its lock is removed at once.
    Dead,
    /// Nobody can tell: its lock counts until it is stale by restic's rule, 30 minutes after it was last refreshed. A lock that is
    /// dated 30 minutes ahead is stale as well.
    Unknown,
}

/// Says who is still alive of those that have left locks.
pub trait LockJudge: fmt::Debug + Send + Sync {
    /// Judges the holder of a lock. An answer that takes longer than 10 s counts as [`Liveness::Unknown`].
    fn judge<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness>;
}

/// Knows nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJudge;

impl LockJudge for NoJudge {
    fn judge<'a>(&'a self, _: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        Box::pin(async { Liveness::Unknown })
    }
}

/// Knows the processes of this machine: a lock of the same host and user whose process is gone is dead. Not for
/// containers, which share a host name and count processes each on their own.
#[derive(Clone, Debug)]
pub struct ProcessesHere {
    /// How this process signs its own locks.
    pub holder: LockHolder,
}

impl LockJudge for ProcessesHere {
    fn judge<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        let processes = Path::new("/proc");
        // Processes of other users may be hidden; where there is no such folder, nothing is known.
        let is_gone = lock.holder == self.holder
            && processes.join("self").exists()
            && !processes.join(lock.process.to_string()).exists();
        Box::pin(async move { if is_gone { Liveness::Dead } else { Liveness::Unknown } })
    }
}

/// How locks of others are met.
#[derive(Clone, Debug)]
pub struct LockRules {
    /// Who says whether their holders are alive.
    pub judge: Arc<dyn LockJudge>,
    /// How long a lock that is in the way is waited for; zero: not at all.
    pub wait: Duration,
}

impl Default for LockRules {
    fn default() -> Self {
        Self { judge: Arc::new(NoJudge), wait: Duration::ZERO }
    }
}

/// Refuses if a lock of somebody else is in the way: any is for an exclusive one, an exclusive one is for any. Removes
/// those of the dead. `own` is passed by.
pub(super) async fn honour(
    store: &Store,
    cipher: &Cipher,
    judge: &dyn LockJudge,
    exclusive: bool,
    own: Option<Id>,
) -> Result<(), RepositoryError> {
    for (id, _) in store.list(Kind::Lock).await? {
        if Some(id) == own {
            continue;
        }
        // Gone since the listing: it was released.
        let Some(lock) = file::read(store, cipher, &id).await? else { continue };
        if is_nobodys(&lock, judge).await {
            remove(store, &id, &lock).await;
        } else if exclusive || lock.exclusive {
            return Err(RepositoryError::Locked {
                place: store.place().to_owned(),
                holder: lock.to_string(),
                since: lock.refreshed,
            });
        }
    }
    Ok(())
}

/// All locks but that one.
pub(super) async fn list(store: &Store, cipher: &Cipher, own: Option<Id>) -> Result<Vec<FoundLock>, RepositoryError> {
    let mut locks = Vec::new();
    for (id, _) in store.list(Kind::Lock).await? {
        if Some(id) != own
            && let Some(lock) = file::read(store, cipher, &id).await?
        {
            locks.push(lock);
        }
    }
    Ok(locks)
}

async fn is_nobodys(lock: &FoundLock, judge: &dyn LockJudge) -> bool {
    match timeout(JUDGEMENT, judge.judge(lock)).await.unwrap_or(Liveness::Unknown) {
        Liveness::Alive => false,
        Liveness::Dead => true,
        // Of a holder whose clock is ahead, too: else its lock would stay until that time has come.
        Liveness::Unknown => Timestamp::now().duration_since(lock.refreshed).abs() >= STALE,
    }
}

/// One that cannot be removed counts no more, all the same: its holder is gone.
async fn remove(store: &Store, id: &Id, lock: &FoundLock) {
    let (place, since) = (store.place(), lock.refreshed);
    match store.remove(Kind::Lock, id).await {
        Ok(()) => {
            tracing::warn!("removed the lock of {lock} in {place}, last refreshed {since:.0}: its holder is gone");
        }
        Err(error) => tracing::warn!("the lock of {lock}, whose holder is gone, could not be removed: {error}"),
    }
}

/// Which locks are to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unlock {
    /// Those whose holders are gone, as the judge or restic's rule says.
    Dead,
    /// All, whoever may still hold one. What such a one writes afterwards may be lost to a prune.
    All,
}

/// Removes locks without taking one, and tells which; see [`super::super::remove_locks`].
pub(in super::super) async fn remove_locks(
    store: &Store,
    cipher: &Cipher,
    judge: &dyn LockJudge,
    which: Unlock,
) -> Result<Vec<FoundLock>, RepositoryError> {
    let mut removed = Vec::new();
    for (id, _) in store.list(Kind::Lock).await? {
        let lock = match file::read(store, cipher, &id).await {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            // Nobody can tell whose it is, so that only "all" means it, too.
            Err(RepositoryError::Damaged { .. }) if which == Unlock::All => {
                store.remove(Kind::Lock, &id).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if which == Unlock::All || is_nobodys(&lock, judge).await {
            store.remove(Kind::Lock, &id).await?;
            removed.push(lock);
        }
    }
    Ok(removed)
}

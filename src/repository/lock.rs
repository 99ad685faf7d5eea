//! restic's locks, taken, kept and honoured: as long as ours is there, no restic prunes what we write or read, and as long
//! as an exclusive one of ours is there, no restic reads what we prune.
//!
//! It must not know what is done under a lock.

mod file;
mod foreign;
mod unreadable;

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rand::RngExt;
use rustic_core::Id;
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::foreign::remove_locks;
pub use self::{
    file::FoundLock,
    foreign::{Liveness, LockJudge, LockRules, NoJudge, ProcessesHere, Unlock, Unlocked},
    unreadable::UnreadableLock,
};
use self::{file::LockFile, foreign::honour};
use super::{
    Repository, RepositoryError,
    crypto::Cipher,
    store::{Kind, Store},
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

/// How often a lock is refreshed; restic refreshes its own as often.
pub const LOCK_REFRESH: Duration = Duration::from_mins(5);
const RHYTHM: Rhythm = Rhythm { refresh: LOCK_REFRESH, retry: Duration::from_secs(30), lost: Duration::from_mins(20) };
/// Two that write their locks at the same moment see each other's after this; as in restic.
const SETTLE: Duration = Duration::from_millis(200);

/// Between the first two looks at a lock that is in the way; doubled each time, up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A lock of ours, refreshed until it is dropped or released.
#[derive(Debug)]
pub(super) struct Lock {
    exclusive: bool,
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
    /// Whether it keeps off all others.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
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

    /// Its file at the moment.
    async fn current(&self) -> Option<Id> {
        *self.shared.current.lock().await
    }

    /// Removes the lock's file. One that cannot be removed goes stale by itself.
    pub async fn release(&self) {
        self.shared.release().await;
    }
}

impl Repository {
    /// The locks of others that are in the repository now, and the lock files that cannot be read.
    pub async fn other_locks(&self) -> Result<(Vec<FoundLock>, Vec<UnreadableLock>), RepositoryError> {
        foreign::list(&self.store, &self.cipher, self.lock.current().await).await
    }

    /// Whether another client keeps off all others, by a lock in that store, which is this repository's.
    pub(super) async fn is_locked_by_another_exclusively(&self, store: &Store) -> Result<bool, RepositoryError> {
        let (locks, _) = foreign::list(store, &self.cipher, self.lock.current().await).await?;
        Ok(locks.iter().any(|lock| lock.exclusive))
    }
}

const NOT_REFRESHED: &str = "it could not be refreshed, or somebody removed it";

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

/// Replaces the lock's file by a younger one again and again; returns when it failed for too long, or when somebody has
/// removed it: a younger one would hide that others had their way in between.
async fn refresh(shared: &Shared, rhythm: Rhythm, our: &Wanted) {
    let mut refreshed = Instant::now();
    let mut pause = rhythm.refresh;
    loop {
        sleep(pause).await;
        let mut current = shared.current.lock().await;
        let Some(old) = *current else { return };
        let written = match our.store.stat(Kind::Lock, &old).await {
            Ok(Some(_)) => our.write().await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match written {
            Ok(id) => {
                *current = Some(id);
                drop(current);
                (refreshed, pause) = (Instant::now(), rhythm.refresh);
                if let Err(error) = our.store.remove(Kind::Lock, &old).await {
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

/// A lock that somebody here wants, and what its files are made of.
#[derive(Clone)]
pub(super) struct Wanted {
    pub store: Store,
    pub cipher: Cipher,
    /// The repository's format.
    pub version: u32,
    pub holder: LockHolder,
    /// Others may neither read nor write: for what removes. Else they may, but not remove.
    pub exclusive: bool,
}

impl Wanted {
    /// Takes the lock, and waits as long as the rules say while another is in the way. Errors:
    /// [`RepositoryError::Locked`].
    pub async fn take(&self, rules: &LockRules) -> Result<Lock, RepositoryError> {
        let deadline = Instant::now() + rules.wait;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.try_to_take(rules, RHYTHM).await {
                Err(error @ RepositoryError::Locked { .. }) => error,
                taken => return taken,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            tracing::info!(seconds = left.as_secs(), "waiting for a lock: {error}");
            // Spread, so that two that want it at once do not meet again and again.
            let spread = pause.mul_f64(rand::rng().random_range(0.5..1.0)).min(left);
            tokio::select! {
                () = sleep(spread) => {}
                () = self.store.cancel().cancelled() => {
                    return Err(RepositoryError::Cancelled { place: self.store.place().to_owned() });
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_take(&self, rules: &LockRules, rhythm: Rhythm) -> Result<Lock, RepositoryError> {
        let (store, cipher, judge) = (&self.store, &self.cipher, &*rules.judge);
        honour(store, cipher, judge, self.exclusive, None).await?;
        let id = self.write().await?;
        let shared = Arc::new(Shared {
            current: Mutex::new(Some(id)),
            ended: CancellationToken::new(),
            lost: CancellationToken::new(),
            runtime: Handle::current(),
            cleaner: store.for_a_last_look(),
        });
        let lock = Lock { exclusive: self.exclusive, shared: Arc::clone(&shared) };
        sleep(SETTLE).await;
        if let Err(error) = honour(store, cipher, judge, self.exclusive, Some(id)).await {
            lock.release().await;
            return Err(error);
        }
        let ours = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shared.ended.cancelled() => {}
                () = refresh(&shared, rhythm, &ours) => shared.lost.cancel(),
            }
        });
        Ok(lock)
    }

    async fn write(&self) -> Result<Id, RepositoryError> {
        // The owner of our own entry in /proc; where that is missing, restic's answer on such systems.
        let (uid, gid) = std::fs::metadata("/proc/self").map_or((0, 0), |me| (me.uid(), me.gid()));
        let file = LockFile {
            time: Timestamp::now(),
            exclusive: self.exclusive,
            hostname: self.holder.host.clone(),
            username: self.holder.user.clone(),
            pid: std::process::id(),
            uid,
            gid,
        };
        file::write(&self.store, &self.cipher, self.version, &file).await
    }
}

#[cfg(test)]
mod tests;

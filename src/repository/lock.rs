//! restic's locks, taken, kept and honoured: as long as ours is there, no restic prunes what we write or read, and as long
//! as an exclusive one of ours is there, no restic reads what we prune.
//!
//! It must not know what is done under a lock.

mod file;
mod foreign;
mod seen;
mod unreadable;

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rand::RngExt;
use rustic_core::Id;
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::foreign::{Purpose, remove_locks};
pub use self::{
    file::FoundLock,
    foreign::{Liveness, LockJudge, LockRules, NoJudge, ProcessesHere, Unlock, Unlocked},
    unreadable::UnreadableLock,
};
use self::{file::LockFile, foreign::honour, seen::Seen};
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

impl Rhythm {
    /// What removes is short, and sound wherever it ends. So it ends soon after its lock can no longer be refreshed, and those
    /// who only read need not wait for half an hour after its death.
    fn of(purpose: Purpose) -> Self {
        if purpose.is_exclusive() { EXCLUSIVE } else { SHARED }
    }
}

/// How often a lock is refreshed at the least; restic refreshes its own as often.
pub const LOCK_REFRESH: Duration = Duration::from_mins(5);
const SHARED: Rhythm = Rhythm { refresh: LOCK_REFRESH, retry: Duration::from_secs(30), lost: Duration::from_mins(20) };
const EXCLUSIVE: Rhythm =
    Rhythm { refresh: Duration::from_mins(1), retry: Duration::from_secs(10), lost: Duration::from_mins(5) };
/// Two that write their locks at the same moment see each other's after this; as in restic.
const SETTLE: Duration = Duration::from_millis(200);

/// Between the first two looks at a lock that is in the way; doubled each time, up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A lock of ours, refreshed until it is dropped or released.
#[derive(Debug)]
pub(super) struct Lock {
    purpose: Purpose,
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
        self.purpose.is_exclusive()
    }

    /// Cancelled when the lock could not be kept.
    pub fn lost(&self) -> &CancellationToken {
        &self.shared.lost
    }

    /// The lock's file is there: no other client has removed it, and then perhaps pruned. It is refreshed meanwhile, however
    /// long the store takes to answer.
    pub async fn check(&self, store: &Store) -> Result<(), RepositoryError> {
        loop {
            self.must_be_kept(store)?;
            let current = self.current().await;
            let is_there = match current {
                Some(id) => store.stat(Kind::Lock, &id).await?.is_some(),
                None => false,
            };
            self.must_be_kept(store)?;
            if is_there {
                return Ok(());
            }
            // Otherwise a refresh has replaced the file that was looked for.
            if current.is_none() || self.current().await == current {
                return Err(lost(store, "another client removed it"));
            }
        }
    }

    /// Refuses what would make something visible under a lock that was taken to read: it may stand beside the lock of a prune.
    pub fn must_allow_writing(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.purpose != Purpose::Read {
            return Ok(());
        }
        let what = "a run that opened it to read tried to store a snapshot".to_owned();
        Err(RepositoryError::Internal { place: store.place().to_owned(), what })
    }

    fn must_be_kept(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.shared.lost.is_cancelled() { Err(lost(store, NOT_REFRESHED)) } else { Ok(()) }
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

/// When a lock was refreshed: before its file was written, since others see it from then on.
#[derive(Clone, Copy, Debug)]
struct Moment {
    instant: Instant,
    /// The file's time. A machine that was suspended has missed that time passed, but for this clock.
    time: Timestamp,
}

impl Moment {
    fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }

    /// How much is left of such a lease.
    fn left(&self, lease: Duration) -> Duration {
        let passed = Duration::try_from(Timestamp::now().duration_since(self.time)).unwrap_or_default();
        lease.saturating_sub(passed.max(self.instant.elapsed()))
    }
}

/// Replaces the lock's file by a younger one again and again; returns once it was not refreshed for too long, whatever is
/// under way then, or when another client has removed it: a younger one would hide what others did in between.
async fn refresh(shared: &Shared, rhythm: Rhythm, mut refreshed: Moment, our: &Wanted) {
    let mut pause = rhythm.refresh;
    loop {
        sleep(pause).await;
        let left = refreshed.left(rhythm.lost);
        if left.is_zero() {
            return;
        }
        match timeout(left, renew(shared, our)).await {
            Ok(Ok(Some((moment, old)))) => {
                (refreshed, pause) = (moment, rhythm.refresh);
                if let Err(error) = our.store.remove(Kind::Lock, &old).await {
                    tracing::warn!("an older lock of this run could not be removed: {error}");
                }
            }
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!("the repository's lock could not be refreshed: {error}");
                pause = rhythm.retry.min(refreshed.left(rhythm.lost));
            }
        }
    }
}

/// Writes a younger file, and returns which one it replaces; none if that is missing.
async fn renew(shared: &Shared, our: &Wanted) -> Result<Option<(Moment, Id)>, RepositoryError> {
    let mut current = shared.current.lock().await;
    let Some(old) = *current else { return Ok(None) };
    if our.store.stat(Kind::Lock, &old).await?.is_none() {
        return Ok(None);
    }
    let (id, moment) = our.write().await?;
    *current = Some(id);
    Ok(Some((moment, old)))
}

/// A lock that somebody here wants, and what its files are made of.
#[derive(Clone)]
pub(super) struct Wanted {
    pub store: Store,
    pub cipher: Cipher,
    /// The repository's format.
    pub version: u32,
    pub holder: LockHolder,
    /// What it is taken for.
    pub purpose: Purpose,
}

impl Wanted {
    /// Takes the lock, and waits as long as the rules say while another is in the way. Errors:
    /// [`RepositoryError::Locked`].
    pub async fn take(&self, rules: &LockRules) -> Result<Lock, RepositoryError> {
        let deadline = Instant::now() + rules.wait;
        let (mut pause, mut seen) = (FIRST_PAUSE, Seen::default());
        loop {
            let error = match self.try_to_take(rules, Rhythm::of(self.purpose), &mut seen).await {
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

    async fn try_to_take(&self, rules: &LockRules, rhythm: Rhythm, seen: &mut Seen) -> Result<Lock, RepositoryError> {
        let (store, cipher, judge) = (&self.store, &self.cipher, &*rules.judge);
        honour(store, cipher, judge, self.purpose, None, seen).await?;
        let (id, taken) = self.write().await?;
        let shared = Arc::new(Shared {
            current: Mutex::new(Some(id)),
            ended: CancellationToken::new(),
            lost: CancellationToken::new(),
            runtime: Handle::current(),
            cleaner: store.for_a_last_look(),
        });
        let lock = Lock { purpose: self.purpose, shared: Arc::clone(&shared) };
        sleep(SETTLE).await;
        if let Err(error) = honour(store, cipher, judge, self.purpose, Some(id), seen).await {
            lock.release().await;
            return Err(error);
        }
        let ours = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shared.ended.cancelled() => {}
                () = refresh(&shared, rhythm, taken, &ours) => shared.lost.cancel(),
            }
        });
        Ok(lock)
    }

    /// Writes a new file, and returns from when on others may see it.
    async fn write(&self) -> Result<(Id, Moment), RepositoryError> {
        // The owner of our own entry in /proc; where that is missing, restic's answer on such systems.
        let (uid, gid) = std::fs::metadata("/proc/self").map_or((0, 0), |me| (me.uid(), me.gid()));
        let (exclusive, moment) = (self.purpose.is_exclusive(), Moment::now());
        let file = LockFile {
            time: moment.time,
            exclusive,
            hostname: self.holder.host.clone(),
            username: self.holder.user.clone(),
            pid: std::process::id(),
            uid,
            gid,
            lease_seconds: exclusive.then_some(EXCLUSIVE.lost.as_secs()),
        };
        Ok((file::write(&self.store, &self.cipher, self.version, &file).await?, moment))
    }
}

#[cfg(test)]
mod tests;

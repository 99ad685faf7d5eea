//! Locks in restic's format: takes them, refreshes them, and respects those of other clients. While Stowaway holds a
//! shared lock, no restic prunes the data that Stowaway reads or writes. While Stowaway holds an exclusive lock, no
//! restic reads or writes.

mod file;
mod foreign;
mod probe;
mod rules;
mod seen;
mod status;
mod unreadable;

use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rand::RngExt;
use tokio::{
    runtime::Handle,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{foreign::check_foreign_locks, seen::ObservedLocks};
pub(super) use self::{foreign::remove_locks, rules::Purpose};
pub use self::{
    foreign::{Unlock, Unlocked},
    probe::{FoundLock, Liveness, LockOwnerProbe, NoProbe, ProcessesHere},
    rules::{LOCK_REFRESH, LockRules},
    unreadable::UnreadableLock,
};
use super::{
    RepositoryError,
    crypto::Cipher,
    format::{Id, LockFile},
    holder::LockHolder,
    store::{Kind, Store},
};

/// When a lock is refreshed and when it is given up.
#[derive(Clone, Copy, Debug)]
struct RefreshTiming {
    refresh: Duration,
    /// The delay after a failed refresh.
    retry: Duration,
    /// The lock is given up when it was not refreshed for this long, well before other clients treat it as stale.
    lost: Duration,
}

impl RefreshTiming {
    /// A removal is short, and leaves a consistent repository wherever it is interrupted. So it ends soon after its
    /// exclusive lock can no longer be refreshed, and readers need not wait half an hour after its process has died.
    fn of(purpose: Purpose) -> Self {
        if purpose.is_exclusive() { EXCLUSIVE } else { SHARED }
    }
}

const SHARED: RefreshTiming =
    RefreshTiming { refresh: LOCK_REFRESH, retry: Duration::from_secs(30), lost: Duration::from_mins(20) };
const EXCLUSIVE: RefreshTiming =
    RefreshTiming { refresh: Duration::from_mins(1), retry: Duration::from_secs(10), lost: Duration::from_mins(5) };
/// After this delay two clients that wrote their locks at the same moment see each other's lock; as in restic.
const SETTLE_DELAY: Duration = Duration::from_millis(200);

/// The delay before the first retry while another lock conflicts. It doubles with each retry, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A lock that this process holds. It is refreshed until it is released or dropped.
#[derive(Debug)]
pub(super) struct Lock {
    purpose: Purpose,
    /// Whether the store refused the lock's file, so that other clients do not see this lock; only for reading.
    is_refused: bool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The current lock file; none after the lock was released.
    current: Mutex<Option<Id>>,
    ended: CancellationToken,
    lost: CancellationToken,
    runtime: Handle,
    /// A store that is not cancelled with the run, because the lock must also be removed after a cancellation.
    cleaner: Store,
}

impl Lock {
    /// Whether the lock excludes all other clients.
    pub fn is_exclusive(&self) -> bool {
        self.purpose.is_exclusive()
    }

    /// A token that is cancelled when the lock is lost.
    pub fn lost(&self) -> &CancellationToken {
        &self.shared.lost
    }

    /// Fails unless the lock's file exists: another client may have removed the lock and then pruned. The lock
    /// continues to be refreshed during the check, however long the store takes to answer. A lock whose file the store
    /// refused cannot be lost.
    pub async fn check(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.is_refused {
            return Ok(());
        }
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
            // If the current file has changed, a refresh has replaced the file that was checked.
            if current.is_none() || self.current().await == current {
                return Err(lost(store, "another client removed it"));
            }
        }
    }

    /// Fails if the lock was taken for reading. No snapshot may be made visible under such a lock, because it may
    /// coexist with the lock of a prune.
    pub fn must_allow_writing(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.purpose != Purpose::Read {
            return Ok(());
        }
        let what = "a run that opened it for reading tried to store a snapshot".to_owned();
        Err(RepositoryError::Internal { location: store.location().to_owned(), what })
    }

    fn must_be_kept(&self, store: &Store) -> Result<(), RepositoryError> {
        if self.shared.lost.is_cancelled() { Err(lost(store, NOT_REFRESHED)) } else { Ok(()) }
    }

    /// Returns the current lock file.
    async fn current(&self) -> Option<Id> {
        *self.shared.current.lock().await
    }

    /// Removes the lock's file. A file that cannot be removed becomes stale by itself.
    pub async fn release(&self) {
        self.shared.release().await;
    }
}

const NOT_REFRESHED: &str = "it could not be refreshed, or another client removed it";

fn lost(store: &Store, why: &str) -> RepositoryError {
    RepositoryError::LockLost { location: store.location().to_owned(), why: why.to_owned() }
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

/// The time of a refresh, taken before the lock file is written, because other clients may see the file from then on.
#[derive(Clone, Copy, Debug)]
struct RefreshTime {
    instant: Instant,
    /// The time in the lock file. This clock also counts the time during which the machine was suspended.
    time: Timestamp,
}

impl RefreshTime {
    fn now() -> Self {
        Self { instant: Instant::now(), time: Timestamp::now() }
    }

    /// Returns the rest of a lease that began at this refresh.
    fn left(&self, lease: Duration) -> Duration {
        let passed = Duration::try_from(Timestamp::now().duration_since(self.time)).unwrap_or_default();
        lease.saturating_sub(passed.max(self.instant.elapsed()))
    }
}

/// Replaces the lock's file by a newer one periodically. Returns when the lock was not refreshed for too long, even
/// during a request, or when another client has removed the file: a newer file would hide what other clients did
/// meanwhile.
async fn refresh(shared: &Shared, timing: RefreshTiming, mut refreshed: RefreshTime, request: &LockRequest) {
    let mut pause = timing.refresh;
    loop {
        sleep(pause).await;
        let left = refreshed.left(timing.lost);
        if left.is_zero() {
            return;
        }
        match timeout(left, renew(shared, request)).await {
            Ok(Ok(Some((time, old)))) => {
                (refreshed, pause) = (time, timing.refresh);
                if let Err(error) = request.store.remove(Kind::Lock, &old).await {
                    tracing::warn!("an older lock of this run could not be removed: {error}");
                }
            }
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!("the repository's lock could not be refreshed: {error}");
                pause = timing.retry.min(refreshed.left(timing.lost));
            }
        }
    }
}

/// Writes a newer lock file. Returns the file that it replaces, or none if that file is missing.
async fn renew(shared: &Shared, request: &LockRequest) -> Result<Option<(RefreshTime, Id)>, RepositoryError> {
    let mut current = shared.current.lock().await;
    let Some(old) = *current else { return Ok(None) };
    if request.store.stat(Kind::Lock, &old).await?.is_none() {
        return Ok(None);
    }
    let (id, time) = request.write().await?;
    *current = Some(id);
    Ok(Some((time, old)))
}

/// A lock that this process takes, and the content of its files.
#[derive(Clone)]
pub(super) struct LockRequest {
    pub store: Store,
    pub cipher: Cipher,
    /// The version of the repository's format.
    pub version: u32,
    pub holder: LockHolder,
    pub purpose: Purpose,
}

impl LockRequest {
    /// Takes the lock. Waits up to `rules.wait` while the lock of another client conflicts. If the store refuses the
    /// lock's file, a reader continues without the file.
    ///
    /// Errors: [`RepositoryError::Locked`].
    pub async fn take(&self, rules: &LockRules) -> Result<Lock, RepositoryError> {
        let deadline = Instant::now() + rules.wait;
        let (mut pause, mut seen) = (FIRST_PAUSE, ObservedLocks::default());
        loop {
            let error = match self.try_to_take(rules, RefreshTiming::of(self.purpose), &mut seen).await {
                Err(error @ RepositoryError::Locked { .. }) => error,
                taken => return taken,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            tracing::info!(seconds = left.as_secs(), "waiting for a lock: {error}");
            // The jitter keeps two clients that want a lock at the same time from colliding repeatedly.
            let spread = pause.mul_f64(rand::rng().random_range(0.5..1.0)).min(left);
            tokio::select! {
                () = sleep(spread) => {}
                () = self.store.cancel().cancelled() => {
                    return Err(RepositoryError::Cancelled { location: self.store.location().to_owned() });
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_take(
        &self,
        rules: &LockRules,
        timing: RefreshTiming,
        seen: &mut ObservedLocks,
    ) -> Result<Lock, RepositoryError> {
        let (store, cipher, probe) = (&self.store, &self.cipher, &*rules.probe);
        check_foreign_locks(store, cipher, probe, self.purpose, None, seen).await?;
        let (id, taken) = match self.write().await {
            // Only a refusal counts. After a timeout or any other failure, the file may have been written.
            Err(refused @ RepositoryError::AccessDenied { .. }) if self.purpose == Purpose::Read => {
                tracing::warn!(
                    "reading without a lock: {refused}. A prune at the same time may remove data that this run needs; \
                     everything that is read is compared with its hash"
                );
                return Ok(self.lock_of(None));
            }
            written => written?,
        };
        let lock = self.lock_of(Some(id));
        let shared = Arc::clone(&lock.shared);
        sleep(SETTLE_DELAY).await;
        if let Err(error) = check_foreign_locks(store, cipher, probe, self.purpose, Some(id), seen).await {
            lock.release().await;
            return Err(error);
        }
        let request = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shared.ended.cancelled() => {}
                () = refresh(&shared, timing, taken, &request) => shared.lost.cancel(),
            }
        });
        Ok(lock)
    }

    /// A lock with this file; without a file if the store refused it.
    fn lock_of(&self, current: Option<Id>) -> Lock {
        let is_refused = current.is_none();
        let shared = Shared {
            current: Mutex::new(current),
            ended: CancellationToken::new(),
            lost: CancellationToken::new(),
            runtime: Handle::current(),
            cleaner: self.store.for_final_request(),
        };
        Lock { purpose: self.purpose, is_refused, shared: Arc::new(shared) }
    }

    /// Writes a new lock file. Also returns the time from which other clients may see it.
    async fn write(&self) -> Result<(Id, RefreshTime), RepositoryError> {
        // The owner of this process's entry in /proc. If that is missing, 0, as restic writes on such systems.
        let (uid, gid) = std::fs::metadata("/proc/self").map_or((0, 0), |me| (me.uid(), me.gid()));
        let (exclusive, refreshed) = (self.purpose.is_exclusive(), RefreshTime::now());
        let file = LockFile {
            time: refreshed.time,
            exclusive,
            hostname: self.holder.host.clone(),
            username: self.holder.user.clone(),
            pid: std::process::id(),
            uid,
            gid,
            lease_seconds: exclusive.then_some(EXCLUSIVE.lost.as_secs()),
        };
        Ok((file::write(&self.store, &self.cipher, self.version, &file).await?, refreshed))
    }
}

#[cfg(test)]
mod tests;

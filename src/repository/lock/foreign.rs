//! Locks of others: which ones count, and which ones are nobody's any more and go.
//!
//! It must not know how somebody's life is found out: a [`LockJudge`] says that.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use rustic_core::Id;
use tokio::time::{Instant, timeout};

use super::{
    super::{
        RepositoryError,
        crypto::Cipher,
        store::{Kind, Store},
    },
    LockHolder,
    file::{self, Content, FoundLock},
    seen::{Seen, has_no_owner, has_stopped},
    unreadable::UnreadableLock,
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
    /// Unknown: its lock counts until it is stale by restic's rule, 30 minutes after it was last refreshed. A lock that is
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

/// Knows the processes of this machine: a lock of the same holder whose process is gone is dead. The holder must name all
/// that tells one numbering of processes from another, see [`LockHolder::of_this_process`], because containers share a host
/// name and number their processes each on their own.
#[derive(Clone, Debug)]
pub struct ProcessesHere {
    /// How this process signs its own locks.
    pub holder: LockHolder,
}

impl LockJudge for ProcessesHere {
    fn judge<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        let processes = Path::new("/proc");
        // The folder must be of this process's own PID namespace, and show processes of other users as well.
        let own = std::fs::read_link(processes.join("self")).ok();
        let is_own_folder = own.is_some_and(|own| own == Path::new(&std::process::id().to_string()));
        let is_gone = lock.holder == self.holder
            && is_own_folder
            && processes.join("1").exists()
            && !processes.join(lock.process.to_string()).exists();
        Box::pin(async move { if is_gone { Liveness::Dead } else { Liveness::Unknown } })
    }
}

impl LockHolder {
    /// A process of this machine, by host and user. The user names the PID namespace and the boot, too: what has another one
    /// numbers its processes differently, so that a missing number proves nothing. Where the system does not tell both, the
    /// holder is that of this very process, and no other one is ever judged by it.
    pub fn of_this_process(host: String, user: &str) -> Self {
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned());
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let numbering = match (namespace, boot.as_deref().and_then(|boot| boot.trim().get(..BOOT_DIGITS))) {
            (Some(namespace), Some(boot)) => format!("{namespace} boot {boot}"),
            _ => format!("unknown processes {:016x}", rand::random::<u64>()),
        };
        Self { host, user: format!("{user} [{numbering}]") }
    }
}

/// So much of a boot's random id distinguishes it from others.
const BOOT_DIGITS: usize = 8;

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

/// What a lock is taken for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Purpose {
    /// To read. Others may read and write, and not remove.
    Read,
    /// To write, and to rely on what is there. Others may read and write, and not remove.
    Write,
    /// To remove. Others may neither read nor write.
    Remove,
}

impl Purpose {
    /// Whether the lock keeps off all others.
    pub fn is_exclusive(self) -> bool {
        self == Self::Remove
    }
}

/// Refuses if a lock of another client is in the way: any is for an exclusive one, an exclusive one is for any. Removes
/// those of the dead. `own` is passed by. All locks are read, so that `seen` counts for all of them from the first look on.
pub(super) async fn honour(
    store: &Store,
    cipher: &Cipher,
    judge: &dyn LockJudge,
    purpose: Purpose,
    own: Option<Id>,
    seen: &mut Seen,
) -> Result<(), RepositoryError> {
    let mut in_the_way = None;
    for (id, bytes) in store.list(Kind::Lock).await? {
        if Some(id) == own {
            continue;
        }
        let Some(content) = file::read(store, cipher, &id).await? else {
            // Gone since the listing: it was released.
            continue;
        };
        let unchanged = seen.unchanged_for((id, bytes), Instant::now());
        let (holder, since) = match content {
            Content::Unreadable(lock) => {
                if has_no_owner(unchanged) || !lock.is_in_the_way(purpose.is_exclusive(), Timestamp::now()) {
                    tracing::warn!(
                        "{lock}, keeps no client off any more; `stowaway unlock` removes it once it is 30 minutes old"
                    );
                    continue;
                }
                (lock.to_string(), lock.modified.unwrap_or_else(Timestamp::now))
            }
            Content::Lock(lock, lease) => {
                let liveness = liveness_of(&lock, judge).await;
                if is_nobodys(&lock, liveness) {
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
                        "reading in spite of the exclusive lock of {lock}, which was not refreshed for {} s: its holder has \
                         stopped removing",
                        unchanged.as_secs()
                    );
                    continue;
                }
                (lock.to_string(), lock.refreshed)
            }
        };
        in_the_way.get_or_insert(RepositoryError::Locked { place: store.place().to_owned(), holder, since });
    }
    in_the_way.map_or(Ok(()), Err)
}

/// All locks but that one, and the lock files that cannot be read.
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

async fn liveness_of(lock: &FoundLock, judge: &dyn LockJudge) -> Liveness {
    timeout(JUDGEMENT, judge.judge(lock)).await.unwrap_or(Liveness::Unknown)
}

fn is_nobodys(lock: &FoundLock, liveness: Liveness) -> bool {
    match liveness {
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

/// What became of the locks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unlocked {
    /// Locks that were removed.
    pub removed: Vec<FoundLock>,
    /// Lock files that were removed, and that cannot be read.
    pub removed_unreadable: Vec<UnreadableLock>,
    /// Lock files that cannot be read, and that are too young to be nobody's, or whose age the store does not tell.
    pub kept_unreadable: Vec<UnreadableLock>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes locks without taking one, and reports which; see [`super::super::remove_locks`]. One that cannot be read or
/// removed stops nothing: the others are removed all the same.
pub(in super::super) async fn remove_locks(
    store: &Store,
    cipher: &Cipher,
    judge: &dyn LockJudge,
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
            Content::Lock(lock, _) => is_nobodys(lock, liveness_of(lock, judge).await),
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

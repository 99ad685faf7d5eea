//! Determines whether the holders of locks are alive.

use std::{fmt, path::Path};

use futures::future::BoxFuture;
use jiff::Timestamp;

use crate::holder::LockHolder;

/// A lock in the repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FoundLock {
    /// The id of the lock file, 64 hex digits.
    pub id: String,
    /// The owner that the lock file names.
    pub holder: LockHolder,
    /// The holder's process, on its host or in its container.
    pub process: u32,
    /// Whether the lock excludes readers and writers. A shared lock excludes only exclusive locks.
    pub exclusive: bool,
    /// When the lock was last refreshed.
    pub refreshed: Timestamp,
}

impl fmt::Display for FoundLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} on {} (process {})", self.holder.user, self.holder.host, self.process)
    }
}

/// Whether the holder of a lock still runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Liveness {
    /// The holder runs. Its lock is respected, however old it is.
    Alive,
    /// The holder has ended for good. Its lock is removed at once.
    Dead,
    /// The lock is respected until it is stale by restic's rule, 30 minutes after it was last refreshed. A lock that is
    /// dated 30 minutes in the future is stale, too.
    Unknown,
}

/// Determines whether the holders of locks are alive.
pub trait LockOwnerProbe: fmt::Debug + Send + Sync {
    /// Determines whether the holder of a lock is alive. If the answer takes longer than 10 s, the result is
    /// [`Liveness::Unknown`].
    fn probe<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness>;
}

/// A probe for which the liveness of every holder is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl LockOwnerProbe for NoProbe {
    fn probe<'a>(&'a self, _: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        Box::pin(async { Liveness::Unknown })
    }
}

/// A probe for the processes of this machine: a holder with the same name whose process does not exist is dead. The
/// holder's name must identify the PID namespace and the boot, see [`LockHolder::of_this_process`], because containers
/// may share a host name but have PIDs of their own.
#[derive(Clone, Debug)]
pub struct ProcessesHere {
    /// The owner that this process writes into its own lock files.
    pub holder: LockHolder,
}

impl LockOwnerProbe for ProcessesHere {
    fn probe<'a>(&'a self, lock: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        let processes = Path::new("/proc");
        // /proc must belong to this process's PID namespace, and must show processes of other users.
        let own = std::fs::read_link(processes.join("self")).ok();
        let is_own_folder = own.is_some_and(|own| own == Path::new(&std::process::id().to_string()));
        let is_gone = lock.holder == self.holder
            && is_own_folder
            && processes.join("1").exists()
            && !processes.join(lock.process.to_string()).exists();
        Box::pin(async move { if is_gone { Liveness::Dead } else { Liveness::Unknown } })
    }
}

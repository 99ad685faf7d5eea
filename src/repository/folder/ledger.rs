//! Which entries of a folder could not be read, and how many were left out.
//!
//! It must not know what the entries are.

use std::{
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{LISTED, Trouble, Troubles};

impl Troubles {
    /// Counts one, and names it while there are few.
    pub(super) fn add(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < LISTED {
            let path = if path.as_os_str().is_empty() { ".".into() } else { path.to_string_lossy().into_owned() };
            self.first.push(Trouble { path, reason: reason.into() });
        }
    }
}

/// Kept by the walk and by those who read the files, at the same time.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    unreadable: Mutex<Troubles>,
    vanished: AtomicU64,
    left_out: AtomicU64,
}

impl Ledger {
    /// Something is missing in the snapshot, or is not all there.
    pub fn unreadable(&self, path: &Path, reason: impl Into<String>) {
        self.troubles().add(path, reason);
    }

    /// An entry was gone when its turn came.
    pub fn vanished(&self) {
        self.vanished.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry is not wanted.
    pub fn left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// What was gone.
    pub fn count_vanished(&self) -> u64 {
        self.vanished.load(Ordering::Relaxed)
    }

    /// What was not wanted.
    pub fn count_left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// What could not be read.
    pub fn take_unreadable(&self) -> Troubles {
        std::mem::take(&mut *self.troubles())
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

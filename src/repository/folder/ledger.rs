//! What the engine does not tell: which entries of a folder could not be read, and how many were handed to it.
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
    folders: AtomicU64,
    files: AtomicU64,
    dropped: AtomicU64,
}

impl Ledger {
    /// Something is missing in the snapshot, or is not all there.
    pub fn unreadable(&self, path: &Path, reason: impl Into<String>) {
        self.troubles().add(path, reason);
    }

    /// A file that was handed over cannot be read after all; the engine leaves it out without a word.
    pub fn dropped(&self, path: &Path, reason: impl Into<String>) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.unreadable(path, reason);
    }

    /// An entry was gone when its turn came.
    pub fn vanished(&self) {
        self.vanished.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry is not wanted.
    pub fn left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry was handed over.
    pub fn handed_over(&self, is_folder: bool) {
        let counter = if is_folder { &self.folders } else { &self.files };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Folders that the snapshot must have.
    pub fn folders(&self) -> u64 {
        self.folders.load(Ordering::Relaxed)
    }

    /// Other entries that the snapshot must have.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed) - self.dropped.load(Ordering::Relaxed)
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

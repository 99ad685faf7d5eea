//! The gate: what the engine may write while it archives. Packs, and indexes of what is there; a snapshot never.
//!
//! It must not know what is archived, nor how the snapshot is made that counts; see [`super::commit`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use bytes::Bytes;
use rustic_core::Id;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{
    Progress, RepositoryError,
    archive::internal,
    engine::{FirstError, Writes},
    store::{Kind, Store, Write},
};

/// How many packs are on their way to the store at once: one that is far away answers late, and each pack is in memory.
const UPLOADS: usize = 2;

/// Where whoever feeds the engine leaves its verdict: nothing until the source's end was seen, and was good.
#[derive(Debug)]
pub(super) struct Verdict<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Verdict<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Verdict<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Verdict<T> {
    pub fn get(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, verdict: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
    }
}

/// What becomes of the trees that the engine makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Trees {
    /// The one tree, and the index that names it, are held back, since another is written in its place.
    HeldBack,
    /// They are written, as are the indexes that name them.
    Written,
}

/// What stands between the engine and the store. For its snapshot, which goes nowhere, it must have the source's good end
/// first.
#[derive(Debug)]
pub(super) struct Gate<T> {
    store: Store,
    runtime: Handle,
    verdict: Verdict<T>,
    trees: Trees,
    progress: Arc<Progress>,
    passed: Arc<Mutex<Passed>>,
    /// Free places for uploads.
    places: Arc<Semaphore>,
    first_error: Arc<FirstError>,
}

/// What came to the gate.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// What was written, and how long it is.
    pub written: Vec<(Kind, Id, u64)>,
    /// The engine's own tree, held back.
    pub tree_pack: Option<(Id, Bytes)>,
    /// Indexes that may name it, held back.
    pub indexes: Vec<Bytes>,
}

impl<T: Clone + fmt::Debug + Send + 'static> Writes for Gate<T> {
    fn write(&self, kind: Kind, id: &Id, tree_pack: bool, content: Vec<Bytes>) -> Result<(), RepositoryError> {
        let mut passed = lock(&self.passed);
        match kind {
            // The engine's settings for this run; the repository's config stays as it is.
            Kind::Config => Ok(()),
            Kind::Pack if tree_pack && self.trees == Trees::HeldBack && passed.tree_pack.is_none() => {
                passed.tree_pack = Some((*id, content.concat().into()));
                Ok(())
            }
            Kind::Index if passed.tree_pack.is_some() => {
                passed.indexes.push(content.concat().into());
                Ok(())
            }
            Kind::Pack | Kind::Index => {
                drop(passed);
                if kind == Kind::Index {
                    // No index may name a pack that is not there.
                    self.settle();
                }
                self.upload(kind, *id, content)
            }
            Kind::Snapshot if self.verdict.get().is_some() => Ok(()),
            Kind::Snapshot | Kind::Key | Kind::Lock => {
                Err(internal(&self.store, format!("the engine tried to write a {kind:?} before its source's end")))
            }
        }
    }
}

impl<T> Gate<T> {
    pub fn new(
        store: &Store,
        verdict: Verdict<T>,
        trees: Trees,
        progress: Arc<Progress>,
        first_error: Arc<FirstError>,
    ) -> Self {
        Self {
            store: store.clone(),
            runtime: Handle::current(),
            verdict,
            trees,
            progress,
            passed: Arc::default(),
            places: Arc::new(Semaphore::new(UPLOADS)),
            first_error,
        }
    }

    /// What came to it, once nothing is under way any more.
    pub fn passed(&self) -> Passed {
        std::mem::take(&mut *lock(&self.passed))
    }

    /// Waits for a place, and uploads without being waited for.
    fn upload(&self, kind: Kind, id: Id, content: Vec<Bytes>) -> Result<(), RepositoryError> {
        let place = self.runtime.block_on(Arc::clone(&self.places).acquire_owned());
        let place = place.map_err(|error| internal(&self.store, error))?;
        if self.first_error.happened().is_cancelled() {
            return Err(RepositoryError::Cancelled { place: self.store.place().to_owned() });
        }
        let (store, progress) = (self.store.clone(), Arc::clone(&self.progress));
        let (passed, first_error) = (Arc::clone(&self.passed), Arc::clone(&self.first_error));
        self.runtime.spawn(async move {
            let size = content.iter().map(|part| part.len() as u64).sum();
            let written = tokio::select! {
                written = store.write(kind, &id, content, Write::Replace) => written,
                // The run has failed; nobody needs this any more.
                () = first_error.happened().cancelled() => return,
            };
            match written {
                Ok(_) => {
                    progress.uploaded.fetch_add(size, Ordering::Relaxed);
                    lock(&passed).written.push((kind, id, size));
                }
                Err(error) => first_error.set(error),
            }
            drop(place);
        });
        Ok(())
    }

    /// Waits until no upload is under way. What went wrong with one is in `first_error`.
    pub fn settle(&self) {
        // The semaphore is never closed, and has as many places.
        let _all = self.runtime.block_on(self.places.acquire_many(u32::try_from(UPLOADS).unwrap_or(1)));
    }
}

fn lock(passed: &Mutex<Passed>) -> MutexGuard<'_, Passed> {
    passed.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        model::{BackendConfig, Connection, Secret},
        repository::{Access, LockHolder, LockRules, Patience},
    };

    fn gate(place: &Path) -> Gate<()> {
        let access = Access {
            backend: BackendConfig::Folder { path: place.to_str().unwrap().into() },
            password: Secret::new(String::new()),
            connection: Connection::default(),
            credentials: std::collections::BTreeMap::new(),
            holder: LockHolder { host: String::new(), user: String::new() },
            locks: LockRules::default(),
            patience: Patience::default(),
        };
        let store = Store::new(&access, CancellationToken::new()).unwrap();
        Gate::new(&store, Verdict::default(), Trees::HeldBack, Arc::default(), Arc::default())
    }

    #[tokio::test]
    async fn gate_lets_no_snapshot_through() {
        let place = tempfile::tempdir().unwrap();
        let gate = gate(place.path());
        for kind in [Kind::Snapshot, Kind::Key, Kind::Lock] {
            assert!(gate.write(kind, &Id::default(), false, vec![Bytes::from_static(b"x")]).is_err(), "{kind:?}");
        }
        gate.write(Kind::Config, &Id::default(), false, vec![Bytes::from_static(b"x")]).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

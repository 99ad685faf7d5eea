//! One stream into the repository: the engine chunks and packs it, the gate asks for the stream's verdict, and only then
//! is a snapshot made. The order of writes is packs, index, a look at each of them, snapshot.
//!
//! It must not know where the stream comes from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use bytes::Bytes;
use rustic_core::{
    BackupOptions, ConfigOptions, Id, ParentOptions, RusticResult,
    repofile::{MasterKey, SnapshotFile},
};
use sha2::Sha256;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

use super::{
    Progress, Repository, RepositoryError, StoreRules, Stored,
    commit::Commit,
    engine::{self, Engine, FirstError, Writes},
    source::{StreamReader, StreamSource, StreamVerdict},
    store::{Kind, Store, Write},
    tree,
};
use crate::{model::SnapshotIdentity, stream::Piece};

/// Size of the packs that the engine makes. Six are in memory at a time; the engine's own default is eight times this and
/// grows with the repository. restic takes 4 MiB to 128 MiB.
const PACK_SIZE: &str = "4MiB";

/// How many packs are on their way to the store at once: one that is far away answers late, and each pack is in memory.
const UPLOADS: usize = 2;

/// What the engine may write while a stream is read: packs, and indexes of what is there. Its own tree and the index
/// that would name it are held back, and so is its snapshot, for which it must have the stream's good end first.
#[derive(Debug)]
struct Gate {
    store: Store,
    runtime: Handle,
    verdict: StreamVerdict,
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

impl Writes for Gate {
    fn write(&self, kind: Kind, id: &Id, tree_pack: bool, content: Vec<Bytes>) -> Result<(), RepositoryError> {
        let mut passed = lock(&self.passed);
        match kind {
            // The engine's settings for this run; the repository's config stays as it is.
            Kind::Config => Ok(()),
            Kind::Pack if tree_pack && passed.tree_pack.is_none() => {
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
                Err(internal(&self.store, format!("the engine tried to write a {kind:?} before the stream's end")))
            }
        }
    }
}

impl Gate {
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
    fn settle(&self) {
        // The semaphore is never closed, and has as many places.
        let _all = self.runtime.block_on(self.places.acquire_many(u32::try_from(UPLOADS).unwrap_or(1)));
    }
}

fn lock(passed: &Mutex<Passed>) -> MutexGuard<'_, Passed> {
    passed.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn internal(store: &Store, what: impl std::fmt::Display) -> RepositoryError {
    RepositoryError::Internal { place: store.place().to_owned(), what: what.to_string() }
}

/// See [`Repository::store_stream`].
pub(super) async fn store_stream(
    repository: &Repository,
    store: &Store,
    identity: &SnapshotIdentity,
    rules: &StoreRules,
    pieces: mpsc::Receiver<Piece>,
    progress: Arc<Progress>,
) -> Result<Stored, RepositoryError> {
    tree::checked_path(&identity.path)?;
    let first_error = Arc::new(FirstError::default());
    let verdict = StreamVerdict::default();
    let gate = Arc::new(Gate {
        store: store.clone(),
        runtime: Handle::current(),
        verdict: verdict.clone(),
        progress: Arc::clone(&progress),
        passed: Arc::default(),
        places: Arc::new(Semaphore::new(UPLOADS)),
        first_error: Arc::clone(&first_error),
    });
    let source = StreamSource::new(StreamReader {
        pieces,
        runtime: Handle::current(),
        cancel: store.cancel().clone(),
        place: store.place().to_owned(),
        allow_empty: rules.allow_empty,
        progress: Arc::clone(&progress),
        verdict: verdict.clone(),
        first_error: Arc::clone(&first_error),
        current: Bytes::new(),
        hash: Sha256::default(),
        bytes: 0,
    });
    let name = source.name.clone();
    let master = repository.master.clone();
    let writes: Arc<dyn Writes> = Arc::<Gate>::clone(&gate);
    let blame = |what| internal(store, what);
    let uploads = Arc::clone(&gate);
    let task = move |engine: &Engine| {
        let archived = archive(engine, &master, &source);
        uploads.settle();
        archived
    };
    let engines = engine::run(store, writes, first_error, blame, task).await?;

    let ended = verdict.get().ok_or_else(|| internal(store, "the engine ended before the stream did"))?;
    let passed = std::mem::take(&mut *lock(&gate.passed));
    let commit = Commit { repository, store, identity, rules, progress: &progress };
    commit.run(&name, &ended, engines, passed).await
}

/// Lets the engine archive the stream; its snapshot goes nowhere.
fn archive(engine: &Engine, master: &MasterKey, source: &StreamSource) -> RusticResult<SnapshotFile> {
    let mut repository = engine.open(master)?;
    let mut settings = ConfigOptions::default();
    settings.set_datapack_size = PACK_SIZE.parse().ok();
    settings.set_datapack_growfactor = Some(0);
    if repository.config().append_only == Some(true) {
        // The engine refuses settings there, even for itself; nothing is deleted here.
        settings.set_append_only = Some(false);
    }
    repository.apply_config(&settings)?;
    let repository = repository.to_indexed_ids()?;
    // Forced: a stream that looks like an earlier one (same name, no metadata) would not be read at all.
    let options = BackupOptions::default().no_scan(true).parent_opts(ParentOptions::default().force(true));
    repository.archive(&options, source, SnapshotFile::default(), &[source.name.clone().into()])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        model::{BackendConfig, Secret},
        repository::{Access, LockHolder, Patience},
    };

    fn gate(place: &Path) -> Gate {
        let access = Access {
            backend: BackendConfig::Folder { path: place.to_str().unwrap().into() },
            password: Secret::new(String::new()),
            s3: None,
            holder: LockHolder { host: String::new(), user: String::new() },
            patience: Patience::default(),
        };
        Gate {
            store: Store::new(&access, CancellationToken::new()).unwrap(),
            runtime: Handle::current(),
            verdict: StreamVerdict::default(),
            progress: Arc::default(),
            passed: Arc::default(),
            places: Arc::new(Semaphore::new(UPLOADS)),
            first_error: Arc::default(),
        }
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

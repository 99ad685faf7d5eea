//! A source into the repository by the engine, which chunks and packs it; and one stream as such a source: the gate asks
//! for the stream's verdict, and only then is a snapshot made. The order of writes is packs, index, a look at each of them,
//! snapshot.
//!
//! It must not know where the stream comes from.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use rustic_core::{
    BackupOptions, ConfigOptions, OpenStatus, ParentOptions, ReadSource, RusticResult,
    repofile::{MasterKey, SnapshotFile},
};
use sha2::Sha256;
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Progress, Repository, RepositoryError, StoreRules, Stored,
    commit::Commit,
    engine::{self, Engine, FirstError, Writes},
    gate::{Gate, Trees, Verdict},
    source::{StreamReader, StreamSource},
    store::Store,
    tree,
};
use crate::{model::SnapshotIdentity, stream::Piece};

/// Size of the packs that the engine makes. Six are in memory at a time; the engine's own default is eight times this and
/// grows with the repository. restic takes 4 MiB to 128 MiB.
const PACK_SIZE: &str = "4MiB";

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
    let verdict = Verdict::default();
    let gate = Gate::new(store, verdict.clone(), Trees::HeldBack, Arc::clone(&progress), Arc::clone(&first_error));
    let gate = Arc::new(gate);
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
    let path = PathBuf::from(&name);
    // Forced: a stream that looks like an earlier one (same name, no metadata) would not be read at all.
    let parent = |_: &_| Ok(ParentOptions::default().force(true));
    let engines = archive(repository, store, &gate, first_error, source, path, parent).await?;

    let ended = verdict.get().ok_or_else(|| internal(store, "the engine ended before the stream did"))?;
    let commit = Commit { repository, store, identity, time: rules.time, progress: &progress };
    commit.stream(&name, &ended, engines, gate.passed()).await
}

/// Lets the engine archive a source at `path`; its snapshot goes nowhere. `parent` says what it may take for unchanged.
pub(super) async fn archive<T, S>(
    repository: &Repository,
    store: &Store,
    gate: &Arc<Gate<T>>,
    first_error: Arc<FirstError>,
    source: S,
    path: PathBuf,
    parent: impl FnOnce(&rustic_core::Repository<OpenStatus>) -> RusticResult<ParentOptions> + Send + 'static,
) -> Result<SnapshotFile, RepositoryError>
where
    T: Clone + fmt::Debug + Send + 'static,
    S: ReadSource<Open: Send, Iter: Send> + 'static,
{
    let master = repository.master.clone();
    let writes: Arc<dyn Writes> = Arc::<Gate<T>>::clone(gate);
    let uploads = Arc::clone(gate);
    let task = move |engine: &Engine| {
        let archived = archive_with(engine, &master, &source, path, parent);
        uploads.settle();
        archived
    };
    engine::run(store, writes, first_error, |what| internal(store, what), task).await
}

fn archive_with<S: ReadSource<Open: Send, Iter: Send> + 'static>(
    engine: &Engine,
    master: &MasterKey,
    source: &S,
    path: PathBuf,
    parent: impl FnOnce(&rustic_core::Repository<OpenStatus>) -> RusticResult<ParentOptions>,
) -> RusticResult<SnapshotFile> {
    let mut repository = engine.open(master)?;
    let parent = parent(&repository)?;
    let mut settings = ConfigOptions::default();
    (settings.set_datapack_size, settings.set_treepack_size) = (PACK_SIZE.parse().ok(), PACK_SIZE.parse().ok());
    (settings.set_datapack_growfactor, settings.set_treepack_growfactor) = (Some(0), Some(0));
    if repository.config().append_only == Some(true) {
        // The engine refuses settings there, even for itself; nothing is deleted here.
        settings.set_append_only = Some(false);
    }
    repository.apply_config(&settings)?;
    let repository = repository.to_indexed_ids()?;
    let options = BackupOptions::default().no_scan(true).parent_opts(parent);
    repository.archive(&options, source, SnapshotFile::default(), &[path])
}

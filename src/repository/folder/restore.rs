//! A folder out of a snapshot: the next parts are fetched while the last ones are written, in bounded memory.
//!
//! It must not know how a file is made, nor what is in the trees.

use std::{path::Path, sync::Arc};

use rustic_core::repofile::SnapshotFile;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use super::{
    RestoredFolder,
    unfold::{Batch, Step, Unfolding},
    write::Writer,
};
use crate::repository::{
    Progress, Repository, RepositoryError,
    archive::internal,
    engine::{self, Engine, FirstError, ReadOnly},
    part::Fetcher,
    store::Store,
};

/// Which part of a snapshot.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The folder at its path, with its own metadata.
    Folder,
    /// What is at its path, or nothing but these paths below it.
    Some(Vec<String>),
}

/// See [`Repository::restore_folder`] and [`Repository::restore_some`].
pub(super) async fn restore_folder(
    repository: &Repository,
    store: &Store,
    (snapshot, path): (&str, &str),
    wanted: Wanted,
    target: &Path,
    progress: Arc<Progress>,
) -> Result<RestoredFolder, RepositoryError> {
    let id = repository.snapshot_id(snapshot).await?;
    let master = repository.master.clone();
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    let (place, name) = (store.place().to_owned(), snapshot.to_owned());
    let not_found = move |path: String| RepositoryError::FileNotFound { place, snapshot: name, path };
    let (path, target, runtime) = (path.to_owned(), target.to_owned(), Handle::current());
    let task = move |engine: &Engine| {
        let indexed = engine.open(&master)?.to_indexed()?;
        let snapshot: SnapshotFile = indexed.get_file(&id)?;
        let mut unfolding = Unfolding::new(&indexed, &fetcher, &runtime);
        let missing = match &wanted {
            Wanted::Folder => unfolding.go_to(snapshot.tree, &path).map(|found| (!found).then_some(path)),
            Wanted::Some(only) => unfolding.go_to_some(snapshot.tree, &path, only),
        };
        Ok(match missing {
            Ok(None) => write(&mut unfolding, &fetcher, &runtime, &target, &progress),
            Ok(Some(missing)) => Err(not_found(missing)),
            Err(error) => Err(error),
        })
    };
    let damaged = |what| store.damaged(what);
    engine::run(store, Arc::new(ReadOnly), Arc::new(FirstError::default()), damaged, task).await?
}

/// What is on its way: steps, and the parts that they need.
struct Fetching {
    steps: Vec<Step>,
    parts: AbortOnDropHandle<Result<super::write::Parts, RepositoryError>>,
}

fn write(
    unfolding: &mut Unfolding<'_>,
    fetcher: &Fetcher,
    runtime: &Handle,
    target: &Path,
    progress: &Progress,
) -> Result<RestoredFolder, RepositoryError> {
    let fetch = |batch: Batch| {
        let parts: JoinHandle<_> = runtime.spawn(fetcher.clone().fetch_all(batch.parts));
        Fetching { steps: batch.steps, parts: AbortOnDropHandle::new(parts) }
    };
    let mut writer = Writer::new(target)?;
    let mut next = unfolding.batch()?.map(fetch);
    while let Some(current) = next {
        next = unfolding.batch()?.map(fetch);
        let parts = runtime.block_on(current.parts).map_err(|panic| internal(&fetcher.store, panic))??;
        for step in current.steps {
            writer.carry_out(step, &parts, progress)?;
        }
    }
    writer.finish()
}

//! A folder out of a snapshot, into a folder or a tar: the next parts are fetched while the last ones are written, in bounded
//! memory.
//!
//! It must not know how a file is made, nor what is in the trees.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    RestoredFolder,
    tar::{TarContent, TarWriter},
    unfold::{Batch, Step, Unfolding},
    write::{Parts, Writer},
};
use crate::repository::{
    Progress, Repository, RepositoryError, archive::internal, known::Known, part::Fetcher, snapshot_files::read_one,
    store::Store, trees::Trees,
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
    place: (&str, &str),
    wanted: Wanted,
    target: &Path,
    progress: Arc<Progress>,
) -> Result<RestoredFolder, RepositoryError> {
    let target = target.to_owned();
    let write = move |unfolding: &mut Unfolding<'_>, fetching: &Fetching<'_>| {
        let mut writer = Writer::new(&target)?;
        fetching.carry_out(unfolding, |step, parts| writer.carry_out(step, parts, &progress))?;
        let restored = writer.finish()?;
        Ok(RestoredFolder { only: unfolding.only().to_vec(), ..restored })
    };
    unfold(repository, store, place, wanted, write).await
}

/// See [`Repository::check_stored`].
pub(super) async fn check_stored(
    repository: &Repository,
    store: &Store,
    place: (&str, &str),
    wanted: Wanted,
) -> Result<(), RepositoryError> {
    unfold(repository, store, place, wanted, |_, _| Ok(())).await
}

/// Writes what is at `path` of a snapshot as a tar: a folder with all that is in it, its own metadata first, or only some
/// paths below it, each in the folders that it is in; or a file by its own name. What is not there is told before anything is
/// written. `finish` gets the output after the last byte, where it may block.
pub(in crate::repository) async fn write_tar<W: Write + Send + 'static>(
    repository: &Repository,
    store: &Store,
    place: (&str, &str),
    only: &[String],
    (output, finish): (W, impl FnOnce(W) -> io::Result<()> + Send + 'static),
    progress: Arc<Progress>,
) -> Result<TarContent, RepositoryError> {
    super::check_inside(only)?;
    let write = move |unfolding: &mut Unfolding<'_>, fetching: &Fetching<'_>| {
        let mut writer = TarWriter::new(output, unfolding.own().as_deref())?;
        fetching.carry_out(unfolding, |step, parts| writer.carry_out(step, parts, &progress))?;
        let (content, output) = writer.finish()?;
        let ended = finish(output);
        ended.map_err(|source| RepositoryError::Unwritable {
            action: "end",
            path: "the archive".to_owned(),
            source,
        })?;
        Ok(content)
    };
    unfold(repository, store, place, Wanted::Some(only.to_vec()), write).await
}

/// Goes to what is wanted, and hands that over where it may block.
async fn unfold<T: Send + 'static>(
    repository: &Repository,
    store: &Store,
    (snapshot, path): (&str, &str),
    wanted: Wanted,
    write: impl FnOnce(&mut Unfolding<'_>, &Fetching<'_>) -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, RepositoryError> {
    let id = repository.snapshot_id(snapshot).await?;
    let file = read_one(store, &repository.cipher, *id).await?;
    let known = Known::read(&repository.cipher, store).await?;
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    let (place, name) = (store.place().to_owned(), snapshot.to_owned());
    let not_found = move |path: String| RepositoryError::FileNotFound { place, snapshot: name, path };
    let (path, runtime) = (path.to_owned(), Handle::current());
    let task = move || {
        let mut unfolding = Unfolding::new(Trees::new(&known, &fetcher, &runtime));
        let path = unfolding.place_of(&file, &path)?;
        let missing = match &wanted {
            Wanted::Folder => (!unfolding.go_to(file.tree, &path)?).then_some(path),
            Wanted::Some(only) => unfolding.go_to_some(file.tree, &path, only)?,
        };
        match missing {
            None => write(&mut unfolding, &Fetching { fetcher: &fetcher, runtime: &runtime }),
            Some(missing) => Err(not_found(missing)),
        }
    };
    spawn_blocking(task).await.map_err(|panic| internal(store, panic))?
}

/// What is on its way: steps, and the parts that they need.
struct Fetched {
    steps: Vec<Step>,
    parts: AbortOnDropHandle<Result<Parts, RepositoryError>>,
}

/// What fetches the parts.
struct Fetching<'a> {
    fetcher: &'a Fetcher,
    runtime: &'a Handle,
}

impl Fetching<'_> {
    /// Hands each step on, with the parts that it needs.
    fn carry_out(
        &self,
        unfolding: &mut Unfolding<'_>,
        mut each: impl FnMut(Step, &Parts) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let fetch = |batch: Batch| {
            let parts: JoinHandle<_> = self.runtime.spawn(self.fetcher.clone().fetch_all(batch.parts));
            Fetched { steps: batch.steps, parts: AbortOnDropHandle::new(parts) }
        };
        let mut next = unfolding.batch()?.map(fetch);
        while let Some(current) = next {
            next = unfolding.batch()?.map(fetch);
            let parts =
                self.runtime.block_on(current.parts).map_err(|panic| internal(&self.fetcher.store, panic))??;
            for step in current.steps {
                each(step, &parts)?;
            }
        }
        Ok(())
    }
}

//! Restores a folder of a snapshot into a folder or a tar. The next blobs are fetched while the previous ones are
//! written, in bounded memory.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};

use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    metadata,
    report::RestoredFolder,
    tar::{TarContent, TarWriter},
    tree_reader::{Batch, Step, TreeReader},
    write::{Parts, Writer},
};
use crate::{
    Progress, Repository, RepositoryError,
    index::{fetcher::Fetcher, known_blobs::KnownBlobs},
    snapshots::snapshot_files::read_one,
    store::Store,
    trees::cached::Trees,
};
use stowaway_model::unescape_name;

/// The part of a snapshot which is restored.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    /// The folder at the path, with its own metadata.
    Folder,
    /// The folder or file at the path, or only these paths below it if there are any.
    Some(Vec<String>),
}

/// See [`Repository::restore_folder`] and [`Repository::restore_some`].
pub(super) async fn restore_folder(
    repository: &Repository,
    store: &Store,
    from: (&str, &str),
    selection: Selection,
    target: &Path,
    progress: Arc<Progress>,
) -> Result<RestoredFolder, RepositoryError> {
    let target = target.to_owned();
    let write = move |reader: &mut TreeReader<'_>, batches: &BatchFetcher<'_>| {
        let mut writer = Writer::new(&target)?;
        batches.carry_out(reader, |step, parts| writer.carry_out(step, parts, &progress))?;
        let restored = writer.finish()?;
        Ok(RestoredFolder { only: reader.only().to_vec(), ..restored })
    };
    with_tree_reader(repository, store, from, selection, write).await
}

/// See [`Repository::check_stored`].
pub(super) async fn check_stored(
    repository: &Repository,
    store: &Store,
    from: (&str, &str),
    selection: Selection,
) -> Result<(), RepositoryError> {
    with_tree_reader(repository, store, from, selection, |_, _| Ok(())).await
}

/// Writes the folder or file at `path` of a snapshot as a tar. A folder begins with its own metadata and contains all
/// its entries, or, if `only` is not empty, only these paths with their parent folders. A file is stored under its own
/// name. A missing path is reported before anything is written. `finish` gets the output after the last byte, and may
/// block.
pub(crate) async fn write_tar<W: Write + Send + 'static>(
    repository: &Repository,
    store: &Store,
    from: (&str, &str),
    only: &[String],
    (output, finish): (W, impl FnOnce(W) -> io::Result<()> + Send + 'static),
    progress: Arc<Progress>,
) -> Result<TarContent, RepositoryError> {
    check_inside(only)?;
    let write = move |reader: &mut TreeReader<'_>, batches: &BatchFetcher<'_>| {
        let mut writer = TarWriter::new(output, reader.root_node().as_deref())?;
        batches.carry_out(reader, |step, parts| writer.carry_out(step, parts, &progress))?;
        let (content, output) = writer.finish()?;
        let ended = finish(output);
        ended.map_err(|source| RepositoryError::Unwritable {
            action: "end",
            path: "the archive".to_owned(),
            source,
        })?;
        Ok(content)
    };
    with_tree_reader(repository, store, from, Selection::Some(only.to_vec()), write).await
}

/// Opens the selected folder or file, and runs `write` with a reader for it on a thread which may block.
async fn with_tree_reader<T: Send + 'static>(
    repository: &Repository,
    store: &Store,
    (snapshot, path): (&str, &str),
    selection: Selection,
    write: impl FnOnce(&mut TreeReader<'_>, &BatchFetcher<'_>) -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, RepositoryError> {
    let id = repository.snapshot_id(snapshot).await?;
    let file = read_one(store, &repository.cipher, id).await?;
    let known = Arc::new(KnownBlobs::read(&repository.cipher, store).await?);
    let fetcher = Fetcher::new(store, &repository.cipher).with_copies(&known);
    let (location, name) = (store.location().to_owned(), snapshot.to_owned());
    let not_found = move |path: String| RepositoryError::FileNotFound { location, snapshot: name, path };
    let (path, runtime) = (path.to_owned(), Handle::current());
    let task = move || {
        let mut reader = TreeReader::new(Trees::new(&known, &fetcher, &runtime));
        let path = reader.locate(&file, &path)?;
        let missing = match &selection {
            Selection::Folder => (!reader.open_folder(file.tree, &path)?).then_some(path),
            Selection::Some(only) => reader.open_paths(file.tree, &path, only)?,
        };
        match missing {
            None => write(&mut reader, &BatchFetcher { fetcher: &fetcher, runtime: &runtime }),
            Some(missing) => Err(not_found(missing)),
        }
    };
    spawn_blocking(task).await.map_err(|panic| store.internal(panic))?
}

/// Steps, and the task which fetches their blobs.
struct FetchedBatch {
    steps: Vec<Step>,
    parts: AbortOnDropHandle<Result<Parts, RepositoryError>>,
}

/// Fetches the blobs of batches.
struct BatchFetcher<'a> {
    fetcher: &'a Fetcher,
    runtime: &'a Handle,
}

impl BatchFetcher<'_> {
    /// Calls `each` for every step, with the blobs of its batch, while the next batch is fetched.
    fn carry_out(
        &self,
        reader: &mut TreeReader<'_>,
        mut each: impl FnMut(Step, &Parts) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let fetch = |batch: Batch| {
            let parts: JoinHandle<_> = self.runtime.spawn(self.fetcher.clone().fetch_all(batch.parts));
            FetchedBatch { steps: batch.steps, parts: AbortOnDropHandle::new(parts) }
        };
        let mut next = reader.batch()?.map(fetch);
        while let Some(current) = next {
            next = reader.batch()?.map(fetch);
            let parts = self.runtime.block_on(current.parts).map_err(|panic| self.fetcher.store.internal(panic))??;
            for step in current.steps {
                each(step, &parts)?;
            }
        }
        Ok(())
    }
}

/// Checks that each path is relative and cannot lead out of the folder.
pub(super) fn check_inside(paths: &[String]) -> Result<(), RepositoryError> {
    let is_plain = |name: &[u8]| metadata::is_plain(OsStr::from_bytes(name));
    let is_inside =
        |path: &String| path.split('/').all(|name| is_plain(name.as_bytes()) && is_plain(&unescape_name(name)));
    match paths.iter().find(|path| !is_inside(path)) {
        Some(path) => Err(RepositoryError::InvalidRequest(format!(
            "{path:?} is not a path within a snapshot: such a path is relative, without empty components, . or .."
        ))),
        None => Ok(()),
    }
}

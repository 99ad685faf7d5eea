//! The storage engine's view of the store: it makes the config of a new repository, and nothing else.
//!
//! The engine boxes every error as text, and goes on after some. So the first error is kept here, whatever the engine makes
//! of it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustic_core::{
    BytesList, ErrorKind, FileType, Id, ReadBackend, Repository, RepositoryBackends, RepositoryOptions, RusticError,
    RusticResult, WriteBackend,
};
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    RepositoryError, crypto,
    store::{Kind, Store},
};

/// Keeps the first error that happened beneath or beside the engine, and tells those who wait.
#[derive(Debug, Default)]
pub(super) struct FirstError {
    error: Mutex<Option<RepositoryError>>,
    happened: CancellationToken,
}

impl FirstError {
    pub fn set(&self, error: RepositoryError) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.happened.cancel();
    }

    pub fn take(&self) -> Option<RepositoryError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn happened(&self) -> &CancellationToken {
        &self.happened
    }
}

/// What the engine does with files that it wants to write. Called from the engine's threads, which may block.
pub(super) trait Writes: fmt::Debug + Send + Sync + 'static {
    /// Whether the engine is to find a repository at the place.
    fn shows_repository(&self) -> bool {
        true
    }

    fn write(&self, kind: Kind, content: Vec<Bytes>) -> Result<(), RepositoryError>;
}

/// Our store as the engine sees it.
#[derive(Debug)]
pub(super) struct EngineBackend {
    pub store: Store,
    pub runtime: Handle,
    pub writes: Arc<dyn Writes>,
    pub first_error: Arc<FirstError>,
}

impl EngineBackend {
    fn kept<T>(&self, result: Result<T, RepositoryError>) -> RusticResult<T> {
        result.map_err(|error| {
            let text = error.to_string();
            self.first_error.set(error);
            RusticError::new(ErrorKind::Backend, text)
        })
    }

    fn read(&self, kind: Kind, id: &Id) -> Result<Bytes, RepositoryError> {
        let content = self.runtime.block_on(self.store.read(kind, id))?;
        let content = content.ok_or_else(|| self.store.damaged(format!("{} is missing", kind.path(id))))?;
        if kind != Kind::Config && crypto::id_of(&content) != *id {
            return Err(self.store.damaged(format!("{} is not what was written", kind.path(id))));
        }
        Ok(content)
    }

    fn list(&self, kind: Kind) -> Result<Vec<(Id, u32)>, RepositoryError> {
        if kind == Kind::Config {
            if !self.writes.shows_repository() {
                return Ok(Vec::new());
            }
            return match self.runtime.block_on(self.store.stat(kind, &Id::default()))? {
                Some(_) => Ok(vec![(Id::default(), 0)]),
                None => Err(RepositoryError::NotFound { place: self.store.place().to_owned() }),
            };
        }
        let files = self.runtime.block_on(self.store.list(kind))?;
        Ok(files.into_iter().map(|(id, size)| (id, u32::try_from(size).unwrap_or(u32::MAX))).collect())
    }
}

fn kind_of(file: FileType) -> Kind {
    match file {
        FileType::Config => Kind::Config,
        FileType::Index => Kind::Index,
        FileType::Key => Kind::Key,
        FileType::Snapshot => Kind::Snapshot,
        FileType::Pack => Kind::Pack,
    }
}

impl ReadBackend for EngineBackend {
    fn location(&self) -> String {
        self.store.place().to_owned()
    }

    fn list_with_size(&self, file: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.kept(self.list(kind_of(file)))
    }

    fn read_full(&self, file: FileType, id: &Id) -> RusticResult<Bytes> {
        self.kept(self.read(kind_of(file), id))
    }

    fn read_partial(&self, _: FileType, id: &Id, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.kept(self.runtime.block_on(self.store.read_range(id, offset, length)))
    }

    fn warmup_path(&self, file: FileType, id: &Id) -> String {
        kind_of(file).path(id)
    }
}

impl WriteBackend for EngineBackend {
    fn write_bytes(&self, file: FileType, _: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        self.kept(self.writes.write(kind_of(file), content.into_vec()))
    }

    fn remove(&self, file: FileType, _: &Id, _: bool) -> RusticResult<()> {
        let refused = format!("the engine tried to remove a {file}");
        self.kept(Err(RepositoryError::InvalidRequest(refused)))
    }
}

/// What an engine's task works with.
pub(super) struct Engine {
    backend: RepositoryBackends,
    options: RepositoryOptions,
}

impl Engine {
    /// A repository that is not opened yet.
    pub fn repository(&self) -> RusticResult<Repository<()>> {
        Repository::new(&self.options, &self.backend)
    }
}

/// Runs a task of the engine where it may block, turning its panics into errors. The first error of the store counts
/// more than what the engine says, even when it says that all went well.
///
/// `blame` makes an error of what the engine says where the store had none.
pub(super) async fn run<T: Send + 'static>(
    store: &Store,
    writes: Arc<dyn Writes>,
    first_error: Arc<FirstError>,
    blame: impl FnOnce(String) -> RepositoryError,
    task: impl FnOnce(&Engine) -> RusticResult<T> + Send + 'static,
) -> Result<T, RepositoryError> {
    let backend = EngineBackend {
        store: store.clone(),
        runtime: Handle::current(),
        writes,
        first_error: Arc::clone(&first_error),
    };
    let engine = Engine {
        backend: RepositoryBackends::new(Arc::new(backend), None),
        options: RepositoryOptions::default().no_cache(true),
    };
    let done = spawn_blocking(move || task(&engine)).await;
    match (first_error.take(), done) {
        (Some(error), _) => Err(error),
        (None, Ok(Ok(value))) => Ok(value),
        (None, Ok(Err(error))) => Err(blame(error.display_log())),
        (None, Err(panic)) => {
            Err(RepositoryError::Internal { place: store.place().to_owned(), what: panic.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{model::Reason, repository::fixtures::access};

    #[derive(Debug)]
    struct ReadOnly;

    impl Writes for ReadOnly {
        fn write(&self, _: Kind, _: Vec<Bytes>) -> Result<(), RepositoryError> {
            Err(RepositoryError::InvalidRequest("the engine tried to write".to_owned()))
        }
    }

    async fn run_task(
        task: impl FnOnce(&FirstError) -> RusticResult<()> + Send + 'static,
    ) -> Result<(), RepositoryError> {
        let store = Store::new(&access(Path::new("/nowhere")), CancellationToken::new()).unwrap();
        let first_error = Arc::new(FirstError::default());
        let seen = Arc::clone(&first_error);
        let blame = |what| store.damaged(what);
        run(&store, Arc::new(ReadOnly), first_error, blame, move |_| task(&seen)).await
    }

    #[tokio::test]
    async fn panic_in_the_engine_is_an_error() {
        let error = run_task(|_| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InternalError, "{error}");
    }

    #[tokio::test]
    async fn first_error_counts_more_than_the_engines_success() {
        // Trap 1: the engine goes on after a failed read of its source, and says that all went well.
        let error = run_task(|first| {
            first.set(RepositoryError::NotFound { place: "first".into() });
            first.set(RepositoryError::Cancelled { place: "second".into() });
            Ok(())
        });
        let error = error.await.unwrap_err();
        assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    }
}

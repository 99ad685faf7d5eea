//! The backend through which the crate `rustic_core` ("the engine") uses the store. The engine is used only to create
//! the config of a new repository.
//!
//! The engine converts every error to text, and continues after some errors. So this module records the first error
//! itself.

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

/// Records the first error of several tasks, and notifies the tasks that wait.
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

/// Receives the files that the engine writes. Called from the engine's threads, which may block.
pub(super) trait WriteHandler: fmt::Debug + Send + Sync + 'static {
    /// Whether the engine sees that there is a repository in the store.
    fn shows_repository(&self) -> bool {
        true
    }

    fn write(&self, kind: Kind, content: Vec<Bytes>) -> Result<(), RepositoryError>;
}

/// The store as a backend of the engine.
#[derive(Debug)]
pub(super) struct EngineBackend {
    pub store: Store,
    pub runtime: Handle,
    pub writes: Arc<dyn WriteHandler>,
    pub first_error: Arc<FirstError>,
}

impl EngineBackend {
    fn recorded<T>(&self, result: Result<T, RepositoryError>) -> RusticResult<T> {
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
                None => Err(RepositoryError::Lost { location: self.store.location().to_owned() }),
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
        self.store.location().to_owned()
    }

    fn list_with_size(&self, file: FileType) -> RusticResult<Vec<(Id, u32)>> {
        self.recorded(self.list(kind_of(file)))
    }

    fn read_full(&self, file: FileType, id: &Id) -> RusticResult<Bytes> {
        self.recorded(self.read(kind_of(file), id))
    }

    fn read_partial(&self, _: FileType, id: &Id, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.recorded(self.runtime.block_on(self.store.read_range(id, offset, length)))
    }

    fn warmup_path(&self, file: FileType, id: &Id) -> String {
        kind_of(file).path(id)
    }
}

impl WriteBackend for EngineBackend {
    fn write_bytes(&self, file: FileType, _: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        self.recorded(self.writes.write(kind_of(file), content.into_vec()))
    }

    fn remove(&self, file: FileType, _: &Id, _: bool) -> RusticResult<()> {
        let refused = format!("the engine tried to remove a {file}");
        self.recorded(Err(RepositoryError::InvalidRequest(refused)))
    }
}

/// The engine's parameters for one task.
pub(super) struct Engine {
    backend: RepositoryBackends,
    options: RepositoryOptions,
}

impl Engine {
    /// Returns a repository that is not opened yet.
    pub fn repository(&self) -> RusticResult<Repository<()>> {
        Repository::new(&self.options, &self.backend)
    }
}

/// Runs a task of the engine on a thread that may block, and converts its panics into errors.
///
/// If the store had an error, the first one is returned whatever the engine returns, even if the engine returns
/// success. Otherwise `to_error` converts the engine's error.
pub(super) async fn run<T: Send + 'static>(
    store: &Store,
    writes: Arc<dyn WriteHandler>,
    first_error: Arc<FirstError>,
    to_error: impl FnOnce(String) -> RepositoryError,
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
        (None, Ok(Err(error))) => Err(to_error(error.display_log())),
        (None, Err(panic)) => {
            Err(RepositoryError::Internal { location: store.location().to_owned(), what: panic.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fixtures::access;
    use stowaway_model::Reason;

    #[derive(Debug)]
    struct ReadOnly;

    impl WriteHandler for ReadOnly {
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
        let to_error = |what| store.damaged(what);
        run(&store, Arc::new(ReadOnly), first_error, to_error, move |_| task(&seen)).await
    }

    #[tokio::test]
    async fn panic_in_the_engine_is_an_error() {
        let error = run_task(|_| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InternalError, "{error}");
    }

    #[tokio::test]
    async fn first_error_counts_more_than_the_engines_success() {
        // The engine continues after a failed read of its source, and returns success.
        let error = run_task(|first| {
            first.set(RepositoryError::NotFound { location: "first".into() });
            first.set(RepositoryError::Cancelled { location: "second".into() });
            Ok(())
        });
        let error = error.await.unwrap_err();
        assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    }
}

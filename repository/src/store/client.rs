//! The client of one store: its requests for files, and its errors. The requests are repeated as `retry.rs` states.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    backend::Backend,
    fault::Fault,
    file::{Kind, Write, Written},
    folder::{Folder, Leftovers},
    http::{self, Redirects},
    limits::Limits,
    objects::Objects,
    outage::{Outage, StoreWait},
    rest, sftp,
    timeouts::Timeouts,
};
use crate::{OpenOptions, RepositoryError, format::Id};
use stowaway_model::{AzureConfig, BackendConfig, Connection, Credential, GcsConfig, S3Config, Secret, SftpConfig};

/// The parameters for access to a store.
#[derive(Clone, Debug)]
pub struct StoreAccess {
    pub backend: BackendConfig,
    /// Settings of the connection. Each credential that `connection.credentials` lists must be in `credentials`.
    pub connection: Connection,
    pub credentials: BTreeMap<Credential, Secret>,
    pub timeouts: Timeouts,
}

/// The store of one repository.
#[derive(Clone, Debug)]
pub(in super::super) struct Store {
    pub(super) backend: Backend,
    pub(super) location: String,
    /// The bucket or container for messages; empty if the store has none.
    pub(super) bucket: String,
    pub(super) timeouts: Timeouts,
    /// Whether the store was reached before, so that requests wait for an outage; see [`Timeouts::outage`].
    pub(super) is_reached: bool,
    pub(super) outage: Arc<Outage>,
    pub(super) limits: Limits,
    pub(super) cancel: CancellationToken,
}

impl Store {
    pub fn new(access: &OpenOptions, cancel: CancellationToken) -> Result<Self, RepositoryError> {
        let OpenOptions { backend, connection, credentials, timeouts, .. } = access;
        Self::of((backend, connection, credentials), *timeouts, cancel)
    }

    /// Creates a store that need not be a repository's.
    pub fn at(access: &StoreAccess, cancel: CancellationToken) -> Result<Self, RepositoryError> {
        let StoreAccess { backend, connection, credentials, timeouts } = access;
        Self::of((backend, connection, credentials), *timeouts, cancel)
    }

    fn of(
        (backend, connection, credentials): StoreParameters<'_>,
        timeouts: Timeouts,
        cancel: CancellationToken,
    ) -> Result<Self, RepositoryError> {
        let location = location_of(backend);
        let unusable = |why: String| RepositoryError::InvalidRequest(format!("{location} cannot be used: {why}"));
        if let Some(missing) = connection.credentials.iter().find(|one| !credentials.contains_key(one)) {
            return Err(unusable(format!("{} is missing", missing.title())));
        }
        let limits = Limits::new(&connection.limits);
        let bucket = bucket_of(backend);
        let backend = backend_of((backend, connection, credentials)).map_err(unusable)?;
        Ok(Self { backend, location, bucket, timeouts, is_reached: false, outage: Arc::default(), limits, cancel })
    }

    /// Returns the store's location, without credentials.
    pub fn location(&self) -> &str {
        &self.location
    }

    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Returns the current wait of the requests for an outage, if there is one.
    pub fn wait(&self) -> Option<StoreWait> {
        self.outage.wait()
    }

    /// Returns the store for a run that has reached it: from now on requests wait for an outage.
    pub fn reached(&self) -> Self {
        Self { is_reached: true, ..self.clone() }
    }

    /// Returns the store with a child of its cancel token.
    pub fn with_child_token(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// Returns the store with a new cancel token, so that a cancellation of the run does not cancel its requests.
    pub fn uncancelled(&self) -> Self {
        Self { cancel: CancellationToken::new(), ..self.clone() }
    }

    /// Returns the store for a final request after the run was cancelled: with a new cancel token, a short timeout, and
    /// no retries.
    pub fn for_final_request(&self) -> Self {
        let request = self.timeouts.request.min(Duration::from_secs(5));
        let timeouts = Timeouts { request, retries: Duration::ZERO, outage: Duration::ZERO };
        Self { timeouts, cancel: CancellationToken::new(), ..self.clone() }
    }

    /// Returns the size of a file, or none if it is missing.
    pub async fn stat(&self, kind: Kind, id: &Id) -> Result<Option<u64>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let size = self.retry_read(0, move || backend.stat(path)).await;
        self.present(size, "look for", path)
    }

    /// Returns when a file was last written, by the store's clock. Returns none if the file is missing or the store
    /// does not report the time.
    pub async fn modified(&self, kind: Kind, id: &Id) -> Result<Option<Timestamp>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let modified = self.retry_read(0, move || backend.modified(path)).await;
        Ok(self.present(modified, "look for", path)?.flatten())
    }

    /// Reads a whole file. Returns none if it is missing.
    pub async fn read(&self, kind: Kind, id: &Id) -> Result<Option<Bytes>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let content = self.retry_read(0, move || backend.read(path)).await;
        self.limited(self.limits.receive(content.as_ref().map_or(0, |content| content.len() as u64))).await?;
        self.present(content, "read", path)
    }

    /// Reads a part of a pack. Fails if the pack is missing or too short.
    pub async fn read_range(&self, id: &Id, offset: u32, length: u32) -> Result<Bytes, RepositoryError> {
        let (backend, path) = (&self.backend, &Kind::Pack.path(id));
        let (offset, length) = (u64::from(offset), u64::from(length));
        self.limited(self.limits.receive(length)).await?;
        let content = self.retry_read(length, move || backend.read_range(path, offset, length)).await;
        let short = || self.damaged(format!("{path} ends before byte {}", offset + length));
        match self.present(content, "read", path) {
            Ok(Some(content)) if content.len() as u64 == length => Ok(content),
            Ok(Some(_)) => Err(short()),
            Ok(None) => Err(self.damaged(format!("{path} is missing"))),
            // Services answer differently to a range beyond the end of a file.
            Err(error @ RepositoryError::StoreUnavailable { .. }) => match self.stat(Kind::Pack, id).await {
                Ok(Some(size)) if size < offset + length => Err(short()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Lists all files of one kind, of an existing repository. Ignores files whose names are not ids.
    pub async fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, RepositoryError> {
        self.list_where(kind, false).await
    }

    /// As [`Self::list`], if there may be no repository yet.
    pub async fn list_in_new_store(&self, kind: Kind) -> Result<Vec<(Id, u64)>, RepositoryError> {
        self.list_where(kind, true).await
    }

    async fn list_where(&self, kind: Kind, may_be_new: bool) -> Result<Vec<(Id, u64)>, RepositoryError> {
        let (backend, folder) = (&self.backend, kind.folder());
        let files = self.retry_read(0, move || backend.list(folder, may_be_new)).await;
        let files = files.map_err(|fault| self.failed(fault, "list", folder))?;
        Ok(files.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, size))).collect())
    }

    /// Prepares the store for a new repository, before the first file is written.
    pub async fn prepare(&self) -> Result<(), RepositoryError> {
        let backend = &self.backend;
        let prepared = self.retry(0, move || backend.prepare()).await;
        prepared.map_err(|fault| self.failed(fault, "prepare", "the repository's folders"))
    }

    /// Writes a file, which becomes visible only when it is complete and durable.
    pub async fn write(
        &self,
        kind: Kind,
        id: &Id,
        content: Vec<Bytes>,
        mode: Write,
    ) -> Result<Written, RepositoryError> {
        let (backend, path, content) = (&self.backend, &kind.path(id), &content);
        let size = content.iter().map(|part| part.len() as u64).sum();
        self.limited(self.limits.send(size)).await?;
        match self.retry(size, move || backend.write(path, content, mode)).await {
            Ok(()) => Ok(Written::Done),
            Err(Fault::Taken) if mode == Write::CreateNew => Ok(Written::Taken),
            Err(fault) => Err(self.failed(fault, "write", path)),
        }
    }

    /// Removes a file. A file that is already missing is not an error.
    pub async fn remove(&self, kind: Kind, id: &Id) -> Result<(), RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let removed = self.retry(0, move || backend.remove(path)).await;
        self.present(removed, "remove", path).map(drop)
    }

    /// Removes the unfinished files of writers that were killed; see [`folder`](super::folder). The caller must hold an exclusive
    /// lock. Files that cannot be removed only occupy space.
    pub async fn remove_leftovers(&self) {
        let backend = &self.backend;
        match self.retry(0, move || backend.remove_leftovers()).await {
            Ok(Leftovers { files: 0, .. }) => {}
            Ok(Leftovers { files, bytes }) => {
                tracing::info!(files, bytes, "removed {files} unfinished files of killed writers, {bytes} bytes");
            }
            Err(fault) => {
                let error = self.failed(fault, "remove", "the unfinished files of killed writers");
                tracing::warn!("{error}; the next prune tries again");
            }
        }
    }

    pub fn damaged(&self, what: impl Into<String>) -> RepositoryError {
        RepositoryError::Damaged { location: self.location.clone(), what: what.into() }
    }

    /// Returns the error for a failure that is a fault of this program.
    pub fn internal(&self, what: impl std::fmt::Display) -> RepositoryError {
        RepositoryError::Internal { location: self.location.clone(), what: what.to_string() }
    }

    fn present<T>(
        &self,
        answer: Result<T, Fault>,
        action: &'static str,
        file: &str,
    ) -> Result<Option<T>, RepositoryError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Fault::Missing(_)) => Ok(None),
            Err(fault) => Err(self.failed(fault, action, file)),
        }
    }

    pub(super) fn failed(&self, fault: Fault, action: &'static str, file: &str) -> RepositoryError {
        let (location, file) = (self.location.clone(), file.to_owned());
        match fault {
            Fault::Cancelled => RepositoryError::Cancelled { location },
            Fault::Full(source) => RepositoryError::StoreFull { location, file, source },
            Fault::Denied(source) => RepositoryError::AccessDenied { location, action, file, source },
            Fault::NoBucket(source) => RepositoryError::BucketMissing { location, bucket: self.bucket.clone(), source },
            Fault::Taken => self.damaged(format!("{file} already exists")),
            Fault::Missing(source) | Fault::Permanent(source) | Fault::Transient(source) => {
                RepositoryError::StoreUnavailable { location, action, file, source }
            }
        }
    }

    /// Waits for the store's limits, or until the run is cancelled.
    pub(super) async fn limited(&self, wait: impl Future<Output = ()>) -> Result<(), RepositoryError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(RepositoryError::Cancelled { location: self.location.clone() }),
            () = wait => Ok(()),
        }
    }
}

/// Returns the bucket or container for messages.
fn bucket_of(backend: &BackendConfig) -> String {
    match backend {
        BackendConfig::S3(S3Config { bucket, .. }) | BackendConfig::Gcs(GcsConfig { bucket, .. }) => {
            format!("bucket {bucket:?}")
        }
        BackendConfig::Azure(AzureConfig { container, .. }) => format!("container {container:?}"),
        BackendConfig::Rest(_) | BackendConfig::Sftp(_) | BackendConfig::Folder { .. } => String::new(),
    }
}

/// Returns a store's location for messages, without credentials.
fn location_of(backend: &BackendConfig) -> String {
    let location = match backend {
        BackendConfig::Folder { path } => return path.clone(),
        BackendConfig::S3(config) => {
            format!("{}/{}/{}", config.endpoint.trim_end_matches('/'), config.bucket, config.prefix)
        }
        BackendConfig::Azure(config) => {
            format!("{}/{}/{}", config.endpoint.trim_end_matches('/'), config.container, config.prefix)
        }
        BackendConfig::Gcs(config) => {
            format!("{}/{}/{}", config.endpoint.trim_end_matches('/'), config.bucket, config.prefix)
        }
        BackendConfig::Rest(config) => config.url.clone(),
        BackendConfig::Sftp(SftpConfig { host, port, user, path }) => format!("sftp:{user}@{host}:{port}:{path}"),
    };
    stowaway_model::redact(location.trim_end_matches('/'))
}

/// The location of a store, the settings of the connection, and the credentials.
type StoreParameters<'a> = (&'a BackendConfig, &'a Connection, &'a BTreeMap<Credential, Secret>);

/// Creates the backend. An error is a message for users which states which setting is invalid.
fn backend_of((backend, connection, credentials): StoreParameters<'_>) -> Result<Backend, String> {
    let client = |redirects| http::client(connection, credentials, redirects);
    Ok(match backend {
        BackendConfig::Folder { path } => Backend::Folder(Folder::new(path, connection.shared_folder)),
        BackendConfig::S3(config) => {
            Backend::Objects(Objects::s3(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        BackendConfig::Azure(config) => {
            Backend::Objects(Objects::azure(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        BackendConfig::Gcs(config) => {
            Backend::Objects(Objects::gcs(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        // No redirects: an HTTP client turns a redirected write into a read, which would look like success.
        BackendConfig::Rest(config) => Backend::Rest(rest::Server::new(config, credentials, client(Redirects::None)?)),
        BackendConfig::Sftp(config) => Backend::Sftp(sftp::Server::new(config, connection, credentials)?),
    })
}

//! The files of a repository, wherever they are: strict answers, bounded retries, one cancel token.
//!
//! It must not know what is in the files. "Not there" is an answer only when the store itself gave it; a listing is
//! whole or an error.

mod backend;
mod folder;
mod http;
mod limits;
mod objects;
mod patience;
mod rest;
mod sftp;
mod upload;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::Id;
use tokio_util::sync::CancellationToken;

use self::{
    backend::{Backend, Fault},
    folder::Leftovers,
    http::Redirects,
    limits::Limits,
    objects::Objects,
    patience::Outage,
};
use super::{Access, RepositoryError};
use crate::model::{BackendConfig, Connection, Credential, Secret, SftpConfig};

pub(super) use self::upload::{Upload, Uploaded};
pub use self::{
    patience::{Patience, StoreWait},
    sftp::known_host_keys,
};

/// All that speaking to a store takes.
#[derive(Clone, Debug)]
pub struct StoreAccess {
    /// Where it is.
    pub backend: BackendConfig,
    /// How it is spoken to. Of its `credentials` none may be missing from the following.
    pub connection: Connection,
    /// What opens it.
    pub credentials: BTreeMap<Credential, Secret>,
    /// How long it may take.
    pub patience: Patience,
}

/// The folders of restic's repository layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Config,
    Key,
    Lock,
    Snapshot,
    Index,
    Pack,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
        }
    }

    /// Path of a file within the repository.
    pub fn path(self, id: &Id) -> String {
        let name = id.to_hex();
        match self {
            Self::Config => "config".to_owned(),
            Self::Pack => format!("data/{}/{}", &name.as_str()[..2], name.as_str()),
            other => format!("{}/{}", other.folder(), name.as_str()),
        }
    }
}

/// What a write does about a file of that name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Write {
    /// All names but the config's are hashes of the content, so what is replaced is the same.
    Replace,
    /// Only one of several writers wins.
    CreateNew,
}

/// What a write found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Written {
    Done,
    /// Only for [`Write::CreateNew`].
    Taken,
}

/// The store of one repository.
#[derive(Clone, Debug)]
pub(super) struct Store {
    backend: Backend,
    place: String,
    patience: Patience,
    /// Whether it was reached before, so that a run is under way; see [`Patience::outage`].
    is_under_way: bool,
    outage: Arc<Outage>,
    limits: Limits,
    cancel: CancellationToken,
}

impl Store {
    pub fn new(access: &Access, cancel: CancellationToken) -> Result<Self, RepositoryError> {
        let Access { backend, connection, credentials, patience, .. } = access;
        Self::of((backend, connection, credentials), *patience, cancel)
    }

    /// A store of anything.
    pub fn at(access: &StoreAccess, cancel: CancellationToken) -> Result<Self, RepositoryError> {
        let StoreAccess { backend, connection, credentials, patience } = access;
        Self::of((backend, connection, credentials), *patience, cancel)
    }

    fn of(
        (backend, connection, credentials): Spoken<'_>,
        patience: Patience,
        cancel: CancellationToken,
    ) -> Result<Self, RepositoryError> {
        let place = place_of(backend);
        let unusable = |why: String| RepositoryError::InvalidRequest(format!("{place} cannot be used: {why}"));
        if let Some(missing) = connection.credentials.iter().find(|one| !credentials.contains_key(one)) {
            return Err(unusable(format!("{} is missing", missing.title())));
        }
        let limits = Limits::new(&connection.limits);
        let backend = backend_of((backend, connection, credentials)).map_err(unusable)?;
        Ok(Self { backend, place, patience, is_under_way: false, outage: Arc::default(), limits, cancel })
    }

    /// Where the repository is, without credentials.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The same store for a run that has reached it: from here on an outage is waited for.
    pub fn under_way(&self) -> Self {
        Self { is_under_way: true, ..self.clone() }
    }

    /// The same store, whose requests end with the run or with the token that it returns.
    pub fn cancelled_with_its_run(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// The same store, whose requests do not end with the run.
    pub fn for_a_last_write(&self) -> Self {
        Self { cancel: CancellationToken::new(), ..self.clone() }
    }

    /// The same store for a last look after the run was cancelled, with one short request.
    pub fn for_a_last_look(&self) -> Self {
        let request = self.patience.request.min(Duration::from_secs(5));
        let patience = Patience { request, retries: Duration::ZERO, outage: Duration::ZERO };
        Self { patience, cancel: CancellationToken::new(), ..self.clone() }
    }

    /// Size of a file that is there.
    pub async fn stat(&self, kind: Kind, id: &Id) -> Result<Option<u64>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let size = self.retry_read(0, move || backend.stat(path)).await;
        self.present(size, "look for", path)
    }

    /// When a file was last written, by the store's clock; none if it is gone, or if the store does not answer that.
    pub async fn modified(&self, kind: Kind, id: &Id) -> Result<Option<Timestamp>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let modified = self.retry_read(0, move || backend.modified(path)).await;
        Ok(self.present(modified, "look for", path)?.flatten())
    }

    /// A whole file that is there.
    pub async fn read(&self, kind: Kind, id: &Id) -> Result<Option<Bytes>, RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let content = self.retry_read(0, move || backend.read(path)).await;
        self.limited(self.limits.receive(content.as_ref().map_or(0, |content| content.len() as u64))).await?;
        self.present(content, "read", path)
    }

    /// A part of a pack, which must be there and that long.
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
            // Services answer in many ways to a range that is not there.
            Err(error @ RepositoryError::StoreUnavailable { .. }) => match self.stat(Kind::Pack, id).await {
                Ok(Some(size)) if size < offset + length => Err(short()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// All files of one kind of a repository that is there, or an error; names that are no ids are not ours.
    pub async fn list(&self, kind: Kind) -> Result<Vec<(Id, u64)>, RepositoryError> {
        self.list_where(kind, false).await
    }

    /// The same where there may be no repository yet.
    pub async fn list_in_new_place(&self, kind: Kind) -> Result<Vec<(Id, u64)>, RepositoryError> {
        self.list_where(kind, true).await
    }

    async fn list_where(&self, kind: Kind, may_be_new: bool) -> Result<Vec<(Id, u64)>, RepositoryError> {
        let (backend, folder) = (&self.backend, kind.folder());
        let files = self.retry_read(0, move || backend.list(folder, may_be_new)).await;
        let files = files.map_err(|fault| self.failed(fault, "list", folder))?;
        Ok(files.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, size))).collect())
    }

    /// Makes what the store wants before the first file of a new repository.
    pub async fn prepare(&self) -> Result<(), RepositoryError> {
        let backend = &self.backend;
        let prepared = self.retry(0, move || backend.prepare()).await;
        prepared.map_err(|fault| self.failed(fault, "prepare", "the repository's folders"))
    }

    /// Writes a file that nobody sees before it is whole and durable.
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

    /// Removes a file; one that is gone already is as good.
    pub async fn remove(&self, kind: Kind, id: &Id) -> Result<(), RepositoryError> {
        let (backend, path) = (&self.backend, &kind.path(id));
        let removed = self.retry(0, move || backend.remove(path)).await;
        self.present(removed, "remove", path).map(drop)
    }

    /// Removes the unfinished files of writers that were killed; see [`folder`]. Only under an exclusive lock. What stays only
    /// takes room.
    pub async fn remove_leftovers(&self) {
        let backend = &self.backend;
        match self.retry(0, move || backend.remove_leftovers()).await {
            Ok(Leftovers { files: 0, .. }) => {}
            Ok(Leftovers { files, bytes }) => {
                tracing::info!(files, bytes, "removed {files} unfinished files of killed writers, {bytes} bytes");
            }
            Err(fault) => {
                let error = self.failed(fault, "remove", "the unfinished files of killed writers");
                tracing::warn!("{error}; the next prune tries it again");
            }
        }
    }

    pub fn damaged(&self, what: impl Into<String>) -> RepositoryError {
        RepositoryError::Damaged { place: self.place.clone(), what: what.into() }
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

    fn failed(&self, fault: Fault, action: &'static str, file: &str) -> RepositoryError {
        let (place, file) = (self.place.clone(), file.to_owned());
        match fault {
            Fault::Cancelled => RepositoryError::Cancelled { place },
            Fault::Full(source) => RepositoryError::StoreFull { place, file, source },
            Fault::Denied(source) => RepositoryError::AccessDenied { place, action, file, source },
            Fault::Taken => self.damaged(format!("{file} is there already")),
            Fault::Missing(source) | Fault::Final(source) | Fault::Passing(source) => {
                RepositoryError::StoreUnavailable { place, action, file, source }
            }
        }
    }

    /// Waits for the store's limits, but not longer than the run.
    async fn limited(&self, wait: impl Future<Output = ()>) -> Result<(), RepositoryError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(RepositoryError::Cancelled { place: self.place.clone() }),
            () = wait => Ok(()),
        }
    }
}

/// Where a repository is, as people are told it, without credentials.
fn place_of(backend: &BackendConfig) -> String {
    let place = match backend {
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
    crate::model::redact(place.trim_end_matches('/'))
}

/// Where a store is, how it is spoken to, and what opens it.
type Spoken<'a> = (&'a BackendConfig, &'a Connection, &'a BTreeMap<Credential, Secret>);

/// The store itself; an error tells people what is wrong with what they gave.
fn backend_of((backend, connection, credentials): Spoken<'_>) -> Result<Backend, String> {
    let client = |redirects| http::client(connection, credentials, redirects);
    Ok(match backend {
        BackendConfig::Folder { path } => Backend::Folder(folder::Folder::new(path, connection.shared_folder)),
        BackendConfig::S3(config) => {
            Backend::Objects(Objects::s3(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        BackendConfig::Azure(config) => {
            Backend::Objects(Objects::azure(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        BackendConfig::Gcs(config) => {
            Backend::Objects(Objects::gcs(config, credentials, &client(Redirects::WithinOrigin)?)?)
        }
        // A write that is redirected becomes a read, and would look like a success.
        BackendConfig::Rest(config) => Backend::Rest(rest::Server::new(config, credentials, client(Redirects::None)?)),
        BackendConfig::Sftp(config) => Backend::Sftp(sftp::Server::new(config, connection, credentials)?),
    })
}

/// Chooses, once for the process, the TLS provider (ring). Opening a repository does it, too; a program that speaks TLS
/// elsewhere calls it first.
pub fn install_transport() {
    http::install();
}

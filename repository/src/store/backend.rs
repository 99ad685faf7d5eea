//! A single attempt of a request to a store, for each kind of store. The caller retries.

use std::io;

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    fault::Fault,
    file::Write,
    folder::{Folder, Leftovers},
    objects::Objects,
    rest, sftp,
};
use crate::StoreFault;

/// The kind of store, with its connection.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    Folder(Folder),
    Objects(Objects),
    Rest(rest::Server),
    Sftp(sftp::Server),
}

impl Backend {
    pub async fn stat(&self, path: &str) -> Result<u64, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::stat).await,
            Self::Objects(bucket) => Ok(bucket.stat(path).await?),
            Self::Rest(server) => server.stat(path).await,
            Self::Sftp(server) => server.stat(path).await,
        }
    }

    /// Returns when a file was last written, by the store's clock; none if the store does not report the time.
    pub async fn modified(&self, path: &str) -> Result<Option<Timestamp>, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::modified).await,
            Self::Objects(bucket) => Ok(bucket.modified(path).await?),
            Self::Rest(server) => server.modified(path).await,
            Self::Sftp(server) => server.modified(path).await,
        }
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::read).await,
            Self::Objects(bucket) => Ok(bucket.read(path).await?),
            Self::Rest(server) => server.read(path).await,
            Self::Sftp(server) => server.read(path).await,
        }
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Fault> {
        match self {
            Self::Folder(folder) => {
                on_disk(folder, path, move |folder, path| folder.read_range(path, offset, length)).await
            }
            Self::Objects(bucket) => Ok(bucket.read_range(path, offset, length).await?),
            Self::Rest(server) => server.read_range(path, offset, length).await,
            Self::Sftp(server) => server.read_range(path, offset, length).await,
        }
    }

    /// Prepares the store for a new repository, before the first file is written.
    pub async fn prepare(&self) -> Result<(), Fault> {
        match self {
            Self::Rest(server) => server.prepare().await,
            Self::Folder(_) | Self::Objects(_) | Self::Sftp(_) => Ok(()),
        }
    }

    /// Lists the names and sizes of all files of a folder, including its subfolders.
    ///
    /// In a store with real folders, a missing folder counts as empty if `may_be_new`, or if there is a config, because
    /// tools that copy repositories may omit empty folders. Otherwise the volume was probably removed, and this is an
    /// error.
    pub async fn list(&self, folder: &str, may_be_new: bool) -> Result<Vec<(String, u64)>, Fault> {
        let listed = match self {
            Self::Folder(root) => on_disk(root, folder, Folder::list).await,
            Self::Objects(bucket) => return Ok(bucket.list(folder).await?),
            Self::Rest(server) => server.list(folder).await,
            Self::Sftp(server) => server.list(folder).await,
        };
        let Err(Fault::Missing(missing)) = listed else { return listed };
        if may_be_new {
            return Ok(Vec::new());
        }
        match self.stat("config").await {
            Ok(_) => Ok(Vec::new()),
            Err(Fault::Missing(_)) => Err(Fault::Missing(missing)),
            Err(fault) => Err(fault),
        }
    }

    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => {
                let content = content.to_vec();
                on_disk(folder, path, move |folder, path| folder.write(path, &content, mode)).await
            }
            Self::Objects(bucket) => Ok(bucket.write(path, content, mode).await?),
            Self::Rest(server) => server.write(path, content, mode).await,
            Self::Sftp(server) => server.write(path, content, mode).await,
        }
    }

    /// Writes a part of a partial file, and creates the file for the first part. The call may be repeated.
    pub async fn write_part(&self, partial: &str, offset: u64, content: &[Bytes]) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => {
                let content = content.to_vec();
                on_disk(folder, partial, move |folder, partial| folder.write_part(partial, offset, &content)).await
            }
            Self::Sftp(server) => server.write_part(partial, offset, content).await,
            Self::Objects(_) | Self::Rest(_) => Err(without_partial_files()),
        }
    }

    /// Makes a partial file durable and renames it to its final name.
    pub async fn give_name(&self, partial: &str, path: &str, mode: Write) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => {
                let partial = partial.to_owned();
                on_disk(folder, path, move |folder, path| folder.give_name(&partial, path, mode)).await
            }
            Self::Sftp(server) => server.give_name(partial, path, mode).await,
            Self::Objects(_) | Self::Rest(_) => Err(without_partial_files()),
        }
    }

    /// Removes the partial files of killed writers, for stores that have partial files. The caller must exclude all
    /// other writers.
    pub async fn remove_leftovers(&self) -> Result<Leftovers, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, "", |folder, _| folder.remove_leftovers()).await,
            Self::Objects(_) | Self::Rest(_) | Self::Sftp(_) => Ok(Leftovers::default()),
        }
    }

    pub async fn remove(&self, path: &str) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::remove).await,
            Self::Objects(bucket) => Ok(bucket.remove(path).await?),
            Self::Rest(server) => server.remove(path).await,
            Self::Sftp(server) => server.remove(path).await,
        }
    }
}

fn without_partial_files() -> Fault {
    Fault::Permanent(StoreFault::Http("the store does not support partial files".to_owned()))
}

/// Runs a file system request on a thread that may block.
async fn on_disk<T: Send + 'static>(
    folder: &Folder,
    path: &str,
    request: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let (folder, path) = (folder.clone(), path.to_owned());
    tokio::task::spawn_blocking(move || request(&folder, &path))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Fault::from)
}

//! One try of a request to whichever store it is, and what kind of failure an answer is.
//!
//! It must not know retries.

use std::io;

use bytes::Bytes;
use opendal::ErrorKind;

use super::{Write, folder::Folder, s3};
use crate::repository::StoreFault;

/// Where the files are.
#[derive(Clone, Debug)]
pub(super) enum Backend {
    Folder(Folder),
    S3(s3::Bucket),
}

impl Backend {
    pub async fn stat(&self, path: &str) -> Result<u64, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::stat).await,
            Self::S3(bucket) => Ok(bucket.stat(path).await?),
        }
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::read).await,
            Self::S3(bucket) => Ok(bucket.read(path).await?),
        }
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Fault> {
        match self {
            Self::Folder(folder) => {
                on_disk(folder, path, move |folder, path| folder.read_range(path, offset, length)).await
            }
            Self::S3(bucket) => Ok(bucket.read_range(path, offset, length).await?),
        }
    }

    pub async fn list(&self, folder: &str, may_be_new: bool) -> Result<Vec<(String, u64)>, Fault> {
        match self {
            Self::Folder(root) => on_disk(root, folder, move |root, folder| root.list(folder, may_be_new)).await,
            Self::S3(bucket) => Ok(bucket.list(folder).await?),
        }
    }

    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => {
                let content = content.to_vec();
                on_disk(folder, path, move |folder, path| folder.write(path, &content, mode)).await
            }
            Self::S3(bucket) => Ok(bucket.write(path, content, mode).await?),
        }
    }

    pub async fn remove(&self, path: &str) -> Result<(), Fault> {
        match self {
            Self::Folder(folder) => on_disk(folder, path, Folder::remove).await,
            Self::S3(bucket) => Ok(bucket.remove(path).await?),
        }
    }
}

/// How one try failed.
#[derive(Debug)]
pub(super) enum Fault {
    Missing(StoreFault),
    Taken,
    Full(StoreFault),
    Denied(StoreFault),
    /// Trying again would not help.
    Final(StoreFault),
    /// It may.
    Passing(StoreFault),
    Cancelled,
}

impl From<opendal::Error> for Fault {
    fn from(error: opendal::Error) -> Self {
        let classify = match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists => return Self::Taken,
            _ if s3::is_full(&error) => Self::Full,
            ErrorKind::PermissionDenied => Self::Denied,
            _ if s3::is_final(&error) => Self::Final,
            _ => Self::Passing,
        };
        classify(StoreFault::Object(Box::new(error)))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Io;
        let classify = match error.kind() {
            Io::NotFound => Self::Missing,
            Io::AlreadyExists => return Self::Taken,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::Full,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => Self::Denied,
            Io::NotADirectory | Io::IsADirectory | Io::InvalidInput | Io::Unsupported => Self::Final,
            _ => Self::Passing,
        };
        classify(StoreFault::File(error))
    }
}

/// Runs a request to the file system where it may block.
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

//! A repository's files on an SSH server with SFTP (version 3), in restic's layout. The caller adds retries and
//! deadlines.
//!
//! The library's file type is not used, because it does not support a rename that replaces a file. OpenSSH's extensions
//! (`fsync`, `hardlink`, `posix-rename`, `statvfs`) are used if the server has them. The protocol cannot make a
//! folder's entry durable.

mod connect;
mod host_keys;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use russh_sftp::{
    client::error::Error,
    extensions::{FSYNC, HARDLINK, STATVFS},
    protocol::{FileAttributes, OpenFlags, Packet, StatusCode},
};
use tokio::{runtime::Handle, time::timeout};

use self::connect::{Connection, Connector, Lease};
pub use self::host_keys::known_host_keys;
use super::{fault::Fault, file::Write, partial::partial_path};
use crate::StoreFault;
use stowaway_model::{self, Credential, Secret, SftpConfig};

/// The length of a read or write request, which every server accepts.
const CHUNK: usize = 32 * 1024;
/// How many reads, writes or listings run in parallel.
const PARALLEL_REQUESTS: usize = 32;
/// The timeout for removing the partial file of a failed write.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// The modes of new folders and files. As in restic, only the owner has access.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder on a server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    connector: Connector,
    root: String,
}

impl Server {
    /// An error is a message for users which states which setting is invalid.
    pub fn new(
        config: &SftpConfig,
        connection: &stowaway_model::Connection,
        credentials: &BTreeMap<Credential, Secret>,
    ) -> Result<Self, String> {
        let connector = Connector::new(config, connection, credentials)?;
        let root = if config.path == "/" { String::new() } else { config.path.trim_end_matches('/').to_owned() };
        Ok(Self { connector, root })
    }

    pub async fn stat(&self, path: &str) -> Result<u64, Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let found = match server.sftp.stat(&path).await {
            Ok(found) => size(&found.attrs, &path),
            Err(error) => Err(error.into()),
        };
        server.end(found)
    }

    pub async fn modified(&self, path: &str) -> Result<Option<Timestamp>, Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let found = server.sftp.stat(&path).await.map_err(Fault::from);
        server.end(found.map(|found| Timestamp::from_second(found.attrs.mtime?.into()).ok()))
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let content = read(&server, &path, None).await;
        server.end(content)
    }

    pub async fn read_range(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let content = read(&server, &path, Some((offset, length))).await;
        server.end(content)
    }

    /// Lists the names and sizes of all files of a folder and its direct subfolders.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, Fault> {
        let (path, server) = (self.full(folder), self.connector.open().await?);
        let files = list(&server, &path).await;
        server.end(files)
    }

    /// Writes a partial file, makes it durable, and renames it to the final name. So a reader sees a complete file or
    /// none.
    pub async fn write(&self, path: &str, content: &[Bytes], mode: Write) -> Result<(), Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let written = write(&server, &path, content, mode).await;
        server.end(written)
    }

    /// Writes a part of a partial file. The call may be repeated, also on another connection.
    pub async fn write_part(&self, partial: &str, offset: u64, content: &[Bytes]) -> Result<(), Fault> {
        let (path, server) = (self.full(partial), self.connector.open().await?);
        let written = write_part(&server, &path, offset, content).await;
        server.end(written)
    }

    /// Makes a partial file durable and renames it to its final name.
    pub async fn give_name(&self, partial: &str, path: &str, mode: Write) -> Result<(), Fault> {
        let (partial, path, server) = (self.full(partial), self.full(path), self.connector.open().await?);
        let named = match synced(&server, &partial).await {
            Ok(()) => give_name(&server, &partial, &path, mode).await,
            Err(fault) => Err(fault),
        };
        server.end(named)
    }

    pub async fn remove(&self, path: &str) -> Result<(), Fault> {
        let (path, server) = (self.full(path), self.connector.open().await?);
        let removed = server.sftp.remove(&path).await.map(drop).map_err(Fault::from);
        server.end(removed)
    }

    fn full(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let classify = match &error {
            Error::Status(status) => match status.status_code {
                StatusCode::NoSuchFile => Self::Missing,
                StatusCode::PermissionDenied => Self::Denied,
                StatusCode::BadMessage | StatusCode::OpUnsupported => Self::Permanent,
                _ => Self::Transient,
            },
            _ => Self::Transient,
        };
        classify(StoreFault::Ssh(error.to_string()))
    }
}

fn size(attributes: &FileAttributes, path: &str) -> Result<u64, Fault> {
    if attributes.is_dir() {
        return Err(Fault::Permanent(StoreFault::Ssh(format!("{path} is a folder"))));
    }
    attributes.size.ok_or_else(|| Fault::Permanent(StoreFault::Ssh(format!("the server reports no size of {path}"))))
}

/// Closes a handle after some work. The work's error takes precedence over an error of closing.
async fn closed<T>(server: &Connection, handle: String, work: Result<T, Fault>) -> Result<T, Fault> {
    let closed = server.sftp.close(handle).await;
    let done = work?;
    closed?;
    Ok(done)
}

/// Reads a part of a file, or the whole file.
async fn read(server: &Connection, path: &str, part: Option<(u64, u64)>) -> Result<Bytes, Fault> {
    let handle = server.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await?.handle;
    let content = match part {
        Some((offset, length)) => read_part(server, &handle, offset, length).await,
        None => match server.sftp.fstat(&handle).await {
            Ok(found) => match size(&found.attrs, path) {
                Ok(length) => read_part(server, &handle, 0, length).await,
                Err(fault) => Err(fault),
            },
            Err(error) => Err(error.into()),
        },
    };
    closed(server, handle, content).await
}

async fn read_part(server: &Connection, handle: &str, offset: u64, length: u64) -> Result<Bytes, Fault> {
    let chunks = (0..length).step_by(CHUNK).map(|at| {
        let length = CHUNK.min(usize::try_from(length - at).unwrap_or(CHUNK));
        read_chunk(server, handle, offset + at, length)
    });
    let mut chunks = stream::iter(chunks).buffered(PARALLEL_REQUESTS);
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    while let Some(chunk) = chunks.try_next().await? {
        content.extend_from_slice(&chunk);
    }
    Ok(content.into())
}

/// Reads a chunk with as many requests as needed, because servers may return fewer bytes than requested. The chunk is
/// shorter at the end of the file.
async fn read_chunk(server: &Connection, handle: &str, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
    let mut chunk = Vec::with_capacity(length);
    while chunk.len() < length {
        let wanted = u32::try_from(length - chunk.len()).unwrap_or(u32::MAX);
        match server.sftp.read(handle, offset + chunk.len() as u64, wanted).await {
            Ok(data) if !data.data.is_empty() => chunk.extend_from_slice(&data.data),
            Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(chunk)
}

async fn list(server: &Connection, path: &str) -> Result<Vec<(String, u64)>, Fault> {
    let (mut files, folders) = list_folder(server, path.to_owned()).await?;
    let below = folders.into_iter().map(|name| list_folder(server, format!("{path}/{name}")));
    let mut below = stream::iter(below).buffer_unordered(PARALLEL_REQUESTS);
    while let Some((more, _)) = below.try_next().await? {
        files.extend(more);
    }
    Ok(files)
}

type Listed = (Vec<(String, u64)>, Vec<String>);

/// Lists the files of a folder with their sizes, and its subfolders.
async fn list_folder(server: &Connection, path: String) -> Result<Listed, Fault> {
    let handle = server.sftp.opendir(path).await?.handle;
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let all = loop {
        match server.sftp.readdir(&handle).await {
            Ok(page) => {
                for entry in page.files {
                    if entry.attrs.is_dir() {
                        folders.extend(Some(entry.filename).filter(|name| !matches!(name.as_str(), "." | "..")));
                    } else if let Some(size) = entry.attrs.size {
                        files.push((entry.filename, size));
                    }
                }
            }
            Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break Ok((files, folders)),
            Err(error) => break Err(error.into()),
        }
    };
    closed(server, handle, all).await
}

async fn write(server: &Lease, path: &str, content: &[Bytes], mode: Write) -> Result<(), Fault> {
    let folder = folder_of(path);
    let mut partial = Partial { connection: server.connection(), path: partial_path(path), is_gone: false };
    let written = match write_durably(server, &partial.path, content).await {
        Err(Fault::Missing(_)) => {
            make_folders(server, folder).await?;
            write_durably(server, &partial.path, content).await
        }
        written => written,
    };
    let done = match written {
        Ok(()) => give_name(server, &partial.path, path, mode).await,
        Err(Fault::Transient(fault)) if is_full(server, folder, content).await => Err(Fault::Full(fault)),
        Err(fault) => Err(fault),
    };
    partial.is_gone = done.is_ok();
    done
}

async fn write_part(server: &Lease, path: &str, offset: u64, content: &[Bytes]) -> Result<(), Fault> {
    let folder = folder_of(path);
    let is_first = offset == 0;
    let flags = OpenFlags::WRITE | if is_first { OpenFlags::CREATE } else { OpenFlags::empty() };
    let open = async || {
        let attributes = FileAttributes { permissions: Some(FILE_MODE), ..FileAttributes::empty() };
        Ok(server.sftp.open(path, flags, attributes).await?.handle)
    };
    let handle = match open().await {
        Err(Fault::Missing(_)) if is_first => {
            make_folders(server, folder).await?;
            open().await?
        }
        opened => opened?,
    };
    let written = write_content(server, &handle, offset, content).await;
    match closed(server, handle, written).await {
        Err(Fault::Transient(fault)) if is_full(server, folder, content).await => Err(Fault::Full(fault)),
        done => done,
    }
}

/// Makes a file durable if the server supports it.
async fn synced(server: &Connection, path: &str) -> Result<(), Fault> {
    if !server.can(FSYNC) {
        return Ok(());
    }
    let handle = server.sftp.open(path, OpenFlags::WRITE, FileAttributes::empty()).await?.handle;
    let done = server.sftp.fsync(&handle).await.map(drop).map_err(Fault::from);
    closed(server, handle, done).await
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

/// A partial file. It is removed if the write fails or is cancelled.
struct Partial {
    connection: Arc<Connection>,
    path: String,
    is_gone: bool,
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_gone {
            let (connection, path) = (Arc::clone(&self.connection), std::mem::take(&mut self.path));
            // A partial file that cannot be removed only occupies space.
            runtime.spawn(async move { timeout(REMOVAL_TIMEOUT, connection.sftp.remove(path)).await });
        }
    }
}

async fn write_durably(server: &Connection, path: &str, content: &[Bytes]) -> Result<(), Fault> {
    let attributes = FileAttributes { permissions: Some(FILE_MODE), ..FileAttributes::empty() };
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    let handle = server.sftp.open(path, flags, attributes).await?.handle;
    let written = match write_content(server, &handle, 0, content).await {
        Ok(()) if server.can(FSYNC) => server.sftp.fsync(&handle).await.map(drop).map_err(Fault::from),
        written => written,
    };
    closed(server, handle, written).await
}

async fn write_content(server: &Connection, handle: &str, offset: u64, content: &[Bytes]) -> Result<(), Fault> {
    let mut chunks = Vec::new();
    let mut at = offset;
    for part in content {
        for start in (0..part.len()).step_by(CHUNK) {
            let chunk = part.slice(start..part.len().min(start + CHUNK));
            let offset = at;
            at += chunk.len() as u64;
            chunks.push((offset, chunk));
        }
    }
    let writes = chunks.into_iter().map(|(offset, chunk)| write_chunk(server, handle, offset, chunk));
    let mut writes = stream::iter(writes).buffer_unordered(PARALLEL_REQUESTS);
    while let Some(()) = writes.try_next().await? {}
    Ok(())
}

async fn write_chunk(server: &Connection, handle: &str, offset: u64, chunk: Bytes) -> Result<(), Fault> {
    Ok(server.sftp.write(handle, offset, chunk.to_vec()).await.map(drop)?)
}

/// Renames a complete partial file to its final name. After success the partial file does not exist any more.
async fn give_name(server: &Connection, partial: &str, path: &str, mode: Write) -> Result<(), Fault> {
    let named = match mode {
        Write::Replace if server.can(connect::POSIX_RENAME) => posix_rename(server, partial, path).await,
        // A hard link fails atomically if the file exists. So does a rename in this version of the protocol.
        Write::CreateNew if server.can(HARDLINK) => server.sftp.hardlink(partial, path).await.map(drop),
        _ => server.sftp.rename(partial, path).await.map(drop),
    };
    let failed = match named {
        Ok(()) if mode == Write::CreateNew && server.can(HARDLINK) => {
            // The file has its final name. A partial file that cannot be removed only occupies space.
            let _ = server.sftp.remove(partial).await;
            return Ok(());
        }
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    // The protocol reports an existing file only as a general "failure".
    match (server.sftp.stat(path).await, mode) {
        (Ok(_), Write::CreateNew) => Err(Fault::Taken),
        (Ok(_), Write::Replace) if !server.can(connect::POSIX_RENAME) => {
            // The name is the hash of the content, so the removed file has the same content or is incomplete.
            server.sftp.remove(path).await?;
            Ok(server.sftp.rename(partial, path).await.map(drop)?)
        }
        // A file system without hard links. The caller has checked just before that the file does not exist.
        (Err(Error::Status(status)), Write::CreateNew) if status.status_code == StatusCode::NoSuchFile => {
            Ok(server.sftp.rename(partial, path).await.map(drop)?)
        }
        _ => Err(failed.into()),
    }
}

/// A rename that replaces an existing file: OpenSSH's `PROTOCOL`, section 4.3.
async fn posix_rename(server: &Connection, from: &str, to: &str) -> Result<(), Error> {
    let mut request = Vec::with_capacity(from.len() + to.len() + 8);
    for path in [from, to] {
        request.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes());
        request.extend_from_slice(path.as_bytes());
    }
    match server.sftp.extended(connect::POSIX_RENAME, request).await? {
        Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
        Packet::Status(status) => Err(Error::Status(status)),
        _ => Err(Error::UnexpectedPacket),
    }
}

/// Creates a folder and its parents.
async fn make_folders(server: &Connection, path: &str) -> Result<(), Fault> {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    let mut made = Ok(());
    for end in ends {
        let attributes = FileAttributes { permissions: Some(FOLDER_MODE), ..FileAttributes::empty() };
        made = server.sftp.mkdir(&path[..end], attributes).await.map(drop);
    }
    match made {
        Ok(()) => Ok(()),
        // Another writer may have created the folder meanwhile.
        Err(error) => match server.sftp.stat(path).await {
            Ok(found) if found.attrs.is_dir() => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// Whether a write may have failed because the file system is full, which the protocol reports only as a general
/// "failure".
async fn is_full(server: &Connection, folder: &str, content: &[Bytes]) -> bool {
    if !server.can(STATVFS) {
        return false;
    }
    let wanted: u64 = content.iter().map(|part| part.len() as u64).sum();
    let found = server.sftp.statvfs(folder).await;
    found.is_ok_and(|found| {
        found.blocks_avail.saturating_mul(found.fragment_size) < wanted || found.inodes > 0 && found.inodes_avail == 0
    })
}

//! The upload of a long file, part by part with little memory. The file becomes visible only when it is complete.
//!
//! If the store has multipart uploads, one of them is used. Otherwise the parts are written to a partial file in the
//! same folder, which is made durable and then renamed. An upload that fails leaves no file with the final name.

use std::{fs::File, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256, digest::Output};
use tokio::sync::Mutex;

use super::{
    backend::Backend,
    client::Store,
    fault::Fault,
    file::{Kind, Write},
    partial::{partial_path, pieces_of},
};
use crate::{RepositoryError, StoreFault, format::Id, scratch};

/// The minimum length of a part. Services accept a shorter last part, but the library buffers a shorter part and loses
/// it when a request fails.
const MIN_PART_BYTES: usize = 5 << 20;
/// The maximum number of parts that services accept.
const MAX_PARTS: u64 = 10_000;
/// The length of a part, unless the file is too long for it.
const PART_BYTES: usize = 8 << 20;
/// The length of a part if the length of the file is unknown.
const PART_BYTES_OF_UNKNOWN: usize = 16 << 20;
/// The maximum length of a part. Two parts are in memory, and the other data of a run leaves no memory for more.
const MAX_PART_BYTES: usize = 24 << 20;

/// How many bytes of a stored file are read at once to compare it.
const READ_BACK: u64 = 4 << 20;

/// Returns the length of the parts of a file which has at most `at_most` bytes, if a maximum is known.
fn part_bytes(at_most: Option<u64>) -> usize {
    let Some(bytes) = at_most else { return PART_BYTES_OF_UNKNOWN };
    usize::try_from(bytes.div_ceil(MAX_PARTS - 1000)).unwrap_or(MAX_PART_BYTES).clamp(PART_BYTES, MAX_PART_BYTES)
}

/// An upload of a file, not finished yet.
pub(in super::super) struct Upload {
    store: Store,
    path: String,
    mode: Write,
    /// Whether a file with this name exists, which is replaced.
    replaces: bool,
    part_bytes: usize,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    sent: u64,
    hash: Sha256,
    target: Option<UploadTarget>,
}

/// A file whose upload is complete.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Uploaded {
    pub bytes: u64,
    pub sha256: Output<Sha256>,
}

/// The target of the parts. It exists after the first part was sent.
enum UploadTarget {
    /// A multipart upload of an object store.
    Parts(Mutex<opendal::Writer>),
    /// A partial file with this path.
    Partial(String),
}

impl Store {
    /// Begins the upload of a file. Nothing is sent yet.
    ///
    /// Errors: [`RepositoryError::Taken`] if the file exists, with [`Write::CreateNew`].
    pub async fn upload(&self, path: &str, mode: Write, at_most: Option<u64>) -> Result<Upload, RepositoryError> {
        let before = self.length(path).await.map_err(|fault| self.failed(fault, "look for", path))?;
        let replaces = before.is_some();
        if replaces && mode == Write::CreateNew {
            return Err(self.taken(path));
        }
        Ok(Upload {
            store: self.reached(),
            path: path.to_owned(),
            mode,
            replaces,
            part_bytes: part_bytes(at_most),
            waiting: Vec::new(),
            waiting_bytes: 0,
            sent: 0,
            hash: Sha256::default(),
            target: None,
        })
    }

    /// Writes a file of the repository from a local file. Its name is the hash of the content, so a replaced file has
    /// the same content.
    pub async fn write_file(&self, kind: Kind, id: &Id, content: &Arc<File>, size: u64) -> Result<(), RepositoryError> {
        let path = kind.path(id);
        if let Backend::Rest(server) = &self.backend {
            self.limited(self.limits.send(size)).await?;
            let path = &path;
            let written = self.retry(size, move || server.write_file(path, content, size)).await;
            return written.map_err(|fault| self.failed(fault, "write", path));
        }
        let mut upload = self.upload(&path, Write::Replace, Some(size)).await?;
        let mut pieces = pin!(pieces_of(content, size));
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(scratch::failed);
            let written = match piece {
                Ok(piece) => upload.write(piece).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                upload.abort().await;
                return Err(error);
            }
        }
        upload.finish().await.map(drop)
    }

    /// Returns the length of a file, or none if it is missing.
    async fn length(&self, path: &str) -> Result<Option<u64>, Fault> {
        let backend = &self.backend;
        match self.retry(0, move || backend.stat(path)).await {
            Ok(length) => Ok(Some(length)),
            Err(Fault::Missing(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn taken(&self, path: &str) -> RepositoryError {
        RepositoryError::Taken { location: self.location.clone(), file: path.to_owned() }
    }
}

impl Upload {
    /// Appends bytes to the file, and sends a part if there are enough bytes for one.
    pub async fn write(&mut self, content: Bytes) -> Result<(), RepositoryError> {
        self.hash.update(&content);
        self.waiting_bytes += content.len();
        self.waiting.push(content);
        while self.waiting_bytes >= self.part_bytes + MIN_PART_BYTES {
            let part = self.take(self.part_bytes);
            let sent = self.send(part).await;
            sent.map_err(|fault| self.failed(fault))?;
        }
        Ok(())
    }

    /// Sends the remaining bytes, gives the file its final name, and checks that the stored file has the right length.
    /// If the store did not acknowledge the last step, the whole file is read and compared, because it may be the file
    /// of another client.
    ///
    /// Errors: [`RepositoryError::OutcomeUnknown`] if the file may be stored nevertheless; [`RepositoryError::NotKept`]
    /// if the stored file differs. After any other error the file is not stored.
    pub async fn finish(mut self) -> Result<Uploaded, RepositoryError> {
        let bytes = self.sent + self.waiting_bytes as u64;
        let expected = Uploaded { bytes, sha256: self.hash.clone().finalize() };
        let finished = self.complete().await;
        // The outcome is determined even if the run was cancelled meanwhile.
        let store = if finished.is_ok() { self.store.uncancelled() } else { self.store.for_final_request() };
        let found = store.length(&self.path).await;
        let (location, file) = (self.store.location.clone(), self.path.clone());
        let unknown = |source| RepositoryError::OutcomeUnknown { location, file, source: Box::new(source) };
        match (finished, found) {
            (Ok(()), Ok(Some(found))) if found == bytes => Ok(expected),
            (Ok(()), Ok(found)) => {
                let (location, file) = (self.store.location.clone(), self.path.clone());
                Err(RepositoryError::NotKept { location, file, sent: bytes, found: found.unwrap_or_default() })
            }
            (Err(fault), Ok(Some(found))) if found == bytes && self.may_be_done(&fault) => {
                // A cancelled run does not wait until the whole file is read.
                if matches!(fault, Fault::Cancelled) {
                    return Err(unknown(self.failed(fault)));
                }
                match self.is_stored(&expected).await {
                    Ok(true) => {
                        self.abort().await;
                        Ok(expected)
                    }
                    Ok(false) => {
                        let error = self.failed(fault);
                        self.abort().await;
                        Err(error)
                    }
                    Err(fault) => Err(unknown(self.store.failed(fault, "read", &self.path))),
                }
            }
            (Ok(()) | Err(Fault::Transient(_) | Fault::Cancelled), Err(fault)) => {
                Err(unknown(self.store.failed(fault, "look for", &self.path)))
            }
            (Err(fault), _) => {
                let error = self.failed(fault);
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Whether the file may be complete despite this fault: if an acknowledgement was lost, the next attempt fails
    /// because of the effect of the one before.
    fn may_be_done(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Transient(_) | Fault::Missing(_) | Fault::Cancelled => true,
            // For a multipart upload the existing file was found before the parts were combined, so this upload did not
            // create it.
            Fault::Taken => !matches!(self.target, Some(UploadTarget::Parts(_))),
            Fault::Full(_) | Fault::Denied(_) | Fault::NoBucket(_) | Fault::Permanent(_) => false,
        }
    }

    /// Whether the stored file has the expected content.
    async fn is_stored(&self, expected: &Uploaded) -> Result<bool, Fault> {
        let (backend, path) = (&self.store.backend, self.path.as_str());
        let mut hash = Sha256::default();
        let mut at = 0;
        while at < expected.bytes {
            let length = (expected.bytes - at).min(READ_BACK);
            self.store.limited(self.store.limits.receive(length)).await.map_err(|_| Fault::Cancelled)?;
            let read = self.store.retry(length, move || backend.read_range(path, at, length)).await?;
            if read.len() as u64 != length {
                return Ok(false);
            }
            hash.update(&read);
            at += length;
        }
        Ok(hash.finalize() == expected.sha256)
    }

    /// Removes the parts that were sent. If that fails, they only occupy space; no file with the final name exists.
    pub async fn abort(self) {
        let Some(target) = self.target else { return };
        let is_cancelled = self.store.cancel.is_cancelled();
        let store = if is_cancelled { self.store.for_final_request() } else { self.store.uncancelled() };
        let backend = &store.backend;
        let aborted = match &target {
            UploadTarget::Parts(writer) => {
                store.retry(0, move || async move { Ok(writer.lock().await.abort().await?) }).await
            }
            UploadTarget::Partial(partial) => store.retry(0, move || backend.remove(partial)).await,
        };
        if let Err(fault) = aborted
            && !matches!(fault, Fault::Missing(_))
        {
            let error = store.failed(fault, "remove the unfinished", &self.path);
            tracing::warn!("{error}");
        }
    }

    /// Sends the remaining bytes, and gives the file its final name.
    async fn complete(&mut self) -> Result<(), Fault> {
        let rest = self.take(self.waiting_bytes);
        if self.target.is_none() {
            let (backend, path, mode) = (&self.store.backend, self.path.as_str(), self.mode);
            let (rest, size) = (&rest, length_of(&rest));
            self.limited(size).await?;
            return self.store.retry(size, move || backend.write(path, rest, mode)).await;
        }
        self.send(rest).await?;
        let (backend, path, mode) = (&self.store.backend, self.path.as_str(), self.mode);
        match &self.target {
            None => Ok(()),
            Some(UploadTarget::Parts(writer)) => {
                // Few services support "only if absent" for multipart uploads.
                if mode == Write::CreateNew && self.store.length(path).await?.is_some() {
                    return Err(Fault::Taken);
                }
                self.store.retry(0, move || async move { Ok(writer.lock().await.close().await.map(drop)?) }).await
            }
            Some(UploadTarget::Partial(partial)) => {
                self.store.retry(0, move || backend.give_name(partial, path, mode)).await
            }
        }
    }

    async fn send(&mut self, part: Vec<Bytes>) -> Result<(), Fault> {
        let size = length_of(&part);
        self.limited(size).await?;
        let (backend, offset) = (&self.store.backend, self.sent);
        let target = match &mut self.target {
            Some(target) => target,
            none => none.insert(match backend {
                Backend::Objects(bucket) => {
                    UploadTarget::Parts(Mutex::new(bucket.begin(&self.path, self.mode, self.replaces).await?))
                }
                Backend::Folder(_) | Backend::Sftp(_) => UploadTarget::Partial(partial_path(&self.path)),
                Backend::Rest(_) => {
                    let text = "a REST server stores only files of repositories".to_owned();
                    return Err(Fault::Permanent(StoreFault::Http(text)));
                }
            }),
        };
        let part = &part;
        match target {
            UploadTarget::Parts(writer) => {
                let (writer, part) = (&*writer, part);
                self.store
                    .retry(size, move || async move { Ok(writer.lock().await.write(part.clone()).await?) })
                    .await?;
            }
            UploadTarget::Partial(partial) => {
                let partial = partial.as_str();
                self.store.retry(size, move || backend.write_part(partial, offset, part)).await?;
            }
        }
        self.sent += size;
        Ok(())
    }

    /// Waits for the store's limits, or until the run is cancelled.
    async fn limited(&self, size: u64) -> Result<(), Fault> {
        self.store.limited(self.store.limits.send(size)).await.map_err(|_| Fault::Cancelled)
    }

    /// Takes the first `bytes` waiting bytes.
    fn take(&mut self, bytes: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut missing = bytes.min(self.waiting_bytes);
        self.waiting_bytes -= missing;
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        for mut content in waiting.by_ref() {
            if content.len() > missing {
                taken.push(content.split_to(missing));
                self.waiting.push(content);
                break;
            }
            missing -= content.len();
            taken.push(content);
        }
        self.waiting.extend(waiting);
        taken.retain(|content| !content.is_empty());
        taken
    }

    fn failed(&self, fault: Fault) -> RepositoryError {
        match fault {
            Fault::Taken => self.store.taken(&self.path),
            fault => self.store.failed(fault, "write", &self.path),
        }
    }
}

fn length_of(part: &[Bytes]) -> u64 {
    part.iter().map(|content| content.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_have_longer_parts_and_no_more_than_services_accept() {
        assert_eq!(part_bytes(Some(0)), PART_BYTES);
        assert_eq!(part_bytes(Some(80_000_000_000)), 8_888_889);
        assert_eq!(part_bytes(Some(u64::MAX)), MAX_PART_BYTES);
        assert_eq!(part_bytes(None), PART_BYTES_OF_UNKNOWN);
    }
}

//! One long file on its way to a store, part by part in little memory: nobody sees it before it is whole.
//!
//! It must not know what is in it. Where a store has uploads of several parts, it is one; else it is written beside its name,
//! made durable, and only then named. What fails leaves nothing under that name.

use std::{fs::File, io, os::unix::fs::FileExt, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use rustic_core::Id;
use sha2::{Digest, Sha256, digest::Output};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::{
    Kind, Store, Write,
    backend::{Backend, Fault},
};
use crate::repository::{RepositoryError, StoreFault, scratch};

/// The shortest part, but for the last one, that services take: no part is shorter here, not even the last, since the
/// library keeps a shorter one for itself and loses it when a request fails.
const SHORTEST_PART: usize = 5 << 20;
/// Services take so many parts.
const MOST_PARTS: u64 = 10_000;
/// How long a part is, unless the file is too long for that.
const PART: usize = 8 << 20;
/// How long it is where nobody knows how long the file is.
const PART_OF_UNKNOWN: usize = 16 << 20;
/// The longest part: two of them are in the memory of a run, whose other needs leave no room for more.
const LONGEST_PART: usize = 24 << 20;

/// How much is read at once of a file that may be there.
const READ_BACK: u64 = 4 << 20;

/// The length of the parts of a file that is not longer than that, as far as it is known.
fn part_bytes(at_most: Option<u64>) -> usize {
    let Some(bytes) = at_most else { return PART_OF_UNKNOWN };
    usize::try_from(bytes.div_ceil(MOST_PARTS - 1000)).unwrap_or(LONGEST_PART).clamp(PART, LONGEST_PART)
}

/// What was sent so far.
pub(in super::super) struct Upload {
    store: Store,
    path: String,
    mode: Write,
    /// There is a file that is to be replaced.
    replaces: bool,
    part_bytes: usize,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    sent: u64,
    hash: Sha256,
    way: Option<Way>,
}

/// A file that is there as it was sent.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Uploaded {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Output<Sha256>,
}

/// How parts are sent, once there was one.
enum Way {
    /// As parts of an upload that the service makes one object of.
    Parts(Mutex<opendal::Writer>),
    /// Into a file of that name.
    Partial(String),
}

impl Store {
    /// Begins a file; nothing is sent yet. With [`Write::CreateNew`], there must be none of that name:
    /// [`RepositoryError::Taken`].
    pub async fn upload(&self, path: &str, mode: Write, at_most: Option<u64>) -> Result<Upload, RepositoryError> {
        let before = self.look(path).await.map_err(|fault| self.failed(fault, "look for", path))?;
        let replaces = before.is_some();
        if replaces && mode == Write::CreateNew {
            return Err(self.taken(path));
        }
        Ok(Upload {
            store: self.under_way(),
            path: path.to_owned(),
            mode,
            replaces,
            part_bytes: part_bytes(at_most),
            waiting: Vec::new(),
            waiting_bytes: 0,
            sent: 0,
            hash: Sha256::default(),
            way: None,
        })
    }

    /// Writes a file of the repository whose content is in a local file. Its name is the hash of the content, so what is
    /// replaced is the same.
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

    /// The length of a file, if it is there.
    async fn look(&self, path: &str) -> Result<Option<u64>, Fault> {
        let backend = &self.backend;
        match self.retry(0, move || backend.stat(path)).await {
            Ok(length) => Ok(Some(length)),
            Err(Fault::Missing(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn taken(&self, path: &str) -> RepositoryError {
        RepositoryError::Taken { place: self.place.clone(), file: path.to_owned() }
    }
}

impl Upload {
    /// Takes the next bytes, and sends a part when there are enough of them.
    pub async fn write(&mut self, content: Bytes) -> Result<(), RepositoryError> {
        self.hash.update(&content);
        self.waiting_bytes += content.len();
        self.waiting.push(content);
        while self.waiting_bytes >= self.part_bytes + SHORTEST_PART {
            let part = self.take(self.part_bytes);
            let sent = self.send(part).await;
            sent.map_err(|fault| self.failed(fault))?;
        }
        Ok(())
    }

    /// Sends the rest, gives the file its name, and looks whether it is there and as long as it was sent. Where nobody
    /// acknowledged that, all of what is there is read and compared: it may be somebody else's.
    ///
    /// Errors: [`RepositoryError::OutcomeUnknown`] when it may be there all the same; [`RepositoryError::NotKept`] when
    /// something else is there; otherwise it is not.
    pub async fn finish(mut self) -> Result<Uploaded, RepositoryError> {
        let bytes = self.sent + self.waiting_bytes as u64;
        let ours = Uploaded { bytes, sha256: self.hash.clone().finalize() };
        let finished = self.complete().await;
        // What was done is to be known even if the run was cancelled meanwhile.
        let looking = if finished.is_ok() { self.store.for_a_last_write() } else { self.store.for_a_last_look() };
        let found = looking.look(&self.path).await;
        let (place, file) = (self.store.place.clone(), self.path.clone());
        let unknown = |source| RepositoryError::OutcomeUnknown { place, file, source: Box::new(source) };
        match (finished, found) {
            (Ok(()), Ok(Some(found))) if found == bytes => Ok(ours),
            (Ok(()), Ok(found)) => {
                let (place, file) = (self.store.place.clone(), self.path.clone());
                Err(RepositoryError::NotKept { place, file, sent: bytes, found: found.unwrap_or_default() })
            }
            (Err(fault), Ok(Some(found))) if found == bytes && self.may_be_done(&fault) => {
                // Whoever cancelled does not wait until all is read.
                if matches!(fault, Fault::Cancelled) {
                    return Err(unknown(self.failed(fault)));
                }
                match self.is_there(&ours).await {
                    Ok(true) => {
                        self.abort().await;
                        Ok(ours)
                    }
                    Ok(false) => {
                        let error = self.failed(fault);
                        self.abort().await;
                        Err(error)
                    }
                    Err(fault) => Err(unknown(self.store.failed(fault, "read", &self.path))),
                }
            }
            (Ok(()) | Err(Fault::Passing(_) | Fault::Cancelled), Err(fault)) => {
                Err(unknown(self.store.failed(fault, "look for", &self.path)))
            }
            (Err(fault), _) => {
                let error = self.failed(fault);
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Whether the file may have its name in spite of that: only the acknowledgement was lost, and the next try found what
    /// the one before it has done.
    fn may_be_done(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Passing(_) | Fault::Missing(_) | Fault::Cancelled => true,
            // Found before the parts were put together, so not by this one.
            Fault::Taken => !matches!(self.way, Some(Way::Parts(_))),
            Fault::Full(_) | Fault::Denied(_) | Fault::Final(_) => false,
        }
    }

    /// Whether the file of that name has that content.
    async fn is_there(&self, ours: &Uploaded) -> Result<bool, Fault> {
        let (backend, path) = (&self.store.backend, self.path.as_str());
        let mut hash = Sha256::default();
        let mut at = 0;
        while at < ours.bytes {
            let length = (ours.bytes - at).min(READ_BACK);
            self.store.limited(self.store.limits.receive(length)).await.map_err(|_| Fault::Cancelled)?;
            let read = self.store.retry(length, move || backend.read_range(path, at, length)).await?;
            if read.len() as u64 != length {
                return Ok(false);
            }
            hash.update(&read);
            at += length;
        }
        Ok(hash.finalize() == ours.sha256)
    }

    /// Takes back what was sent. If even that fails, it only takes room, under no name of a file.
    pub async fn abort(self) {
        let Some(way) = self.way else { return };
        let is_cancelled = self.store.cancel.is_cancelled();
        let store = if is_cancelled { self.store.for_a_last_look() } else { self.store.for_a_last_write() };
        let backend = &store.backend;
        let aborted = match &way {
            Way::Parts(writer) => store.retry(0, move || async move { Ok(writer.lock().await.abort().await?) }).await,
            Way::Partial(partial) => store.retry(0, move || backend.remove(partial)).await,
        };
        if let Err(fault) = aborted
            && !matches!(fault, Fault::Missing(_))
        {
            let error = store.failed(fault, "take back the unfinished", &self.path);
            tracing::warn!("{error}");
        }
    }

    /// All that is left, and then the name.
    async fn complete(&mut self) -> Result<(), Fault> {
        let rest = self.take(self.waiting_bytes);
        if self.way.is_none() {
            let (backend, path, mode) = (&self.store.backend, self.path.as_str(), self.mode);
            let (rest, size) = (&rest, length_of(&rest));
            self.limited(size).await?;
            return self.store.retry(size, move || backend.write(path, rest, mode)).await;
        }
        self.send(rest).await?;
        let (backend, path, mode) = (&self.store.backend, self.path.as_str(), self.mode);
        match &self.way {
            None => Ok(()),
            Some(Way::Parts(writer)) => {
                // Few services know "only if absent" for objects of several parts.
                if mode == Write::CreateNew && self.store.look(path).await?.is_some() {
                    return Err(Fault::Taken);
                }
                self.store.retry(0, move || async move { Ok(writer.lock().await.close().await.map(drop)?) }).await
            }
            Some(Way::Partial(partial)) => self.store.retry(0, move || backend.give_name(partial, path, mode)).await,
        }
    }

    async fn send(&mut self, part: Vec<Bytes>) -> Result<(), Fault> {
        let size = length_of(&part);
        self.limited(size).await?;
        let (backend, offset) = (&self.store.backend, self.sent);
        let way = match &mut self.way {
            Some(way) => way,
            none => none.insert(match backend {
                Backend::Objects(bucket) => {
                    Way::Parts(Mutex::new(bucket.begin(&self.path, self.mode, self.replaces).await?))
                }
                Backend::Folder(_) | Backend::Sftp(_) => Way::Partial(partial_of(&self.path)),
                Backend::Rest(_) => {
                    let text = "such a server takes only files of repositories".to_owned();
                    return Err(Fault::Final(StoreFault::Http(text)));
                }
            }),
        };
        let part = &part;
        match way {
            Way::Parts(writer) => {
                let (writer, part) = (&*writer, part);
                self.store
                    .retry(size, move || async move { Ok(writer.lock().await.write(part.clone()).await?) })
                    .await?;
            }
            Way::Partial(partial) => {
                let partial = partial.as_str();
                self.store.retry(size, move || backend.write_part(partial, offset, part)).await?;
            }
        }
        self.sent += size;
        Ok(())
    }

    /// Waits for the store's limits, but not longer than the run.
    async fn limited(&self, size: u64) -> Result<(), Fault> {
        self.store.limited(self.store.limits.send(size)).await.map_err(|_| Fault::Cancelled)
    }

    /// The first so many bytes of what waits.
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

/// The content of a local file, piece by piece.
pub(super) fn pieces_of(content: &Arc<File>, size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let content = Arc::clone(content);
    stream::try_unfold(0, move |at| {
        let content = Arc::clone(&content);
        async move {
            let length = usize::try_from((size - at).min(READ_BACK)).map_err(io::Error::other)?;
            if length == 0 {
                return Ok(None);
            }
            let read = spawn_blocking(move || {
                let mut piece = vec![0; length];
                content.read_exact_at(&mut piece, at).map(|()| Bytes::from(piece))
            });
            let piece = read.await.map_err(io::Error::other)??;
            Ok(Some((piece, at + length as u64)))
        }
    })
}

fn length_of(part: &[Bytes]) -> u64 {
    part.iter().map(|content| content.len() as u64).sum()
}

/// A name beside a file's own. In pods every process has the same number, so only chance keeps clear of what a killed one
/// left.
pub(super) fn partial_of(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let separator = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{separator}.{name}-{:016x}.part", rand::random::<u64>())
}

/// The name that such a file was to get, by its own, both without a folder; none if it is no such file.
pub(super) fn whole_of(partial: &str) -> Option<&str> {
    let (name, chance) = partial.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('-')?;
    let is_ours = chance.len() == 16 && chance.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_have_longer_parts_and_no_more_than_a_service_takes() {
        assert_eq!(part_bytes(Some(0)), PART);
        assert_eq!(part_bytes(Some(80_000_000_000)), 8_888_889);
        assert_eq!(part_bytes(Some(u64::MAX)), LONGEST_PART);
        assert_eq!(part_bytes(None), PART_OF_UNKNOWN);
    }

    #[test]
    fn partial_file_is_beside_the_whole_one() {
        for (path, beginning) in [("a.tar", ".a.tar-"), ("shop/data/a.tar", "shop/data/.a.tar-")] {
            let partial = partial_of(path);
            let rest = partial.strip_prefix(beginning).and_then(|rest| rest.strip_suffix(".part"));
            assert_eq!(rest.map(str::len), Some(16), "{partial}");
        }
    }

    #[test]
    fn partial_file_is_known_by_its_name_and_no_other_is() {
        for name in ["config", "ab12", "a-b.tar"] {
            assert_eq!(whole_of(&partial_of(name)), Some(name));
        }
        for other in [
            "ab12",
            "ab12-tmp-1234567890",
            ".ab12.part",
            ".ab12-0123456789abcde.part",
            ".ab12-0123456789abcdeg.part",
            ".ab12-0123456789ABCDEF.part",
            "ab12-0123456789abcdef.part",
            ".ab12-0123456789abcdef",
            ".nfs00000000012345",
        ] {
            assert_eq!(whole_of(other), None, "{other}");
        }
    }
}

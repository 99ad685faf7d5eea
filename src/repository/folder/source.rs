//! A folder as the engine's source. What goes wrong is counted here, since the engine goes on without a word.
//!
//! It must not know the store.

use std::{
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use jiff::Timestamp;
use rustic_core::{
    ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
    repofile::{Node, NodeType},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{
    extents::{Extents, Filled},
    ledger::Ledger,
    walk::Walk,
};
use crate::repository::{Progress, engine::FirstError, gate::Verdict, tree};

/// How many files are read at once: the engine would read one a core, with up to 8 MiB of each in memory.
const READERS: usize = 2;

/// The walk came to the folder's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked;

/// What the walk and the readers of its files share.
#[derive(Clone)]
pub(super) struct Shared {
    pub ledger: Arc<Ledger>,
    pub progress: Arc<Progress>,
    pub verdict: Verdict<Walked>,
    pub first_error: Arc<FirstError>,
    pub cancel: CancellationToken,
}

/// The folder; the engine asks for its entries once.
pub(super) struct FolderSource(Mutex<Option<Entries>>);

impl FolderSource {
    /// `names` are the parts of the folder's path in the snapshot, the last of which is the walk's own name for it.
    pub fn new(walk: Walk, names: &[&str], time: Timestamp, shared: Shared) -> Self {
        let mut path = PathBuf::new();
        let parents = names.iter().take(names.len().saturating_sub(1)).map(|name| {
            path.push(name);
            (path.clone(), Node::new_node(name.as_ref(), NodeType::Dir, tree::folder_metadata(time)))
        });
        let parents: Vec<_> = parents.inspect(|_| shared.ledger.handed_over(true)).collect();
        let readers = Arc::new(Semaphore::new(READERS));
        let place = names.iter().collect();
        Self(Mutex::new(Some(Entries {
            parents: parents.into_iter(),
            walk: Some(walk),
            place,
            readers,
            runtime: Handle::current(),
            shared,
        })))
    }
}

impl ReadSource for FolderSource {
    type Open = FoundFile;
    type Iter = std::iter::Flatten<std::option::IntoIter<Entries>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().flatten()
    }
}

/// The folders above the folder, and then its entries.
pub(super) struct Entries {
    parents: std::vec::IntoIter<(PathBuf, Node)>,
    walk: Option<Walk>,
    /// The folder's path in the snapshot.
    place: PathBuf,
    readers: Arc<Semaphore>,
    runtime: Handle,
    shared: Shared,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<FoundFile>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.shared.cancel.is_cancelled() || self.shared.first_error.happened().is_cancelled() {
            // Without a verdict: the gate lets nothing of it count.
            self.walk = None;
        }
        if let Some((path, node)) = self.parents.next() {
            return Some(Ok(ReadSourceEntry { path, node, open: None }));
        }
        let Some(found) = self.walk.as_mut()?.next() else {
            self.walk = None;
            self.shared.verdict.set(Walked);
            return None;
        };
        self.shared.ledger.handed_over(found.node.is_dir());
        let path = if found.path.as_os_str().is_empty() { self.place.clone() } else { self.place.join(&found.path) };
        let open = found.file.map(|file| FoundFile {
            file: Extents::new(file, found.node.meta.size),
            size: found.node.meta.size,
            path: found.path,
            readers: Arc::clone(&self.readers),
            runtime: self.runtime.clone(),
            shared: self.shared.clone(),
        });
        Some(Ok(ReadSourceEntry { path, node: found.node, open }))
    }
}

/// An open file whose turn to be read may come.
pub(super) struct FoundFile {
    file: Extents,
    size: u64,
    path: PathBuf,
    readers: Arc<Semaphore>,
    runtime: Handle,
    shared: Shared,
}

impl ReadSourceOpen for FoundFile {
    type Reader = FileReader;

    fn open(self) -> RusticResult<FileReader> {
        match self.runtime.block_on(Arc::clone(&self.readers).acquire_owned()) {
            Ok(place) => Ok(FileReader { left: self.size, found: self, place, failed: false }),
            Err(error) => {
                self.shared.ledger.dropped(&self.path, error.to_string());
                Err(RusticError::new(ErrorKind::Internal, error.to_string()))
            }
        }
    }
}

/// Reads as many bytes as the file had when it was opened: what was appended since comes with the next run.
pub(super) struct FileReader {
    found: FoundFile,
    left: u64,
    #[expect(dead_code, reason = "held as long as the file is read")]
    place: OwnedSemaphorePermit,
    failed: bool,
}

impl FileReader {
    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.found.shared.cancel.is_cancelled() || self.found.shared.first_error.happened().is_cancelled() {
            return Err(io::Error::other("the run has ended"));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return if buffer.is_empty() { Ok(0) } else { self.check_end() };
        }
        let size = self.found.size;
        let length = match self.found.file.read_at(&mut buffer[..most], size - self.left)? {
            Filled::Data(length) | Filled::Hole(length) => length,
        };
        if length == 0 {
            let text = format!("it shrank from {size} to {} bytes while it was read", size - self.left);
            return Err(io::Error::other(text));
        }
        self.left -= length as u64;
        self.found.shared.progress.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    /// A file system that says 0 bytes of a file with content must not make it an empty one.
    fn check_end(&mut self) -> io::Result<usize> {
        let file = self.found.file.file();
        let more = file.read_at(&mut [0], self.found.size)?;
        if more > 0 && file.metadata()?.size() <= self.found.size {
            let text = format!("it holds more than the {} bytes that its file system says", self.found.size);
            return Err(io::Error::other(text));
        }
        Ok(0)
    }
}

impl Read for FileReader {
    /// Fills the whole buffer unless the file ends: the engine shrinks its own for good at every shorter read.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.failed {
                        self.failed = true;
                        self.found.shared.ledger.dropped(&self.found.path, format!("failed to read: {error}"));
                    }
                    return Err(error);
                }
            }
        }
        Ok(filled)
    }
}

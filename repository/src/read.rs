//! Reading a snapshot: lists its entries, and reads a file as a stream. Every blob of the stream is verified.

use std::{mem, ops::ControlFlow, os::unix::ffi::OsStrExt, path::Path, pin::pin, sync::Arc};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking};

use super::{
    Repository, RepositoryError,
    folder::permissions,
    format::{BlobKind, DataId, Id, Node, NodeType, SnapshotFile, hex},
    index::{fetcher::Fetcher, known_blobs::KnownBlobs},
    snapshots::snapshot_files::read_one,
    store::Kind,
    trees::cached::Trees,
};
use stowaway_model::stream::{End, StreamItem, StreamSender, pieces};
use stowaway_model::{Proof, SnapshotIdentity, escape_name};

/// How many blobs are fetched ahead. A blob has at most 8 MiB.
const READ_AHEAD: usize = 3;
/// How many entries a call of `each` receives.
const LISTED_AT_ONCE: usize = 512;
/// The longest piece that is sent to the reader.
const PIECE_BYTES: usize = 64 * 1024;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    Directory,
    /// A symbolic link, a device, a pipe or a socket.
    Other,
}

/// An entry of a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Absolute path, in the form of [`escape_name`].
    pub path: String,
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    pub modified: Option<Timestamp>,
    /// Permissions, and the bits for setuid, setgid and sticky.
    pub mode: Option<u32>,
}

/// A stored file that is being read.
#[derive(Debug)]
pub struct StoredFile {
    /// Bytes in total.
    pub size: u64,
    /// The content, which ends with [`StreamItem::End`], or with [`StreamItem::Broken`] if a blob cannot be read or is not what
    /// was written. The proof is [`Proof::Sealed`], because every blob is compared with its hash.
    pub pieces: mpsc::Receiver<StreamItem>,
}

impl Repository {
    /// Calls `each` with all entries of a snapshot, in batches, until `each` breaks. A folder precedes its entries.
    /// `snapshot` is a whole id, see [`Repository::find`]. `each` may block.
    pub async fn list(
        &self,
        snapshot: &str,
        mut each: impl FnMut(Vec<Entry>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<(), RepositoryError> {
        let list = move |trees: &mut Trees<'_>, file: &SnapshotFile| {
            let mut entries = Vec::new();
            trees.walk(file.tree, |path, node| {
                entries.push(entry_of(path, &node));
                if entries.len() < LISTED_AT_ONCE {
                    return ControlFlow::Continue(());
                }
                each(mem::take(&mut entries))
            })?;
            if !entries.is_empty() {
                let _ = each(entries);
            }
            Ok(())
        };
        self.with_trees(snapshot, list).await.map(drop)
    }

    /// Runs a task that reads the trees of a snapshot, on a thread that may block. Also returns the repository's blobs.
    async fn with_trees<T: Send + 'static>(
        &self,
        snapshot: &str,
        task: impl FnOnce(&mut Trees<'_>, &SnapshotFile) -> Result<T, RepositoryError> + Send + 'static,
    ) -> Result<(Arc<KnownBlobs>, T), RepositoryError> {
        let id = self.snapshot_id(snapshot).await?;
        let file = read_one(&self.store, &self.cipher, id).await?;
        let known = Arc::new(KnownBlobs::read(&self.cipher, &self.store).await?);
        let (fetcher, runtime) = (self.fetcher(&known), Handle::current());
        let done = spawn_blocking(move || {
            let done = task(&mut Trees::new(&known, &fetcher, &runtime), &file)?;
            Ok((known, done))
        });
        done.await.map_err(|panic| self.store.internal(panic))?
    }

    fn fetcher(&self, known: &Arc<KnownBlobs>) -> Fetcher {
        Fetcher::new(&self.store, &self.cipher).with_copies(known)
    }

    /// Reads one file of a snapshot as a stream, with little memory. `snapshot` is a whole id. `path` is absolute, and
    /// is literal or in the form of [`escape_name`].
    pub async fn read_file(&self, snapshot: &str, path: &str) -> Result<StoredFile, RepositoryError> {
        let wanted = path.to_owned();
        let find = move |trees: &mut Trees<'_>, file: &SnapshotFile| {
            let found = trees.node_at(file.tree, &wanted)?.filter(|(node, _)| node.is_file());
            let Some((node, found)) = found else { return Ok(None) };
            let ids = node.content.unwrap_or_default();
            let mut size = 0;
            for id in &ids {
                size += u64::from(trees.part(BlobKind::Data, **id, &found)?.plain_length);
            }
            Ok(Some((file.clone(), found, node.meta.size, size, ids)))
        };
        let (known, found) = self.with_trees(snapshot, find).await?;
        let (file, found, recorded, size, ids) = found.ok_or_else(|| RepositoryError::FileNotFound {
            location: self.store.location().to_owned(),
            snapshot: snapshot.to_owned(),
            path: path.to_owned(),
        })?;
        // Other clients that store streams record a size of 0.
        if recorded != size && recorded != 0 {
            return Err(self.store.damaged(format!("{path} should have {recorded} bytes, but its blobs have {size}")));
        }
        let found = found.to_string_lossy();
        let only_file =
            matches!(file.paths.iter().collect::<Vec<_>>()[..], [only] if only.trim_start_matches('/') == found);
        let digest = file.tags.iter().find_map(|tag| tag.strip_prefix(SnapshotIdentity::DIGEST)?.strip_prefix('='));
        let digest = digest.filter(|_| only_file).map(str::to_owned);

        let (sender, receiver) = pieces();
        let output = FileStream { fetcher: self.fetcher(&known), known, digest, size };
        tokio::spawn(async move { output.send(ids, sender).await });
        Ok(StoredFile { size, pieces: receiver })
    }

    /// Parses a snapshot's id, and makes sure that the snapshot exists.
    pub(super) async fn snapshot_id(&self, snapshot: &str) -> Result<Id, RepositoryError> {
        let id = snapshot.parse::<Id>().map_err(|_| {
            RepositoryError::InvalidRequest(format!("{snapshot:?} is not a whole snapshot id of 64 hex digits"))
        })?;
        match self.store.stat(Kind::Snapshot, &id).await? {
            Some(_) => Ok(id),
            None => Err(RepositoryError::SnapshotNotFound {
                location: self.store.location().to_owned(),
                wanted: snapshot.to_owned(),
            }),
        }
    }
}

fn entry_of(path: &Path, node: &Node) -> Entry {
    let kind = match node.kind {
        NodeType::File => EntryKind::File,
        NodeType::Dir => EntryKind::Directory,
        _ => EntryKind::Other,
    };
    let path = format!("/{}", escape_name(path.as_os_str().as_bytes()));
    let mode = node.meta.mode.map(|mode| permissions(mode).as_raw_mode());
    Entry { path, kind, size: node.meta.size, modified: node.meta.mtime, mode }
}

struct FileStream {
    fetcher: Fetcher,
    known: Arc<KnownBlobs>,
    /// The expected SHA-256 of the whole file, if the snapshot records it.
    digest: Option<String>,
    size: u64,
}

impl FileStream {
    async fn send(self, ids: Vec<DataId>, sender: StreamSender) {
        // If the reader has closed the stream, no result is sent.
        let last = match self.send_parts(ids, &sender).await {
            Ok(true) => StreamItem::End(End { proof: Proof::Sealed, bytes: self.size }),
            Ok(false) => return,
            Err(error) => StreamItem::Broken(error.into()),
        };
        let _ = sender.send(last).await;
    }

    /// Sends the content. Returns false if the reader has closed the stream.
    async fn send_parts(&self, ids: Vec<DataId>, sender: &StreamSender) -> Result<bool, RepositoryError> {
        let mut hash = Sha256::default();
        let fetch = async |id: DataId| match self.known.find(BlobKind::Data, *id)? {
            Some(blob) => self.fetcher.fetch(blob.part).await,
            None => {
                let (id, lacking) = (id.to_hex(), self.known.lacking.as_cause());
                Err(self.fetcher.store.damaged(format!("the blob {} is in no index{lacking}", id.as_str())))
            }
        };
        let mut contents = pin!(stream::iter(ids).map(fetch).buffered(READ_AHEAD));
        while let Some(content) = contents.next().await {
            let mut content = content?;
            hash.update(&content);
            while !content.is_empty() {
                let piece = content.split_to(PIECE_BYTES.min(content.len()));
                if sender.send(StreamItem::Data(piece)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        match &self.digest {
            Some(digest) if *digest != hex(&hash.finalize()) => Err(self
                .fetcher
                .store
                .damaged("a file does not match its snapshot's digest, although all its blobs match their ids")),
            _ => Ok(true),
        }
    }
}

//! Files out of a snapshot: what is in it, and one file as a stream whose every part was checked.
//!
//! It must not know where the stream goes.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use rustic_core::{
    Id, LsOptions,
    repofile::{NodeType, SnapshotFile, SnapshotId},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    Repository, RepositoryError, engine,
    folder::permissions,
    part::{Fetcher, Part},
    source::hex,
    store::Kind,
};
use crate::{
    model::{Proof, SnapshotIdentity, escape_name, unescape_name},
    stream::{End, Piece, PieceSender, pieces},
};

/// Blobs that are fetched ahead; each is at most 8 MiB.
const READ_AHEAD: usize = 3;
/// The longest piece that is handed on.
const PIECE_BYTES: usize = 64 * 1024;

/// What a path in a snapshot is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A folder.
    Directory,
    /// A link, a device, a pipe or a socket.
    Other,
}

/// One path in a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Absolute path, in the form of [`escape_name`].
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Last change.
    pub modified: Option<Timestamp>,
    /// Permissions, and the bits for setuid, setgid and sticky.
    pub mode: Option<u32>,
}

/// A stored file on its way out.
#[derive(Debug)]
pub struct StoredFile {
    /// Bytes in total.
    pub size: u64,
    /// The content, ending with [`Piece::End`], or [`Piece::Broken`] when something cannot be read or is not what was
    /// written. [`Proof::Sealed`]: every part is what its hash says.
    pub pieces: mpsc::Receiver<Piece>,
}

impl Repository {
    /// All paths of a snapshot. `snapshot` is a whole id, see [`Repository::find`].
    pub async fn list(&self, snapshot: &str) -> Result<Vec<Entry>, RepositoryError> {
        let (master, id) = (self.master.clone(), self.snapshot_id(snapshot).await?);
        engine::run_indexed((&self.store, &self.cipher, self.version), move |engine| {
            let repository = engine.open(&master)?.to_indexed_ids()?;
            let snapshot: SnapshotFile = repository.get_file(&id)?;
            let root = repository.node_from_snapshot_and_path(&snapshot, "")?;
            repository
                .ls(&root, &LsOptions::default())?
                .map(|entry| {
                    let (path, node) = entry?;
                    let kind = match node.node_type {
                        NodeType::File => EntryKind::File,
                        NodeType::Dir => EntryKind::Directory,
                        _ => EntryKind::Other,
                    };
                    let path = path.as_os_str().as_bytes();
                    let path = format!("/{}", escape_name(path.strip_prefix(b"/").unwrap_or(path)));
                    let mode = node.meta.mode.map(|mode| permissions(mode).as_raw_mode());
                    Ok(Entry { path, kind, size: node.meta.size, modified: node.meta.mtime, mode })
                })
                .collect()
        })
        .await
    }

    /// One file of a snapshot, streamed with little memory. `snapshot` is a whole id, `path` absolute: as it is, or in the form
    /// of [`escape_name`].
    pub async fn read_file(&self, snapshot: &str, path: &str) -> Result<StoredFile, RepositoryError> {
        let (master, id, wanted) = (self.master.clone(), self.snapshot_id(snapshot).await?, path.to_owned());
        let task = move |engine: &engine::Engine| {
            let repository = engine.open(&master)?.to_indexed()?;
            let snapshot: SnapshotFile = repository.get_file(&id)?;
            let root = repository.node_from_snapshot_and_path(&snapshot, "")?;
            // Looked for by listing, since the engine's own search does not tell "not there" from "broken".
            let names = [wanted.clone().into_bytes(), unescape_name(&wanted)]
                .map(|path| OsString::from_vec(below_root(&path).to_vec()));
            let mut found = None;
            for entry in repository.ls(&root, &LsOptions::default())? {
                let (path, node) = entry?;
                if path.as_os_str() == names[0] {
                    found = Some((path, node));
                    break;
                }
                if path.as_os_str() == names[1] {
                    found = Some((path, node));
                }
            }
            let Some((path, node)) = found else { return Ok(None) };
            if !node.is_file() {
                return Ok(None);
            }
            let parts = node.content.unwrap_or_default().into_iter().map(|id| Part::find(&repository, &id));
            let parts = parts.collect::<rustic_core::RusticResult<Vec<Part>>>()?;
            Ok(Some((snapshot, path, node.meta.size, parts)))
        };
        let found = engine::run_indexed((&self.store, &self.cipher, self.version), task).await?;
        let (file, found, recorded, parts) = found.ok_or_else(|| RepositoryError::FileNotFound {
            place: self.store.place().to_owned(),
            snapshot: snapshot.to_owned(),
            path: path.to_owned(),
        })?;
        let size = parts.iter().map(|part| u64::from(part.plain_length)).sum();
        // Other writers that store streams leave 0.
        if recorded != size && recorded != 0 {
            return Err(self.store.damaged(format!("{path} should have {recorded} bytes and has parts of {size}")));
        }
        let found = found.to_string_lossy();
        let only_file =
            matches!(file.paths.iter().collect::<Vec<_>>()[..], [only] if only.trim_start_matches('/') == found);
        let digest = file.tags.iter().find_map(|tag| tag.strip_prefix(SnapshotIdentity::DIGEST)?.strip_prefix('='));
        let digest = digest.filter(|_| only_file).map(str::to_owned);

        let (sender, receiver) = pieces();
        let fetcher = Fetcher { store: self.store.clone(), cipher: self.cipher.clone() };
        let output = Output { fetcher, digest, size };
        tokio::spawn(async move { output.send(parts, sender).await });
        Ok(StoredFile { size, pieces: receiver })
    }

    /// The id of a snapshot that is there.
    pub(super) async fn snapshot_id(&self, snapshot: &str) -> Result<SnapshotId, RepositoryError> {
        let id = snapshot.parse::<Id>().map_err(|_| {
            RepositoryError::InvalidRequest(format!("{snapshot:?} is no whole snapshot id of 64 hex digits"))
        })?;
        match self.store.stat(Kind::Snapshot, &id).await? {
            Some(_) => Ok(id.into()),
            None => Err(RepositoryError::SnapshotNotFound {
                place: self.store.place().to_owned(),
                wanted: snapshot.to_owned(),
            }),
        }
    }
}

/// A path without the slash that it begins with.
fn below_root(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

struct Output {
    fetcher: Fetcher,
    /// What the whole file's SHA-256 must be, where the snapshot says that.
    digest: Option<String>,
    size: u64,
}

impl Output {
    async fn send(self, parts: Vec<Part>, sender: PieceSender) {
        // Whoever reads may have gone; then nobody is left to be told.
        let last = match self.send_parts(parts, &sender).await {
            Ok(true) => Piece::End(End { proof: Proof::Sealed, bytes: self.size }),
            Ok(false) => return,
            Err(error) => Piece::Broken(error.into()),
        };
        let _ = sender.send(last).await;
    }

    /// Whether somebody read it to its end.
    async fn send_parts(&self, parts: Vec<Part>, sender: &PieceSender) -> Result<bool, RepositoryError> {
        let mut hash = Sha256::default();
        let mut contents = stream::iter(parts).map(|part| self.fetcher.fetch(part)).buffered(READ_AHEAD);
        while let Some(content) = contents.next().await {
            let mut content = content?;
            hash.update(&content);
            while !content.is_empty() {
                let piece = content.split_to(PIECE_BYTES.min(content.len()));
                if sender.send(Piece::Data(piece)).await.is_err() {
                    return Ok(false);
                }
            }
        }
        match &self.digest {
            Some(digest) if *digest != hex(&hash.finalize()) => Err(self
                .fetcher
                .store
                .damaged("a file is not what its snapshot's digest says, although all its parts are")),
            _ => Ok(true),
        }
    }
}

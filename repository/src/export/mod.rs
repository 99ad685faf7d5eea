//! Stores a snapshot as an archive in another store. It is read, packed, compressed and uploaded at the same time, in
//! little memory. If any part of this fails, no archive appears at the target.

mod compress;

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use self::compress::Compressor;
use super::{
    Progress, Repository, RepositoryError, TarContent, folder,
    format::hex,
    store::{self, Store, Upload, Uploaded},
};
use stowaway_model::ArchiveFormat;

pub use super::store::StoreAccess;

/// The size of the pieces which the packing thread passes to the upload.
const PIECE_BYTES: usize = 1 << 20;
/// How many pieces may wait for the upload.
const PIECES: usize = 4;

/// The target and format of an archive.
#[derive(Clone, Debug)]
pub struct ArchiveTarget {
    pub store: StoreAccess,
    /// The name of the object or file in the store.
    pub name: String,
    pub format: ArchiveFormat,
    /// Replace an existing object of this name.
    pub overwrite: bool,
    /// The maximum size of the archive in bytes, if it is known. Very long archives are uploaded in longer parts.
    pub at_most: Option<u64>,
}

/// An archive which was uploaded completely.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Archived {
    /// The store without credentials, and the name.
    pub location: String,
    pub bytes: u64,
    /// Its SHA-256, 64 hex digits.
    pub sha256: String,
    pub content: TarContent,
}

impl Repository {
    /// Creates an archive of the folder or file at `path` of a snapshot. If `only` is not empty, the archive contains
    /// only these paths below the folder. Names in the archive are relative to the folder. `snapshot` is a full id, see
    /// [`Repository::find`].
    ///
    /// Errors: [`RepositoryError::Taken`] when the name exists already, before anything is written;
    /// [`RepositoryError::FileNotFound`] when a requested path is not in the snapshot; [`RepositoryError::Damaged`];
    /// [`RepositoryError::OutcomeUnknown`] when the archive may exist in spite of the error;
    /// [`RepositoryError::NotKept`] when the store holds something else under the name. After all other errors nothing
    /// is stored.
    pub async fn archive(
        &self,
        (snapshot, path): (&str, &str),
        only: &[String],
        to: &ArchiveTarget,
        progress: Arc<Progress>,
    ) -> Result<Archived, RepositoryError> {
        self.with_lock(|run| async move { archive(self, &run, (snapshot, path), only, to, progress).await }).await
    }
}

async fn archive(
    repository: &Repository,
    run: &Store,
    from: (&str, &str),
    only: &[String],
    to: &ArchiveTarget,
    progress: Arc<Progress>,
) -> Result<Archived, RepositoryError> {
    let target = Store::at(&to.store, run.cancel().child_token())?;
    let mode = if to.overwrite { store::Write::Replace } else { store::Write::CreateNew };
    let mut upload = target.upload(&to.name, mode, to.at_most).await?;
    let (sender, pieces) = mpsc::channel(PIECES);
    let unwritable = |source| RepositoryError::Unwritable { action: "begin", path: "the archive".to_owned(), source };
    let output = Compressor::new(to.format, Output { sender, piece: BytesMut::new() }).map_err(unwritable)?;
    let packing = folder::write_tar(repository, run, from, only, (output, finish), progress);
    let (packed, sent) = tokio::join!(packing, send(&mut upload, pieces));
    // A failed upload stops the packing with an error, too, so the error of the upload is the cause and comes first.
    let content = match sent.and(packed) {
        Ok(content) => content,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    let Uploaded { bytes, sha256 } = upload.finish().await?;
    let location = format!("{}/{}", target.location(), to.name);
    Ok(Archived { location, bytes, sha256: hex(&sha256), content })
}

/// Uploads all pieces. The end of the pieces does not prove that the archive is complete.
async fn send(upload: &mut Upload, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), RepositoryError> {
    while let Some(piece) = pieces.recv().await {
        upload.write(piece).await?;
    }
    Ok(())
}

fn finish(compressor: Compressor<Output>) -> io::Result<()> {
    compressor.finish()?.flush()
}

/// The output of the packing thread. It passes the bytes to the upload and may block.
struct Output {
    sender: mpsc::Sender<Bytes>,
    piece: BytesMut,
}

impl Write for Output {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let taken = content.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&content[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(piece).map_err(|_| io::Error::other("the archive cannot be sent any more"))
    }
}

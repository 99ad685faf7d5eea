//! A snapshot as an archive in another store: read, packed, compressed and sent at the same time, in little memory.
//!
//! All or nothing: whatever fails, nothing is at the archive's place. It must not know why an archive is wanted.

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
    source::hex,
    store::{self, Store, Upload, Uploaded},
};
use crate::model::ArchiveFormat;

pub use super::store::StoreAccess;

/// How much is handed from the one who packs to the one who sends, at once.
const PIECE_BYTES: usize = 1 << 20;
/// How many such pieces wait between the two.
const PIECES: usize = 4;

/// Where an archive is made, and as what.
#[derive(Clone, Debug)]
pub struct ArchivePlace {
    /// The store.
    pub store: StoreAccess,
    /// Name of the object or file in it.
    pub name: String,
    /// What it is.
    pub format: ArchiveFormat,
    /// Replace what is there under that name.
    pub overwrite: bool,
    /// How many bytes it has at most, as far as that is known: very long ones are sent in longer parts.
    pub at_most: Option<u64>,
}

/// An archive that is at its place, as long as it was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Archived {
    /// The place without credentials, and the name.
    pub location: String,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Its SHA-256, 64 hex digits.
    pub sha256: String,
    /// What is in it.
    pub content: TarContent,
}

impl Repository {
    /// Makes an archive of what is at `path` of a snapshot: of a folder with all that is in it, or only those paths below
    /// it, or of one file. Names in it are relative to that folder. `snapshot` is a whole id, see [`Repository::find`].
    ///
    /// Errors: [`RepositoryError::Taken`] when something is there already, before anything is written;
    /// [`RepositoryError::FileNotFound`] when something of it is not in the snapshot; [`RepositoryError::Damaged`];
    /// [`RepositoryError::OutcomeUnknown`] when the archive may be there all the same; [`RepositoryError::NotKept`] when
    /// something else is there instead; in all other cases nothing is.
    pub async fn archive(
        &self,
        (snapshot, path): (&str, &str),
        only: &[String],
        to: &ArchivePlace,
        progress: Arc<Progress>,
    ) -> Result<Archived, RepositoryError> {
        self.while_locked(|run| async move { archive(self, &run, (snapshot, path), only, to, progress).await }).await
    }
}

async fn archive(
    repository: &Repository,
    run: &Store,
    place: (&str, &str),
    only: &[String],
    to: &ArchivePlace,
    progress: Arc<Progress>,
) -> Result<Archived, RepositoryError> {
    let target = Store::at(&to.store, run.cancel().child_token())?;
    let mode = if to.overwrite { store::Write::Replace } else { store::Write::CreateNew };
    let mut upload = target.upload(&to.name, mode, to.at_most).await?;
    let (sender, pieces) = mpsc::channel(PIECES);
    let unwritable = |source| RepositoryError::Unwritable { action: "begin", path: "the archive".to_owned(), source };
    let output = Compressor::new(to.format, Output { sender, piece: BytesMut::new() }).map_err(unwritable)?;
    let packing = folder::write_tar(repository, run, place, only, (output, finish), progress);
    let (packed, sent) = tokio::join!(packing, send(&mut upload, pieces));
    // What cannot be sent cannot be packed any more, either: the first of the two is the cause.
    let content = match sent.and(packed) {
        Ok(content) => content,
        Err(error) => {
            upload.abort().await;
            return Err(error);
        }
    };
    let Uploaded { bytes, sha256 } = upload.finish().await?;
    let location = format!("{}/{}", target.place(), to.name);
    Ok(Archived { location, bytes, sha256: hex(&sha256), content })
}

/// Sends all pieces. That there are no more of them does not mean that they are whole.
async fn send(upload: &mut Upload, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), RepositoryError> {
    while let Some(piece) = pieces.recv().await {
        upload.write(piece).await?;
    }
    Ok(())
}

fn finish(compressor: Compressor<Output>) -> io::Result<()> {
    compressor.finish()?.flush()
}

/// Where the bytes of an archive go: to whoever sends them, from a thread that may block.
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

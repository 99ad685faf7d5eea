//! Reads a stream piece by piece and decides whether it is complete: it must have sent its end, with the right number
//! of bytes.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{Progress, RepositoryError, first_error::FirstError, format::hex};
use stowaway_model::stream::{End, StreamItem};
use stowaway_model::{Failure, Reason};

/// The result of a stream that ended successfully.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ended {
    pub end: End,
    /// SHA-256 over all bytes, 64 hex digits.
    pub digest: String,
    /// Whether all bytes are zero.
    pub is_blank: bool,
}

/// The next item of a stream.
#[derive(Debug)]
pub(super) enum Next {
    Data(Bytes),
    /// The successful end.
    End(Ended),
}

/// Reads the pieces of a stream. Its functions block.
pub(super) struct StreamReader {
    pub pieces: mpsc::Receiver<StreamItem>,
    pub runtime: Handle,
    pub cancel: CancellationToken,
    pub location: String,
    pub allow_empty: bool,
    pub progress: Arc<Progress>,
    pub first_error: Arc<FirstError>,
    pub hash: Sha256,
    pub bytes: u64,
    /// Whether all bytes so far are zero.
    pub is_blank: bool,
}

impl StreamReader {
    /// Returns the next bytes or the successful end. A call after the end fails with [`Reason::StreamCut`].
    pub fn next(&mut self) -> Result<Next, RepositoryError> {
        let cancelled = || RepositoryError::Cancelled { location: self.location.clone() };
        let piece = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(cancelled()),
                // Another task has failed, so waiting is useless: the stream may send nothing for hours.
                () = self.first_error.happened().cancelled() => Err(cancelled()),
                piece = self.pieces.recv() => Ok(piece),
            }
        })?;
        let failure = match piece {
            Some(StreamItem::Data(data)) => {
                self.hash.update(&data);
                self.bytes += data.len() as u64;
                self.is_blank = self.is_blank && data.iter().all(|byte| *byte == 0);
                self.progress.read.fetch_add(data.len() as u64, Ordering::Relaxed);
                return Ok(Next::Data(data));
            }
            Some(StreamItem::End(end)) => return self.finish(end).map(Next::End),
            Some(StreamItem::Broken(failure)) => failure,
            None => Failure::new(
                Reason::StreamCut,
                format!("the stream closed after {} bytes without its end; nothing was stored", self.bytes),
            ),
        };
        Err(RepositoryError::Stream(failure))
    }

    fn finish(&mut self, end: End) -> Result<Ended, RepositoryError> {
        let failure = if self.pieces.try_recv().is_ok() {
            Failure::new(Reason::StreamContradicted, "more data arrived after the stream's end; nothing was stored")
        } else if end.bytes != self.bytes {
            let text = format!("{} bytes were sent, but {} arrived; nothing was stored", end.bytes, self.bytes);
            Failure::new(Reason::StreamCut, text)
        } else if end.bytes == 0 && !self.allow_empty {
            let text = "the command succeeded and wrote nothing; nothing was stored (allow-empty lets that pass)";
            Failure::new(Reason::EmptyStream, text)
        } else {
            return Ok(Ended { end, digest: hex(&self.hash.clone().finalize()), is_blank: self.is_blank });
        };
        Err(RepositoryError::Stream(failure))
    }
}

//! The stream as the engine reads it, and the verdict on it, which the gate asks for.
//!
//! End of file is told to the engine only once the stream's own end was seen and its byte count agreed. It must not know
//! the store.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use bytes::{Buf, Bytes};
use rustic_core::{
    ReadSource, ReadSourceEntry, RusticResult,
    repofile::{Metadata, Node, NodeType},
};
use sha2::{Digest, Sha256};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{Progress, RepositoryError, engine::FirstError, gate::Verdict};
use crate::{
    model::{Failure, Reason},
    stream::{End, Piece},
};

/// How a stream ended that ended well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ended {
    pub end: End,
    /// SHA-256 over all bytes, 64 hex digits.
    pub digest: String,
}

/// Reads pieces for the engine, which asks for 4 KiB at a time: a piece is fetched once and then handed out of memory.
pub(super) struct StreamReader {
    pub pieces: mpsc::Receiver<Piece>,
    pub runtime: Handle,
    pub cancel: CancellationToken,
    pub place: String,
    pub allow_empty: bool,
    pub progress: Arc<Progress>,
    pub verdict: Verdict<Ended>,
    pub first_error: Arc<FirstError>,
    pub current: Bytes,
    pub hash: Sha256,
    pub bytes: u64,
}

impl StreamReader {
    /// The next bytes, or none at a good end.
    fn next(&mut self) -> Result<Option<Bytes>, RepositoryError> {
        if self.verdict.get().is_some() {
            return Ok(None);
        }
        let cancelled = || RepositoryError::Cancelled { place: self.place.clone() };
        let piece = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(cancelled()),
                // Somebody has failed already; there is no point in waiting for a stream that may be silent for hours.
                () = self.first_error.happened().cancelled() => Err(cancelled()),
                piece = self.pieces.recv() => Ok(piece),
            }
        })?;
        let failure = match piece {
            Some(Piece::Data(data)) => return Ok(Some(data)),
            Some(Piece::End(end)) => return self.finish(end).map(|()| None),
            Some(Piece::Broken(failure)) => failure,
            None => Failure::new(
                Reason::StreamCut,
                format!("the stream closed after {} bytes without having ended; nothing was stored", self.bytes),
            ),
        };
        Err(RepositoryError::Stream(failure))
    }

    fn finish(&mut self, end: End) -> Result<(), RepositoryError> {
        let failure = if self.pieces.try_recv().is_ok() {
            Failure::new(Reason::StreamContradicted, "more came after the stream's end; nothing was stored")
        } else if end.bytes != self.bytes {
            let text = format!("{} bytes were sent, and {} arrived; nothing was stored", end.bytes, self.bytes);
            Failure::new(Reason::StreamCut, text)
        } else if end.bytes == 0 && !self.allow_empty {
            let text = "the command succeeded and wrote nothing; nothing was stored (allow-empty lets that pass)";
            Failure::new(Reason::EmptyStream, text)
        } else {
            let digest = hex(&self.hash.clone().finalize());
            self.verdict.set(Ended { end, digest });
            return Ok(());
        };
        Err(RepositoryError::Stream(failure))
    }
}

impl StreamReader {
    /// Makes sure that bytes are at hand; false at the good end.
    fn fetch(&mut self) -> io::Result<bool> {
        while self.current.is_empty() {
            match self.next() {
                Ok(Some(data)) => {
                    self.hash.update(&data);
                    self.bytes += data.len() as u64;
                    self.progress.read.fetch_add(data.len() as u64, Ordering::Relaxed);
                    self.current = data;
                }
                Ok(None) => return Ok(false),
                Err(error) => {
                    let text = error.to_string();
                    self.first_error.set(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        Ok(true)
    }
}

impl io::Read for StreamReader {
    /// Fills the whole buffer unless the stream ends: the engine shrinks its own for good at every shorter read
    /// (`rustic_core` 0.13), in the end to single bytes.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.fetch()? {
            let length = (buffer.len() - filled).min(self.current.len());
            self.current.copy_to_slice(&mut buffer[filled..filled + length]);
            filled += length;
        }
        Ok(filled)
    }
}

/// One stream as the engine's source. The engine asks for its entries once.
pub(super) struct StreamSource {
    reader: Mutex<Option<StreamReader>>,
    /// The name of the one file of the engine's own tree, which is never stored; see [`super::archive`].
    pub name: String,
}

impl StreamSource {
    /// The name is like no other, so that the engine finds no such tree in the repository and hands its own over.
    pub fn new(reader: StreamReader) -> Self {
        Self { reader: Mutex::new(Some(reader)), name: format!("stream-{:032x}", rand::random::<u128>()) }
    }
}

impl ReadSource for StreamSource {
    type Open = StreamReader;
    type Iter = std::option::IntoIter<RusticResult<ReadSourceEntry<StreamReader>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        reader
            .map(|reader| {
                let node = Node::new_node(self.name.as_ref(), NodeType::File, Metadata::default());
                Ok(ReadSourceEntry { path: self.name.clone().into(), node, open: Some(reader) })
            })
            .into_iter()
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::{model::Proof, stream::pieces};

    #[tokio::test]
    async fn buffer_of_the_engine_is_filled_from_many_pieces() {
        let (sender, pieces) = pieces();
        let mut reader = StreamReader {
            pieces,
            runtime: Handle::current(),
            cancel: CancellationToken::new(),
            place: "here".to_owned(),
            allow_empty: false,
            progress: Arc::default(),
            verdict: Verdict::default(),
            first_error: Arc::default(),
            current: Bytes::new(),
            hash: Sha256::default(),
            bytes: 0,
        };
        let reading = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 10];
            let lengths = [(); 3].map(|()| reader.read(&mut buffer).unwrap());
            (lengths, reader.verdict.get())
        });
        for _ in 0..13 {
            sender.send(Piece::Data(Bytes::from_static(b"x"))).await.unwrap();
        }
        sender.send(Piece::End(End { proof: Proof::Acknowledged, bytes: 13 })).await.unwrap();
        let (lengths, ended) = reading.await.unwrap();
        assert_eq!((lengths, ended.unwrap().end.bytes), ([10, 3, 0], 13));
    }
}

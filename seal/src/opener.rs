//! The side that receives a stream: decompresses and digests it, and says at its end whether it is whole.
//!
//! It must not know where the bytes go. Its caller pulls them, so that a small frame that swells to a large piece of data
//! costs no more memory than the caller's buffer.

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{Trailer, WINDOW_LOG, Window};

/// Why a stream is not what was sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The compressed bytes make no sense.
    #[error("the stream cannot be decompressed after {bytes} bytes: {source}")]
    Compression {
        /// Bytes that could be.
        bytes: u64,
        /// Why no more.
        source: std::io::Error,
    },
    /// Data after the end of data.
    #[error("the stream went on after its end at {bytes} bytes")]
    WentOn {
        /// Bytes before its end.
        bytes: u64,
    },
    /// A trailer before the end of data.
    #[error("the stream's trailer came after {bytes} bytes, before its end")]
    TooEarly {
        /// Bytes that came.
        bytes: u64,
    },
    /// The trailer tells of another stream.
    #[error("the stream came with {bytes} bytes and its sender sealed {sealed}, or other ones")]
    Different {
        /// Bytes that came.
        bytes: u64,
        /// Bytes that the sender counted.
        sealed: u64,
    },
}

/// Takes the data of a stream; only [`Opener::verify`] says that it is whole.
pub struct Opener {
    decoder: Decoder<'static>,
    hasher: Sha256,
    window: Window,
    payload: Bytes,
    /// Length of the payload that is being consumed.
    taken: u64,
    /// The decompressor may have more without being given any.
    swollen: bool,
    ended: bool,
    bytes: u64,
    consumed: u64,
    told: u64,
}

impl Opener {
    /// For one stream.
    pub fn new(window: Window) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Compression { bytes: 0, source };
        let mut decoder = Decoder::new().map_err(failed)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(failed)?;
        Ok(Self {
            decoder,
            hasher: Sha256::new(),
            window,
            payload: Bytes::new(),
            taken: 0,
            swollen: false,
            ended: false,
            bytes: 0,
            consumed: 0,
            told: 0,
        })
    }

    /// Takes the data of the next frame; the last one's must have been pulled.
    pub fn take(&mut self, payload: Bytes) -> Result<(), OpenError> {
        if self.ended || !self.is_consumed() {
            return Err(OpenError::WentOn { bytes: self.bytes });
        }
        self.taken = payload.len() as u64;
        self.payload = payload;
        Ok(())
    }

    /// Writes the next bytes of the stream to `buffer`; 0 when the next frame is needed.
    pub fn pull(&mut self, buffer: &mut [u8]) -> Result<usize, OpenError> {
        let room = buffer.len();
        while (self.swollen || !self.payload.is_empty()) && !self.ended {
            let mut input = InBuffer::around(&self.payload);
            let mut output = OutBuffer::around(&mut *buffer);
            let hint = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(|source| OpenError::Compression { bytes: self.bytes, source })?;
            let (read, written) = (input.pos(), output.pos());
            self.payload.advance(read);
            self.swollen = written == room;
            self.ended = hint == 0;
            if written > 0 {
                self.hasher.update(&buffer[..written]);
                self.bytes = self.bytes.saturating_add(written as u64);
                return Ok(written);
            }
            if read == 0 && !self.payload.is_empty() && !self.ended {
                let source = std::io::ErrorKind::InvalidData.into();
                return Err(OpenError::Compression { bytes: self.bytes, source });
            }
        }
        if !self.payload.is_empty() {
            return Err(OpenError::WentOn { bytes: self.bytes });
        }
        self.consumed = self.consumed.saturating_add(self.taken);
        self.taken = 0;
        Ok(0)
    }

    /// What to acknowledge, when it is time to.
    pub fn due(&mut self) -> Option<u64> {
        if self.consumed - self.told < self.window.acknowledge_every {
            return None;
        }
        self.told = self.consumed;
        Some(self.consumed)
    }

    /// Whether the stream is what its sender sealed, all of it pulled.
    pub fn verify(&self, trailer: &Trailer) -> Result<(), OpenError> {
        if !self.ended || !self.is_consumed() {
            return Err(OpenError::TooEarly { bytes: self.bytes });
        }
        let digest: [u8; 32] = self.hasher.clone().finalize().into();
        if self.bytes != trailer.bytes || digest != trailer.digest {
            return Err(OpenError::Different { bytes: self.bytes, sealed: trailer.bytes });
        }
        Ok(())
    }

    /// Bytes of the stream so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All that was taken was pulled.
    fn is_consumed(&self) -> bool {
        self.payload.is_empty() && self.taken == 0
    }
}

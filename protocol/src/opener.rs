//! The receiving side of a stream: decompresses the data, computes its digest, and verifies at the end that the stream
//! is complete. The caller pulls the data, so that a small frame which decompresses to much data needs no more memory
//! than the caller's buffer.

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{Trailer, WINDOW_LOG, Window};

/// Why a received stream differs from the sent one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The compressed bytes are invalid.
    #[error("the stream cannot be decompressed after {bytes} bytes: {source}")]
    Compression {
        /// Bytes that were decompressed.
        bytes: u64,
        /// The cause.
        source: std::io::Error,
    },
    /// Data after the end of data.
    #[error("the stream continued after its end at {bytes} bytes")]
    Continued {
        /// Bytes before its end.
        bytes: u64,
    },
    /// A trailer before the end of data.
    #[error("the stream's trailer came after {bytes} bytes, before its end")]
    TooEarly {
        /// Bytes that were received.
        bytes: u64,
    },
    /// The trailer does not match the stream.
    #[error("the received stream has {bytes} bytes and the sender sealed {sealed}, or their content differs")]
    Different {
        /// Bytes that were received.
        bytes: u64,
        /// Bytes that the sender counted.
        sealed: u64,
    },
}

/// Receives the data of a stream. The stream is complete only if [`Opener::verify`] succeeds.
pub struct Opener {
    decoder: Decoder<'static>,
    hasher: Sha256,
    window: Window,
    payload: Bytes,
    /// Length of the payload that is being consumed; 0 if none is.
    taken: u64,
    /// The output buffer was full, so the decompressor may have more data without further input.
    more_output: bool,
    ended: bool,
    bytes: u64,
    consumed: u64,
    acknowledged: u64,
}

impl Opener {
    /// An opener for one stream.
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
            more_output: false,
            ended: false,
            bytes: 0,
            consumed: 0,
            acknowledged: 0,
        })
    }

    /// Takes the data of the next frame. The data of the previous one must have been pulled.
    pub fn take(&mut self, payload: Bytes) -> Result<(), OpenError> {
        if self.ended || !self.is_consumed() {
            return Err(OpenError::Continued { bytes: self.bytes });
        }
        self.taken = payload.len() as u64;
        self.payload = payload;
        Ok(())
    }

    /// Writes the next bytes of the stream to `buffer`. Returns 0 if the next frame is needed.
    pub fn pull(&mut self, buffer: &mut [u8]) -> Result<usize, OpenError> {
        let room = buffer.len();
        while (self.more_output || !self.payload.is_empty()) && !self.ended {
            let mut input = InBuffer::around(&self.payload);
            let mut output = OutBuffer::around(&mut *buffer);
            let hint = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(|source| OpenError::Compression { bytes: self.bytes, source })?;
            let (read, written) = (input.pos(), output.pos());
            self.payload.advance(read);
            self.more_output = written == room;
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
            return Err(OpenError::Continued { bytes: self.bytes });
        }
        self.consumed = self.consumed.saturating_add(self.taken);
        self.taken = 0;
        Ok(0)
    }

    /// The number of consumed bytes, if an acknowledgement is due.
    pub fn due(&mut self) -> Option<u64> {
        if self.consumed - self.acknowledged < self.window.acknowledge_every {
            return None;
        }
        self.acknowledged = self.consumed;
        Some(self.consumed)
    }

    /// Verifies that all of the stream was pulled, and that it is the one which the sender sealed.
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

    /// Bytes of the stream that were pulled so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all data that was taken was also pulled.
    fn is_consumed(&self) -> bool {
        self.payload.is_empty() && self.taken == 0
    }
}

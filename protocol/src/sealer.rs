//! The sending side of a stream: compresses the data, counts it, computes its digest, and tracks the window. The caller
//! has the clock, and decides when to flush.

use sha2::{Digest, Sha256};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use super::{Frame, FrameEncoder, MAX_PAYLOAD, Nonce, Outcome, Trailer, WINDOW_LOG, Window};

/// Level 1 gains most of what low levels can gain. Higher levels would cost CPU of the app's container.
const LEVEL: i32 = 1;

/// Why a stream cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The compression failed.
    #[error("failed to compress the stream: {0}")]
    Compression(#[from] std::io::Error),
    /// The receiving side acknowledged more than was sent, or less than before.
    #[error("the other side acknowledged {acknowledged} bytes of {sent} that were sent")]
    Acknowledged {
        /// The acknowledged bytes.
        acknowledged: u64,
        /// The sent bytes.
        sent: u64,
    },
}

/// Encodes a stream, and all other frames of its side.
pub struct Sealer {
    encoder: Encoder<'static>,
    hasher: Sha256,
    frames: FrameEncoder,
    payload: Vec<u8>,
    window: Window,
    bytes: u64,
    sent: u64,
    acknowledged: u64,
    /// Whether the compressor holds data that is in no frame yet.
    holding: bool,
}

impl Sealer {
    /// A sealer for the stream of the run with this nonce.
    pub fn new(nonce: &Nonce, window: Window) -> Result<Self, SealError> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Self {
            encoder,
            hasher: Sha256::new(),
            frames: FrameEncoder::new(nonce),
            payload: Vec::with_capacity(MAX_PAYLOAD),
            window,
            bytes: 0,
            sent: 0,
            acknowledged: 0,
            holding: false,
        })
    }

    /// Takes the next bytes of the stream, and appends the frames that became full to `wire`.
    pub fn push(&mut self, data: &[u8], wire: &mut Vec<u8>) -> Result<(), SealError> {
        self.hasher.update(data);
        // A usize fits in 64 bits on every platform that Rust has.
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.holding |= !data.is_empty();
        let mut input = InBuffer::around(data);
        while input.pos() < data.len() {
            let begun = self.payload.len();
            self.encoder.run(&mut input, &mut OutBuffer::around_pos(&mut self.payload, begun))?;
            if self.payload.len() == MAX_PAYLOAD {
                self.emit(wire);
            }
        }
        Ok(())
    }

    /// Appends all data that was pushed. Frequent flushes reduce the compression.
    pub fn flush(&mut self, wire: &mut Vec<u8>) -> Result<(), SealError> {
        self.drain(wire, Operation::flush)?;
        self.holding = false;
        Ok(())
    }

    /// Appends the rest of the stream and its trailer. No data may be pushed after that.
    pub fn finish(&mut self, outcome: Outcome, wire: &mut Vec<u8>) -> Result<(), SealError> {
        self.drain(wire, |encoder, output| encoder.finish(output, true))?;
        self.holding = false;
        let digest = self.hasher.finalize_reset().into();
        self.encode(&Frame::Trailer(Trailer { bytes: self.bytes, digest, outcome }), wire);
        Ok(())
    }

    /// Appends a frame that does not belong to the stream.
    pub fn encode(&mut self, frame: &Frame, wire: &mut Vec<u8>) {
        self.frames.encode(frame, wire);
    }

    /// Whether the window allows to push more data before the next acknowledgement.
    pub fn has_room(&self) -> bool {
        self.sent - self.acknowledged < self.window.bytes
    }

    /// Records an acknowledgement: the total of the bytes which the receiving side has consumed.
    pub fn acknowledged(&mut self, consumed: u64) -> Result<(), SealError> {
        if consumed > self.sent || consumed < self.acknowledged {
            return Err(SealError::Acknowledged { acknowledged: consumed, sent: self.sent });
        }
        self.acknowledged = consumed;
        Ok(())
    }

    /// Whether a flush would append data.
    pub fn is_holding(&self) -> bool {
        self.holding
    }

    /// Bytes of the stream before compression.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Repeats a step until the compressor is empty.
    fn drain(
        &mut self,
        wire: &mut Vec<u8>,
        step: impl Fn(&mut Encoder<'static>, &mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<usize>,
    ) -> Result<(), SealError> {
        loop {
            let begun = self.payload.len();
            let left = step(&mut self.encoder, &mut OutBuffer::around_pos(&mut self.payload, begun))?;
            if left == 0 || self.payload.len() == MAX_PAYLOAD {
                self.emit(wire);
            }
            if left == 0 {
                return Ok(());
            }
        }
    }

    fn emit(&mut self, wire: &mut Vec<u8>) {
        if self.payload.is_empty() {
            return;
        }
        self.frames.encode_data(&self.payload, wire);
        self.sent = self.sent.saturating_add(self.payload.len() as u64);
        self.payload.clear();
    }
}

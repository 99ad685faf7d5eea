//! Frames of the protocol. Each frame has a number and a checksum over the whole frame, so that lost, duplicated,
//! reordered or changed frames are detected. [`super::Sealer`] and [`super::Opener`] define what a stream of data
//! means.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Nonce;

/// The largest payload of a frame. A decoder refuses larger ones, whatever the header states.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Kind, length, number, checksum.
const HEADER: usize = 1 + 4 + 8 + 4;
const TRAILER: usize = 8 + 32 + OUTCOME;
const OUTCOME: usize = 2;

/// The end of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It exited with this status.
    Exited(u8),
    /// A signal killed it.
    Killed(u8),
    /// It exited with status 0, but has not read all of its input.
    InputLeft,
}

/// The end of a stream, with which the receiving side verifies what it received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trailer {
    /// Bytes before compression.
    pub bytes: u64,
    /// SHA-256 of these bytes.
    pub digest: [u8; 32],
    /// The end of the command that wrote the stream; `Exited(0)` for the input of a restore.
    pub outcome: Outcome,
}

/// Why a side aborts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The received bytes differ from the sent ones.
    Corrupt,
    /// Nothing was received for too long.
    Silence,
    /// The side was cancelled: by a signal, or by the end of its stdin.
    Cancelled,
    /// The command's stdout continued after its end.
    Continued,
    /// An error on the side itself.
    Internal,
    /// The command exited with 0, but a process that it left behind still holds its stdout open.
    HeldOpen,
}

/// A message of the protocol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Compressed bytes of the stream.
    Data(Bytes),
    /// Keeps the connection alive.
    Heartbeat,
    /// The end of the stream.
    Trailer(Trailer),
    /// The total number of bytes of [`Frame::Data`] that were consumed.
    Acknowledge(u64),
    /// All input is verified and written to the command.
    Got,
    /// The command may see the end of its input.
    Go,
    /// Output of a restore's command on stdout, for the log.
    Stdout(Bytes),
    /// The end of a restore's command. In an aborted dump, it precedes the fault if the command has ended.
    Ended(Outcome),
    /// The final frame, which confirms the trailer or the outcome.
    Done,
    /// The final frame of a side that aborts.
    Fault(Fault),
    /// Output of a command on stderr, for the log, if no other channel carries it.
    Stderr(Bytes),
}

/// Why bytes are not valid frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// An unknown kind, or a payload size that is invalid for the kind.
    #[error("a frame has an unknown kind or an invalid size")]
    Malformed,
    /// Not the expected number.
    #[error("a frame is missing, duplicated or out of order")]
    OutOfOrder,
    /// The checksum does not match.
    #[error("a frame was changed in transit")]
    Changed,
}

/// Encodes the frames of one direction of one run.
#[derive(Debug)]
pub struct FrameEncoder {
    seed: crc32fast::Hasher,
    number: u64,
}

impl FrameEncoder {
    /// An encoder for the run with this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self { seed: seed(nonce), number: 0 }
    }

    /// Appends the frame to `wire`.
    pub fn encode(&mut self, frame: &Frame, wire: &mut Vec<u8>) {
        let mut small = [0; TRAILER];
        let (kind, payload): (u8, &[u8]) = match frame {
            Frame::Data(data) => (1, data),
            Frame::Heartbeat => (2, &[]),
            Frame::Trailer(trailer) => {
                small[..8].copy_from_slice(&trailer.bytes.to_be_bytes());
                small[8..40].copy_from_slice(&trailer.digest);
                small[40..].copy_from_slice(&outcome_to_wire(trailer.outcome));
                (3, &small)
            }
            Frame::Acknowledge(consumed) => {
                small[..8].copy_from_slice(&consumed.to_be_bytes());
                (4, &small[..8])
            }
            Frame::Got => (5, &[]),
            Frame::Go => (6, &[]),
            Frame::Stdout(output) => (7, output),
            Frame::Ended(outcome) => {
                small[..OUTCOME].copy_from_slice(&outcome_to_wire(*outcome));
                (8, &small[..OUTCOME])
            }
            Frame::Done => (9, &[]),
            Frame::Fault(fault) => {
                small[0] = *fault as u8;
                (10, &small[..1])
            }
            Frame::Stderr(output) => (11, output),
        };
        // A long payload is split into several frames, and an empty one needs no frame.
        if let Frame::Data(long) | Frame::Stdout(long) | Frame::Stderr(long) = frame {
            long.chunks(MAX_PAYLOAD).for_each(|part| self.put(kind, part, wire));
        } else {
            self.put(kind, payload, wire);
        }
    }

    /// Appends one frame of data without a copy in between.
    pub(crate) fn encode_data(&mut self, payload: &[u8], wire: &mut Vec<u8>) {
        self.put(1, payload, wire);
    }

    fn put(&mut self, kind: u8, payload: &[u8], wire: &mut Vec<u8>) {
        let begin = wire.len();
        wire.reserve(HEADER + payload.len());
        wire.put_u8(kind);
        // A payload has at most 64 KiB.
        wire.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        wire.put_u64(self.number);
        let sum = check_sum(&self.seed, &wire[begin..], payload);
        wire.put_u32(sum);
        wire.extend_from_slice(payload);
        // 2^64 frames are never sent.
        self.number = self.number.wrapping_add(1);
    }
}

/// Decodes the frames of one direction of one run. After an error no further frame is returned.
#[derive(Debug)]
pub struct FrameDecoder {
    seed: crc32fast::Hasher,
    number: u64,
    held: BytesMut,
    broken: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder for the run with this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self { seed: seed(nonce), number: 0, held: BytesMut::new(), broken: None }
    }

    /// Adds received bytes, in chunks of any size. The buffer is bounded by one frame plus the bytes that are pushed
    /// between two calls of [`FrameDecoder::next_frame`].
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The next frame, if it was received completely.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let frame = self.take();
        if let Err(error) = frame {
            self.broken = Some(error);
            self.held = BytesMut::new();
        }
        frame
    }

    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.held.len() < HEADER {
            return Ok(None);
        }
        let mut header = &self.held[..HEADER];
        let (kind, length, number, sum) = (header.get_u8(), header.get_u32(), header.get_u64(), header.get_u32());
        let length = usize::try_from(length).map_err(|_| FrameError::Malformed)?;
        if !(sizes(kind).ok_or(FrameError::Malformed)?).contains(&length) {
            return Err(FrameError::Malformed);
        }
        if number != self.number {
            return Err(FrameError::OutOfOrder);
        }
        if self.held.len() < HEADER + length {
            return Ok(None);
        }
        let header = self.held.split_to(HEADER);
        let payload = self.held.split_to(length).freeze();
        if check_sum(&self.seed, &header[..HEADER - 4], &payload) != sum {
            return Err(FrameError::Changed);
        }
        self.number = self.number.wrapping_add(1);
        parse(kind, payload).map(Some).ok_or(FrameError::Malformed)
    }
}

/// The valid payload sizes of a kind.
fn sizes(kind: u8) -> Option<std::ops::RangeInclusive<usize>> {
    Some(match kind {
        1 | 7 | 11 => 1..=MAX_PAYLOAD,
        2 | 5 | 6 | 9 => 0..=0,
        3 => TRAILER..=TRAILER,
        4 => 8..=8,
        8 => OUTCOME..=OUTCOME,
        10 => 1..=1,
        _ => return None,
    })
}

/// Parses a payload whose size was checked.
fn parse(kind: u8, mut payload: Bytes) -> Option<Frame> {
    Some(match kind {
        1 => Frame::Data(payload),
        2 => Frame::Heartbeat,
        3 => {
            let bytes = payload.get_u64();
            let mut digest = [0; 32];
            payload.copy_to_slice(&mut digest);
            Frame::Trailer(Trailer { bytes, digest, outcome: outcome_from_wire(&payload)? })
        }
        4 => Frame::Acknowledge(payload.get_u64()),
        5 => Frame::Got,
        6 => Frame::Go,
        7 => Frame::Stdout(payload),
        8 => Frame::Ended(outcome_from_wire(&payload)?),
        9 => Frame::Done,
        10 => Frame::Fault(match payload[0] {
            0 => Fault::Corrupt,
            1 => Fault::Silence,
            2 => Fault::Cancelled,
            3 => Fault::Continued,
            4 => Fault::Internal,
            5 => Fault::HeldOpen,
            _ => return None,
        }),
        11 => Frame::Stderr(payload),
        _ => return None,
    })
}

fn outcome_to_wire(outcome: Outcome) -> [u8; OUTCOME] {
    match outcome {
        Outcome::Exited(status) => [0, status],
        Outcome::Killed(signal) => [1, signal],
        Outcome::InputLeft => [2, 0],
    }
}

fn outcome_from_wire(wire: &[u8]) -> Option<Outcome> {
    match *wire {
        [0, status] => Some(Outcome::Exited(status)),
        [1, signal] => Some(Outcome::Killed(signal)),
        [2, 0] => Some(Outcome::InputLeft),
        _ => None,
    }
}

/// The nonce is part of each checksum, so a frame of another run is refused.
fn seed(nonce: &Nonce) -> crc32fast::Hasher {
    let mut seed = crc32fast::Hasher::new();
    seed.update(nonce.as_str().as_bytes());
    seed
}

fn check_sum(seed: &crc32fast::Hasher, header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = seed.clone();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

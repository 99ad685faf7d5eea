//! Frames: each with its number and a check sum over all of it, so that none can be lost, doubled, moved or changed unseen.
//!
//! It must not know what a stream of data means; see [`super::Sealer`] and [`super::Opener`].

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Nonce;

/// What one frame carries at most; a decoder takes no more, whatever a header says.
pub const MAXIMUM_PAYLOAD: usize = 64 * 1024;
/// Kind, length, number, check sum.
const HEADER: usize = 1 + 4 + 8 + 4;
const TRAILER: usize = 8 + 32 + OUTCOME;
const OUTCOME: usize = 2;

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// With status 0, and a part of its input unread.
    InputLeft,
}

/// The end of a stream: what the receiving side must have by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trailer {
    /// Bytes before compression.
    pub bytes: u64,
    /// SHA-256 over them.
    pub digest: [u8; 32],
    /// How the command ended that wrote them; `Exited(0)` for the input of a restore.
    pub outcome: Outcome,
}

/// Why a side gave up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// What it received is not what was sent.
    Corrupt,
    /// It heard nothing for too long.
    Silence,
    /// It was asked to end: by a signal, or by the end of its stdin.
    Cancelled,
    /// The command's stdout went on after its end.
    WentOn,
    /// Something on its own side failed.
    Internal,
    /// The command exited 0, and a process that it left behind still held its stdout.
    HeldOpen,
}

/// One thing that is said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// Compressed bytes of the stream.
    Data(Bytes),
    /// Still here.
    Heartbeat,
    /// The stream's end.
    Trailer(Trailer),
    /// So many bytes of [`Frame::Data`] were consumed in all.
    Acknowledge(u64),
    /// All input is verified and handed to the command.
    Got,
    /// The command may see the end of its input.
    Go,
    /// What a restore's command says on stdout, for people.
    Said(Bytes),
    /// How a restore's command ended, or a dump's that was not to end.
    Ended(Outcome),
    /// The last word, which answers the trailer or the outcome.
    Done,
    /// The last word of a side that gives up.
    Fault(Fault),
    /// What a command says on stderr, for people, where no other channel carries it.
    Stderr(Bytes),
}

/// Why bytes are no frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// No such kind, or a payload of the wrong size for it.
    #[error("no frame of ours looks like this")]
    Malformed,
    /// Not the number that had to come.
    #[error("a frame is missing, doubled or in the wrong place")]
    OutOfOrder,
    /// The check sum does not fit.
    #[error("a frame was changed on its way")]
    Changed,
}

/// Makes frames of one direction of one run.
#[derive(Debug)]
pub struct FrameEncoder {
    seed: crc32fast::Hasher,
    number: u64,
}

impl FrameEncoder {
    /// For a run with this nonce.
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
            Frame::Said(said) => (7, said),
            Frame::Ended(outcome) => {
                small[..OUTCOME].copy_from_slice(&outcome_to_wire(*outcome));
                (8, &small[..OUTCOME])
            }
            Frame::Done => (9, &[]),
            Frame::Fault(fault) => {
                small[0] = *fault as u8;
                (10, &small[..1])
            }
            Frame::Stderr(said) => (11, said),
        };
        // More than one frame can carry becomes several, and nothing becomes none.
        if let Frame::Data(long) | Frame::Said(long) | Frame::Stderr(long) = frame {
            long.chunks(MAXIMUM_PAYLOAD).for_each(|part| self.put(kind, part, wire));
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

/// Takes frames of one direction of one run apart. After an error nothing more is to be believed.
#[derive(Debug)]
pub struct FrameDecoder {
    seed: crc32fast::Hasher,
    number: u64,
    held: BytesMut,
    broken: Option<FrameError>,
}

impl FrameDecoder {
    /// For a run with this nonce.
    pub fn new(nonce: &Nonce) -> Self {
        Self { seed: seed(nonce), number: 0, held: BytesMut::new(), broken: None }
    }

    /// Takes the next bytes, however they are cut. What it holds is bounded by what is pushed between two calls of
    /// [`FrameDecoder::next_frame`] and by one frame.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.held.extend_from_slice(bytes);
        }
    }

    /// The next whole frame, once it is there.
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

/// The sizes that a payload of this kind may have.
fn sizes(kind: u8) -> Option<std::ops::RangeInclusive<usize>> {
    Some(match kind {
        1 | 7 | 11 => 1..=MAXIMUM_PAYLOAD,
        2 | 5 | 6 | 9 => 0..=0,
        3 => TRAILER..=TRAILER,
        4 => 8..=8,
        8 => OUTCOME..=OUTCOME,
        10 => 1..=1,
        _ => return None,
    })
}

/// The size was checked.
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
        7 => Frame::Said(payload),
        8 => Frame::Ended(outcome_from_wire(&payload)?),
        9 => Frame::Done,
        10 => Frame::Fault(match payload[0] {
            0 => Fault::Corrupt,
            1 => Fault::Silence,
            2 => Fault::Cancelled,
            3 => Fault::WentOn,
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

/// The nonce is in each check sum, so that a frame of another run is none of this one.
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

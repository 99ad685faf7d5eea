//! The sealed protocol between Stowaway and its helper in a pod: what both sides must agree on, and nothing else.
//!
//! A crate of its own, since the helper is a small static program that must not carry the rest. Pure: bytes in, bytes out;
//! no I/O, no clock, no async. It must not know who carries the bytes, nor what a pod is.
//!
//! ```text
//! us                                   helper
//! stowaway 1 NONCE\n                ->
//!                                   <- NONCE ready 1\n           nothing ran before this; another version: speaks N
//! a dump:                           <- DATA ...                  zstd, at most a window ahead of ACKNOWLEDGE
//! ACKNOWLEDGE ...                   ->
//!                                   <- TRAILER                   raw bytes, SHA-256 over them, how the command ended
//! DONE                              ->                           only now it exits
//! a restore: DATA ..., TRAILER      ->
//!                                   <- ACKNOWLEDGE ..., GOT      all bytes are verified and in the command's pipe
//! GO                                ->                           only now the command sees the end of its input
//!                                   <- ENDED                     how it ended
//! DONE                              ->
//! ```
//!
//! In a restore the helper is two processes, and both let go of the command's input at GO: the death of one before is none of
//! the command's end of input, and no word of this protocol. The helper exits with status 125 then, or is gone by the signal.
//!
//! Both send HEARTBEAT when they have nothing else to say. End of file on the helper's stdin means cancel, always.
//!
//! Over a socket instead of stdin and stdout all is the same, but that the helper first says the token that it was given, and
//! puts the command's stderr into frames, too (STDERR): nobody need be left who reads its own. The end of the socket is the
//! cancel then.

mod frame;
mod hello;
mod nonce;
mod opener;
mod sealer;
mod sidecar;

pub use frame::{Fault, Frame, FrameDecoder, FrameEncoder, FrameError, MAXIMUM_PAYLOAD, Outcome, Trailer};
pub use hello::{Answer, LONGEST_LINE, VERSION, hello, parse_answer, parse_hello};
pub use nonce::Nonce;
pub use opener::{OpenError, Opener};
pub use sealer::{SealError, Sealer};
pub use sidecar::{BEAT, Event, LONGEST_SIDECAR_LINE, LONGEST_TASK, Reply, Request, Told, report_digest};

/// How far a stream may be ahead of its acknowledgements, in bytes on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// How many bytes may be unacknowledged.
    pub bytes: u64,
    /// After how many consumed bytes the receiving side acknowledges.
    pub acknowledge_every: u64,
}

impl Window {
    /// Of a dump: what waits, waits in the pipes and connections between the two.
    pub const DUMP: Self = Self { bytes: 8 * 1024 * 1024, acknowledge_every: 1024 * 1024 };
    /// Of a restore: the helper has to hold all of it, so that it goes on listening while its command reads nothing.
    pub const RESTORE: Self = Self { bytes: 2 * 1024 * 1024, acknowledge_every: 256 * 1024 };
}

/// How far back the compression looks: what the side that decompresses has to keep in memory.
const WINDOW_LOG: u32 = 20;

//! The sealed protocol between Stowaway and its helper in a pod: everything on which both sides must agree.
//!
//! It is a separate crate because the helper is a small static program, which must not contain the rest of Stowaway. It
//! is pure: bytes in, bytes out; no I/O, no clock, no async.
//!
//! ```text
//! Stowaway                             helper
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
//! A restore uses two helper processes, and both close the command's stdin only after GO. If one of them dies earlier,
//! the command sees no end of file, and the protocol sends no message: the helper exits with status 125, or by the
//! signal.
//!
//! Both sides send HEARTBEAT when they have no other message. End of file on the helper's stdin means cancel.
//!
//! Over a socket instead of stdin and stdout the protocol is the same, with three differences. First, the helper sends
//! its token before its first line. Second, the helper sends the command's stderr as STDERR frames, because its own
//! stderr may have no reader. Third, the end of the socket means cancel, and the end of stdin means nothing.

#![warn(missing_docs)]

mod frame;
mod hello;
mod nonce;
mod opener;
mod sealer;
mod sidecar;

pub use frame::{Fault, Frame, FrameDecoder, FrameEncoder, FrameError, MAX_PAYLOAD, Outcome, Trailer};
pub use hello::{Answer, MAX_LINE, VERSION, hello, parse_answer, parse_hello};
pub use nonce::Nonce;
pub use opener::{OpenError, Opener};
pub use sealer::{SealError, Sealer};
pub use sidecar::{Event, HEARTBEAT, MAX_SIDECAR_LINE, MAX_TASK, Reply, Request, WatchLine, report_digest};

/// The number of bytes of a stream on the wire that may be unacknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Maximum number of unacknowledged bytes.
    pub bytes: u64,
    /// Number of consumed bytes after which the receiving side acknowledges.
    pub acknowledge_every: u64,
}

impl Window {
    /// For a dump. Unacknowledged data is in the pipes and connections between both sides.
    pub const DUMP: Self = Self { bytes: 8 * 1024 * 1024, acknowledge_every: 1024 * 1024 };
    /// For a restore. The helper must be able to buffer all of it, so that it can receive frames while its command
    /// reads nothing.
    pub const RESTORE: Self = Self { bytes: 2 * 1024 * 1024, acknowledge_every: 256 * 1024 };
}

/// The window of the compression (log2 of its bytes), which determines the memory of the decompressing side.
const WINDOW_LOG: u32 = 20;

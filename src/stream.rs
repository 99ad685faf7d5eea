//! A stream of bytes that says how it ended. The end of a channel is no end of a stream: only [`Piece::End`] is.
//!
//! It must not know where bytes come from or go to.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::model::{Failure, Proof};

/// One piece of a dump on its way to the repository.
#[derive(Debug)]
pub enum Piece {
    /// Bytes, in order.
    Data(Bytes),
    /// All bytes were sent, and the command exited 0. Nothing follows.
    End(End),
    /// The stream failed; what was sent is worth nothing. Nothing follows.
    Broken(Failure),
}

/// What is known of a stream that ended well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// How its end was proven.
    pub proof: Proof,
    /// How many bytes the sender handed over; the receiver counts for itself and compares.
    pub bytes: u64,
}

/// The sending side of a stream; dropping it without [`Piece::End`] is a failure.
pub type PieceSender = mpsc::Sender<Piece>;

/// How many pieces wait between the two sides: with pieces of at most 64 KiB, 1 MiB.
pub const STREAM_PIECES: usize = 16;

/// A bounded channel for one stream: a slow store blocks the sender, nothing is staged.
pub fn pieces() -> (PieceSender, mpsc::Receiver<Piece>) {
    mpsc::channel(STREAM_PIECES)
}

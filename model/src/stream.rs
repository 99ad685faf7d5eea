//! A stream of bytes with an explicit end. The end of the channel does not end the stream: only [`StreamItem::End`]
//! proves that the stream is complete.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{Failure, Proof};

/// One message of a stream between a command, or a volume, and the repository.
#[derive(Debug)]
pub enum StreamItem {
    /// Bytes, in order.
    Data(Bytes),
    /// All bytes were sent, and the sender succeeded: its command exited with status 0. Nothing follows.
    End(End),
    /// The stream failed, and the bytes sent before must not be used. Nothing follows.
    Broken(Failure),
}

/// The facts about a stream which ended well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The proof of its end.
    pub proof: Proof,
    /// The number of bytes that the sender sent. The receiver counts the bytes itself and compares.
    pub bytes: u64,
}

/// The sending side of a stream. The receiver takes it for a failure when this side is dropped before
/// [`StreamItem::End`] was sent.
pub type StreamSender = mpsc::Sender<StreamItem>;

/// The capacity of the channel. With items of at most 64 KiB the channel holds at most 1 MiB.
pub const STREAM_ITEMS: usize = 16;

/// Creates the bounded channel of one stream. A slow receiver blocks the sender, so that no data is staged in memory or
/// on disk.
pub fn pieces() -> (StreamSender, mpsc::Receiver<StreamItem>) {
    mpsc::channel(STREAM_ITEMS)
}

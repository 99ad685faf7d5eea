//! The same streams from and into a process of this machine, under the same protocol and the same proof.
//!
//! It must not know what the command does. A machine without `sh` cannot run it.

use tokio::sync::mpsc;

use crate::{
    cluster::exec::{Control, Dumped, FeedEnd, Session, dump_over, feed_over, local_session},
    model::{Failure, Reason},
    seal::Way,
    stream::{Piece, PieceSender},
};

/// Runs `command` here by `way` and hands its stdout to `pieces`: data, and at last an end or a failure.
pub async fn dump(way: &Way, command: &[String], control: &Control, pieces: &PieceSender) -> Result<Dumped, Failure> {
    dump_over(start, way, command, control, pieces).await
}

/// Runs `command` here by `way` with `input`, which must be exactly `size` bytes, on its stdin.
pub async fn feed(
    way: &Way,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    feed_over(start, way, command, size, input, control).await
}

async fn start(line: &[String]) -> Result<Session, Failure> {
    local_session(line).map_err(|error| {
        let program = line.first().map_or("", String::as_str);
        Failure::new(Reason::UnsafeTarget, format!("failed to start {program}, which runs the command: {error}"))
    })
}

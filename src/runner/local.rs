//! The streams of dumps and restores for a process of this machine, with the same protocol and the same proof as in a
//! pod. The machine needs `sh`.

use tokio::sync::mpsc;

use crate::{
    exec::{Control, Dumped, FeedEnd, Session, dump_over, feed_over, local_session},
    model::{Failure, Reason},
    seal::ExecMode,
    stream::{StreamItem, StreamSender},
};

/// Runs `command` here by `mode` and sends its stdout to `pieces`: data, and at last an end or a failure.
pub async fn dump(
    mode: &ExecMode,
    command: &[String],
    control: &Control,
    pieces: &StreamSender,
) -> Result<Dumped, Failure> {
    dump_over(start, mode, command, control, pieces).await
}

/// Runs `command` here by `mode` with `input`, which must be exactly `size` bytes, on its stdin.
pub async fn feed(
    mode: &ExecMode,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<StreamItem>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    feed_over(start, mode, command, size, input, control).await
}

async fn start(line: &[String]) -> Result<Session, Failure> {
    local_session(line).map_err(|error| {
        let program = line.first().map_or("", String::as_str);
        Failure::new(Reason::UnsafeTarget, format!("failed to start {program}, which runs the command: {error}"))
    })
}

//! The same streams from and into a process of this machine, under the same protocol and the same proof.
//!
//! It must not know what the command does. A machine without `sh` cannot run it.

use rand::random;
use tokio::sync::mpsc;

use crate::{
    cluster::exec::{
        Control, Dumped, local_session,
        protocol::{self, FeedEnd},
    },
    model::{Failure, Reason},
    seal::{CommandLineError, Nonce, dump_command, restore_command},
    stream::{Piece, PieceSender},
};

/// Runs `command` here and hands its stdout to `pieces`: data, and at last an end or a failure.
pub async fn dump(command: &[String], control: &Control, pieces: &PieceSender) -> Result<Dumped, Failure> {
    let started = dump_command(command).map_err(invalid).and_then(|line| start(&line));
    match started {
        Ok(session) => protocol::dump(session, &Nonce::new(random()), control, pieces).await,
        Err(failure) => {
            // A receiver that is gone has a failure of its own.
            let _gone = pieces.send(Piece::Broken(failure.clone())).await;
            Err(failure)
        }
    }
}

/// Runs `command` here with `input`, which must be exactly `size` bytes, on its stdin.
pub async fn feed(
    command: &[String],
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let session = restore_command(command).map_err(invalid).and_then(|line| start(&line))?;
    protocol::feed(session, &Nonce::new(random()), size, input, control).await
}

fn start(line: &[String]) -> Result<crate::cluster::exec::Session, Failure> {
    local_session(line).map_err(|error| {
        Failure::new(Reason::UnsafeTarget, format!("failed to start sh, which runs the command: {error}"))
    })
}

#[allow(clippy::needless_pass_by_value, reason = "to be given to map_err")]
fn invalid(error: CommandLineError) -> Failure {
    Failure::new(Reason::InvalidRequest, error.to_string())
}

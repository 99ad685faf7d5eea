//! A command by the best way there is: the helper where it answers, else the shell form.
//!
//! It must not know what a session is carried by. To fall back is safe: without its word that it is ready, nothing ran.

use rand::random;
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    Control, DumpEnd, Dumped, FeedEnd, Session,
    protocol::{self, Greeting, Helper},
};
use crate::{
    model::{Failure, Reason},
    seal::{CommandLineError, Nonce, Way},
    stream::{Piece, PieceSender},
};

/// Runs `command` by `way` over a session that `open` starts, and hands its stdout to `pieces`: data, and at last an end
/// or a failure. [`Dumped::NoShell`]: nothing ran and nothing was handed over.
pub async fn dump_over(
    open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    way: &Way,
    command: &[String],
    control: &Control,
    pieces: &PieceSender,
) -> Result<Dumped, Failure> {
    let started = async {
        if matches!(way, Way::Helper(_)) {
            let line = way.dump_command(command).map_err(invalid)?;
            if let Some(helper) = greet(open(&line).await?, control).await? {
                return Ok(Started::Helper(helper));
            }
        }
        let line = Way::Shell.dump_command(command).map_err(invalid)?;
        open(&line).await.map(Started::Shell)
    };
    match started.await {
        Ok(Started::Helper(helper)) => protocol::dump_sealed(helper, control, pieces).await.map(Dumped::Whole),
        Ok(Started::Shell(session)) => protocol::dump(session, &Nonce::new(random()), control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Runs `command` by `way` over a session that `open` starts, with `input`, which must be exactly `size` bytes, on its
/// stdin.
pub async fn feed_over(
    open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    way: &Way,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    if matches!(way, Way::Helper(_)) {
        let line = way.restore_command(command).map_err(invalid)?;
        if let Some(helper) = greet(open(&line).await?, control).await? {
            return protocol::feed_sealed(helper, size, input, control).await;
        }
    }
    let line = Way::Shell.restore_command(command).map_err(invalid)?;
    protocol::feed(open(&line).await?, &Nonce::new(random()), size, input, control).await
}

/// The same with a helper that came to a socket of ours by itself, for which `open` waits. There is no other way then.
pub async fn dump_over_socket(
    open: impl Future<Output = Result<Session, Failure>>,
    control: &Control,
    pieces: &PieceSender,
) -> Result<DumpEnd, Failure> {
    let greeted = async { helper_at(open.await?, control).await };
    match greeted.await {
        Ok(helper) => protocol::dump_sealed(helper, control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// The same for a restore.
pub async fn feed_over_socket(
    open: impl Future<Output = Result<Session, Failure>>,
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let helper = helper_at(open.await?, control).await?;
    protocol::feed_sealed(helper, size, input, control).await
}

async fn helper_at(session: Session, control: &Control) -> Result<Helper, Failure> {
    match protocol::greet(session, &Nonce::new(random()), control).await? {
        Greeting::Ready(helper) => Ok(helper),
        Greeting::NothingRan { why } => {
            Err(Failure::new(Reason::ExecRefused, format!("the pod's helper cannot be used ({why}); nothing ran")))
        }
    }
}

enum Started {
    Helper(Helper),
    Shell(Session),
}

/// The helper, if one answers that speaks our version.
async fn greet(session: Session, control: &Control) -> Result<Option<Helper>, Failure> {
    match protocol::greet(session, &Nonce::new(random()), control).await? {
        Greeting::Ready(helper) => Ok(Some(helper)),
        Greeting::NothingRan { why } => {
            warn!("the pod's helper cannot be used ({why}); nothing ran, and the container's own shell follows");
            Ok(None)
        }
    }
}

// By value, to be given to map_err.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn invalid(error: CommandLineError) -> Failure {
    Failure::new(Reason::InvalidRequest, error.to_string())
}

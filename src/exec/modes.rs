//! Runs a command by the best mode available: the helper if it answers, and else the shell form. The fallback is safe,
//! because the helper runs nothing before it has sent its `ready`.

use rand::random;
use tokio::sync::mpsc;
use tracing::warn;

use super::{
    Control, DumpEnd, Dumped, FeedEnd, Session,
    protocol::{self, Greeting, Helper},
};
use crate::{
    model::{Failure, Reason},
    seal::{CommandLineError, ExecMode, Nonce},
    stream::{StreamItem, StreamSender},
};

/// Runs `command` by `mode` over a session which `open` starts, and sends its stdout to `pieces`: data, and at last an
/// end or a failure. [`Dumped::NoShell`]: nothing ran and nothing was sent.
pub async fn dump_over(
    open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    mode: &ExecMode,
    command: &[String],
    control: &Control,
    pieces: &StreamSender,
) -> Result<Dumped, Failure> {
    let started = async {
        if matches!(mode, ExecMode::Helper(_)) {
            let line = mode.dump_command(command).map_err(invalid)?;
            if let Some(helper) = greet(open(&line).await?, control).await? {
                return Ok(Started::Helper(helper));
            }
        }
        let line = ExecMode::Shell.dump_command(command).map_err(invalid)?;
        open(&line).await.map(Started::Shell)
    };
    match started.await {
        Ok(Started::Helper(helper)) => protocol::dump_sealed(helper, control, pieces).await.map(Dumped::Whole),
        Ok(Started::Shell(session)) => protocol::dump(session, &Nonce::new(random()), control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Runs `command` by `mode` over a session which `open` starts, with `input`, which must be exactly `size` bytes, on
/// its stdin.
pub async fn feed_over(
    open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
    mode: &ExecMode,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<StreamItem>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    if matches!(mode, ExecMode::Helper(_)) {
        let line = mode.restore_command(command).map_err(invalid)?;
        if let Some(helper) = greet(open(&line).await?, control).await? {
            return protocol::feed_sealed(helper, size, input, control).await;
        }
    }
    let line = ExecMode::Shell.restore_command(command).map_err(invalid)?;
    protocol::feed(open(&line).await?, &Nonce::new(random()), size, input, control).await
}

/// Runs a dump with a helper which connects to a socket of Stowaway; `open` waits for its connection. There is no
/// fallback to a shell.
pub async fn dump_over_socket(
    open: impl Future<Output = Result<Session, Failure>>,
    control: &Control,
    pieces: &StreamSender,
) -> Result<DumpEnd, Failure> {
    let greeted = async { helper_at(open.await?, control).await };
    match greeted.await {
        Ok(helper) => protocol::dump_sealed(helper, control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Does the same as [`dump_over_socket`] for a restore.
pub async fn feed_over_socket(
    open: impl Future<Output = Result<Session, Failure>>,
    size: u64,
    input: mpsc::Receiver<StreamItem>,
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

/// The helper, if a helper answers with the same protocol version.
async fn greet(session: Session, control: &Control) -> Result<Option<Helper>, Failure> {
    match protocol::greet(session, &Nonce::new(random()), control).await? {
        Greeting::Ready(helper) => Ok(Some(helper)),
        Greeting::NothingRan { why } => {
            warn!("the pod's helper cannot be used ({why}); nothing ran, and the container's own shell follows");
            Ok(None)
        }
    }
}

// Takes the error by value so that it can be passed to `map_err`.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn invalid(error: CommandLineError) -> Failure {
    Failure::new(Reason::InvalidRequest, error.to_string())
}

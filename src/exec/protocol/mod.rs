//! The loops which prove a stream over any session: one loop for each direction and each mode, shell or helper.
//!
//! A loop which ends early closes the remote stdin, which makes the remote side end the command, and waits briefly for
//! that. Dropping the session ends everything else.

mod dump;
mod feed;
mod sealed;
mod sealed_dump;
mod sealed_feed;

use bytes::Bytes;
use tokio::time::{Duration, Instant, Interval, interval_at, timeout};

pub use dump::{dump, dump_plain};
pub use feed::feed;
pub use sealed::{Greeting, Helper, greet};
pub use sealed_dump::dump_sealed;
pub use sealed_feed::feed_sealed;

use super::{Output, Session, SessionCut, session::Input, watch::Watch};
use crate::{
    model::{Failure, Proof, Reason},
    seal::UnsealError,
    stream::{StreamItem, StreamSender},
};

/// The time that a container's shell may take until it sends `ready`.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The interval of heartbeats. They are needed because pings do not count as traffic everywhere: the API server ends a
/// stream after four hours without data.
const HEARTBEAT_EVERY: Duration = Duration::from_mins(5);
/// The limit for the end of the carrier after the trailer. A background child which holds stdout would delay it for
/// ever.
const STATUS_WITHIN: Duration = Duration::from_secs(5);
/// The time that the remote side may take to end a command: TERM, five seconds, KILL.
const END_WITHIN: Duration = Duration::from_secs(8);

/// The facts about a complete stream of a command which exited with status 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DumpEnd {
    /// The proof of its end.
    pub proof: Proof,
    /// Its length.
    pub bytes: u64,
    /// The command's exit status: 0.
    pub exit_code: i32,
}

/// The result of a dump which did not fail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dumped {
    /// The stream is complete.
    Whole(DumpEnd),
    /// Nothing ran and nothing was sent, because the container has no usable `sh`.
    NoShell {
        /// The message of the container's runtime or of the shell, for users.
        why: String,
    },
}

/// The facts about a restore whose command succeeded after it had consumed all of its input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FeedEnd {
    /// The command's exit status: 0.
    pub exit_code: i32,
    /// The proof of that.
    pub proof: Proof,
}

/// Reports a failure to the receiving side, if it is still there, and returns the failure.
pub(super) async fn broken(pieces: &StreamSender, failure: Failure) -> Failure {
    // A receiver which does not get this message sees the channel close without an end, which is a failure as well.
    let _ = timeout(STATUS_WITHIN, pieces.send(StreamItem::Broken(failure.clone()))).await;
    failure
}

fn cut(error: &SessionCut, bytes: u64) -> Failure {
    Failure::new(Reason::StreamCut, format!("{error}, after {bytes} bytes"))
}

fn unsealed(error: &UnsealError) -> Failure {
    let reason = match error {
        UnsealError::Contradicted { .. } => Reason::StreamContradicted,
        UnsealError::NotReady | UnsealError::Cut { .. } => Reason::StreamCut,
    };
    Failure::new(reason, error.to_string())
}

/// Sends the last message, and checks that nothing forbidden follows the trailer.
///
/// `take` receives each output and returns what is wrong with it. The end of the carrier, good or bad, does not
/// contradict the trailer, because the stream was complete before.
async fn acknowledge(
    session: &mut Session,
    message: Bytes,
    mut take: impl FnMut(Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let exchange = async {
        if session.send(Input::Data(message)).await.is_err() {
            return Ok(());
        }
        while let Some(Ok(output)) = session.next().await {
            let is_status = matches!(output, Output::Status(_));
            take(output)?;
            if is_status {
                break;
            }
        }
        Ok(())
    };
    timeout(STATUS_WITHIN, exchange).await.unwrap_or(Ok(()))
}

/// Receives the next output of the session, unless the run must end first. Sends heartbeats in between if `heartbeat`
/// is given.
async fn receive(
    session: &mut Session,
    watch: &Watch<'_>,
    mut heartbeat: Option<&mut Interval>,
) -> Result<Option<Result<Output, SessionCut>>, Failure> {
    loop {
        let beat = async {
            match heartbeat.as_mut() {
                Some(heartbeat) => heartbeat.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            received = watch.unless_interrupted(session.next()) => return received,
            _ = beat => session.heartbeat(),
        }
    }
}

fn heartbeat() -> Interval {
    interval_at(Instant::now() + HEARTBEAT_EVERY, HEARTBEAT_EVERY)
}

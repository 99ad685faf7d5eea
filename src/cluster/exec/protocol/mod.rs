//! The loops that prove a stream, over any session: one for each direction and each way, shell or helper.
//!
//! It must not know what carries a session. Whatever ends a loop early closes the remote stdin, which makes the remote
//! side end the command, and waits a little for that; dropping the session does the rest.

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
    stream::{Piece, PieceSender},
};

/// How long a container's shell may take to say that it starts.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Pings do not count as traffic everywhere: the API server ends a stream after four hours without data.
const HEARTBEAT_EVERY: Duration = Duration::from_mins(5);
/// How long after the trailer the carrier may take to end; a background child that holds stdout delays it for ever.
const STATUS_WITHIN: Duration = Duration::from_secs(5);
/// How long the remote side may take to end a command: TERM, five seconds, KILL.
const END_WITHIN: Duration = Duration::from_secs(8);

/// A stream that came whole from a command that exited 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DumpEnd {
    /// How its end was proven.
    pub proof: Proof,
    /// Its length.
    pub bytes: u64,
    /// The command's exit status: 0.
    pub exit_code: i32,
}

/// How a dump ended that did not fail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Dumped {
    /// The stream is whole.
    Whole(DumpEnd),
    /// Nothing ran, since the container has no usable `sh`; nothing was handed over.
    NoShell {
        /// What the container's runtime or the shell said, for people.
        why: String,
    },
}

/// A restore that its command called a success after it had consumed all of its input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FeedEnd {
    /// The command's exit status: 0.
    pub exit_code: i32,
    /// How that was proven.
    pub proof: Proof,
}

/// Tells the receiving side of a failure, if it still listens, and gives the failure back.
pub(super) async fn broken(pieces: &PieceSender, failure: Failure) -> Failure {
    // A receiver that does not take it sees the stream end without an end, which is a failure as well.
    let _ = timeout(STATUS_WITHIN, pieces.send(Piece::Broken(failure.clone()))).await;
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

/// Says the last word, and listens for what must not come after a trailer.
///
/// `take` sees what comes and says what is wrong with it. An end of the carrier, good or bad, is no contradiction: the
/// stream was whole before.
async fn acknowledge(
    session: &mut Session,
    word: Bytes,
    mut take: impl FnMut(Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let exchange = async {
        if session.say(Input::Data(word)).await.is_err() {
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

/// What a session said next, unless the run must end; says something now and then itself when `heartbeat` is given.
async fn hear(
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
            heard = watch.unless_interrupted(session.next()) => return heard,
            _ = beat => session.heartbeat(),
        }
    }
}

fn heartbeat() -> Interval {
    interval_at(Instant::now() + HEARTBEAT_EVERY, HEARTBEAT_EVERY)
}

//! Pod exec with proof: dumps come back whole or fail, restores take effect or fail, and what failed is ended remotely.
//!
//! The loops in [`protocol`] run over any [`Session`]: a WebSocket to the API server, or a local process. It must not know
//! what the bytes are, nor where they go.

mod connect;
mod lines;
mod local;
pub mod protocol;
mod session;
mod talk;
mod watch;
mod ways;
mod websocket;

use kube::Client;
use rand::random;
use tokio::sync::mpsc;

pub use lines::{Line, LineSource, Lines};
pub use local::{local_session, socket_session};
pub use protocol::{DumpEnd, Dumped, FeedEnd};
pub use session::{Carrier, ExecStatus, Input, Output, Session, SessionCut};
pub use talk::{Heard, talk, tell};
pub use watch::{Control, Limits, Progress};
pub use ways::{dump_over, dump_over_socket, feed_over, feed_over_socket};
pub use websocket::{Pings, websocket_session};

use crate::{
    model::Failure,
    seal::{Nonce, Way, dump_command},
    stream::{Piece, PieceSender},
};

/// A container of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecTarget {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The container.
    pub container: String,
}

impl std::fmt::Display for ExecTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "container {} of pod {}/{}", self.container, self.namespace, self.pod)
    }
}

/// Runs `command` in the container by `way` and hands its stdout to `pieces`: data, and at last an end or a failure.
///
/// Where no helper answers in its place, the shell form follows. [`Dumped::NoShell`] means that nothing ran and nothing was
/// handed over, since the container has no usable `sh` either; [`dump_plain`] may follow. An empty stream of exit status 0
/// is an end like any other here.
///
/// One socket carries stdout and stderr: while `pieces` is full, both wait (pings go on), and the command with them.
pub async fn dump(
    client: &Client,
    target: &ExecTarget,
    way: &Way,
    command: &[String],
    control: &Control,
    pieces: &PieceSender,
) -> Result<Dumped, Failure> {
    let open = async |line: &[String]| connect::open(client, target, line, true, control).await;
    dump_over(open, way, command, control, pieces).await
}

/// Runs `line` in the container, a program that speaks the dump's protocol itself (`seal::answer`), as [`dump`] would.
pub async fn ask(
    client: &Client,
    target: &ExecTarget,
    line: &[String],
    control: &Control,
    pieces: &PieceSender,
) -> Result<Dumped, Failure> {
    match connect::open(client, target, line, true, control).await {
        Ok(session) => protocol::dump(session, &Nonce::new(random()), control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Starts `line` in the container, a program of ours that knows by itself how to end; its stdin is open.
pub async fn open(
    client: &Client,
    target: &ExecTarget,
    line: &[String],
    control: &Control,
) -> Result<Session, Failure> {
    connect::open(client, target, line, true, control).await
}

/// The same without a shell and so without proof: only the exec's own status tells of the end, and it is known to lie.
///
/// The command cannot be ended from here; it is left to the broken pipe.
pub async fn dump_plain(
    client: &Client,
    target: &ExecTarget,
    command: &[String],
    control: &Control,
    pieces: &PieceSender,
) -> Result<DumpEnd, Failure> {
    let opened = async {
        // Checked by the same rules, although no shell is there to need them.
        dump_command(command).map_err(ways::invalid)?;
        connect::open(client, target, command, false, control).await
    };
    match opened.await {
        Ok(session) => protocol::dump_plain(session, control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Runs `command` in the container by `way` with `input`, which must be exactly `size` bytes, on its stdin.
///
/// The command sees the end of its input only if all of it arrived and `input` ended well; whatever else happens, it is
/// killed first, also if one of the helper's two processes is killed there. What is not held: both are killed in one moment,
/// or the shell is, where it feeds the command. Its stdout and stderr go to the lines of `control`. Where no helper answers in its place, the shell form
/// follows.
pub async fn feed(
    client: &Client,
    target: &ExecTarget,
    way: &Way,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let open = async |line: &[String]| connect::open(client, target, line, true, control).await;
    feed_over(open, way, command, size, input, control).await
}

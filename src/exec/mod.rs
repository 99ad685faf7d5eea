//! Pod exec with proof. A dump is either complete or fails, a restore either takes effect or fails, and a command whose
//! run failed is ended in its container.
//!
//! The loops in [`protocol`] run over any [`Session`]: a WebSocket to the API server, a Unix socket, or a local
//! process.

mod connect;
mod lines;
mod local;
mod modes;
pub mod protocol;
mod session;
mod talk;
mod watch;
mod websocket;

use kube::Client;
use tokio::sync::mpsc;

pub use lines::{Line, LineSource, Lines};
pub use local::{local_session, socket_session};
pub use modes::{dump_over, dump_over_socket, feed_over, feed_over_socket};
pub use protocol::{DumpEnd, Dumped, FeedEnd};
pub use session::{Carrier, ExecStatus, Input, Output, Session, SessionCut};
pub use talk::{ExchangeOutcome, exchange_lines, send_line};
pub use watch::{Control, Limits, Progress};
pub use websocket::{Pings, websocket_session};

use crate::{
    model::Failure,
    seal::{ExecMode, dump_command},
    stream::{StreamItem, StreamSender},
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

/// Runs `command` in the container by `mode` and sends its stdout to `pieces`: data, and at last an end or a failure.
///
/// If no helper answers in [`ExecMode::Helper`], the shell form is used instead. [`Dumped::NoShell`] means that nothing
/// ran and nothing was sent, because the container has no usable `sh` either. The caller may then use [`dump_plain`].
/// An empty stream of a command which exited with status 0 is a regular end here.
///
/// A single connection carries stdout and stderr. While `pieces` is full, both wait, and so does the command; pings
/// continue.
pub async fn dump(
    client: &Client,
    target: &ExecTarget,
    mode: &ExecMode,
    command: &[String],
    control: &Control,
    pieces: &StreamSender,
) -> Result<Dumped, Failure> {
    let open = async |line: &[String]| connect::open(client, target, line, true, control).await;
    dump_over(open, mode, command, control, pieces).await
}

/// Starts `line` in the container with an open stdin. `line` starts a program of Stowaway, which does not need this
/// side to end it.
pub async fn open(
    client: &Client,
    target: &ExecTarget,
    line: &[String],
    control: &Control,
) -> Result<Session, Failure> {
    connect::open(client, target, line, true, control).await
}

/// Runs `command` without a shell, and therefore without proof: only the exec's own status reports the end, and that
/// status is known to be unreliable.
///
/// The command cannot be ended from here. It ends when it writes to the broken pipe.
pub async fn dump_plain(
    client: &Client,
    target: &ExecTarget,
    command: &[String],
    control: &Control,
    pieces: &StreamSender,
) -> Result<DumpEnd, Failure> {
    let opened = async {
        // The rules of the shell form apply here too, so that a command is valid in all modes or in none.
        dump_command(command).map_err(modes::invalid)?;
        connect::open(client, target, command, false, control).await
    };
    match opened.await {
        Ok(session) => protocol::dump_plain(session, control, pieces).await,
        Err(failure) => Err(protocol::broken(pieces, failure).await),
    }
}

/// Runs `command` in the container by `mode` with `input`, which must be exactly `size` bytes, on its stdin.
///
/// The command sees the end of its input only if all of it arrived and `input` ended well. In all other cases the
/// command is killed before that, also if one of the helper's two processes is killed in the container. Two cases are
/// not covered: both processes are killed at the same moment, or the shell which feeds the command is killed. The
/// command's stdout and stderr are sent to the lines of `control`. If no helper answers in [`ExecMode::Helper`], the
/// shell form is used instead.
pub async fn feed(
    client: &Client,
    target: &ExecTarget,
    mode: &ExecMode,
    command: &[String],
    size: u64,
    input: mpsc::Receiver<StreamItem>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let open = async |line: &[String]| connect::open(client, target, line, true, control).await;
    feed_over(open, mode, command, size, input, control).await
}

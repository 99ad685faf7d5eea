//! A running remote command, as two bounded channels: its output and its input.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, Instant, timeout},
};

use super::watch::lock;

/// Output of the remote side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Bytes of stdout.
    Stdout(Bytes),
    /// Bytes of stderr.
    Stderr(Bytes),
    /// The exit status as the carrier reports it. It is advisory: even with status 0 the last bytes may be missing.
    Status(ExecStatus),
}

/// The content of an exec's status frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExecStatus {
    /// The process ran and exited.
    Exited(i32),
    /// The process did not run, for this reason, or its exit status is unknown.
    Refused(String),
}

impl std::fmt::Display for ExecStatus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(formatter, "exit status {code}"),
            Self::Refused(why) => formatter.write_str(why),
        }
    }
}

/// Input for the remote side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// Bytes for the command's stdin.
    Data(Bytes),
    /// The end of the command's stdin, which cancels the command.
    Close,
}

/// The carrier broke.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct SessionCut(pub String);

impl SessionCut {
    pub(super) fn input() -> Self {
        Self("the connection takes no input any more".into())
    }
}

/// Tracks since when the connection has been idle: no send in progress and no unread data. An idle peer must answer
/// pings; a busy peer may be late.
#[derive(Clone, Debug)]
pub(super) struct IdleSince(Arc<std::sync::Mutex<IdleState>>);

#[derive(Debug)]
struct IdleState {
    sending: bool,
    unread: bool,
    since: Instant,
}

impl IdleSince {
    fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(IdleState { sending: false, unread: false, since: Instant::now() })))
    }

    /// Records that a send begins or ends. A peer which does not accept a send may not read pings either.
    pub(super) fn sending(&self, sending: bool) {
        let mut state = lock(&self.0);
        state.sending = sending;
        state.since = Instant::now();
    }

    fn unread(&self, unread: bool) {
        let mut state = lock(&self.0);
        state.unread = unread;
        state.since = Instant::now();
    }

    /// Since when the peer has had to answer pings; `None` while it need not.
    pub(super) fn since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        (!state.sending && !state.unread).then_some(state.since)
    }
}

/// A remote command. Dropping the session drops its carrier, which cancels the command.
#[derive(Debug)]
pub struct Session {
    output: mpsc::Receiver<Result<Output, SessionCut>>,
    input: mpsc::Sender<Input>,
    idle: IdleSince,
    tasks: JoinSet<()>,
}

/// The carrier's side of a session.
#[derive(Debug)]
pub struct Carrier {
    /// Output of the remote side; the carrier drops it at the end.
    pub output: mpsc::Sender<Result<Output, SessionCut>>,
    /// Input for the remote side; closed when the session is dropped.
    pub input: mpsc::Receiver<Input>,
    pub(super) idle: IdleSince,
}

/// The number of frames that wait in each direction. Frames of an API server (32 KiB) take a few dozen KiB.
const FRAMES: usize = 2;

impl Session {
    /// Creates a session and the carrier's side of it.
    pub fn new() -> (Self, Carrier) {
        let (output_sender, output) = mpsc::channel(FRAMES);
        let (input, input_receiver) = mpsc::channel(FRAMES);
        let idle = IdleSince::new();
        let carrier = Carrier { output: output_sender, input: input_receiver, idle: idle.clone() };
        (Self { output, input, idle, tasks: JoinSet::new() }, carrier)
    }

    /// Attaches the tasks which carry the session. They are aborted when the session is dropped.
    #[must_use]
    pub fn carried_by(mut self, tasks: JoinSet<()>) -> Self {
        self.tasks = tasks;
        self
    }

    /// The next output; `None` when the carrier has ended.
    pub(super) async fn next(&mut self) -> Option<Result<Output, SessionCut>> {
        self.output.recv().await
    }

    /// Sends the input, waiting for room.
    pub(super) async fn send(&self, input: Input) -> Result<(), SessionCut> {
        self.input.send(input).await.map_err(|_| SessionCut::input())
    }

    /// A sender of input, for use while the session is read.
    pub(super) fn sender(&self) -> mpsc::Sender<Input> {
        self.input.clone()
    }

    /// Sends an empty line, which the protocol ignores, unless other input waits to be sent. Pings alone do not keep a
    /// proxy or an API server from ending a long silent stream.
    pub(super) fn heartbeat(&self) {
        let _ = self.input.try_send(Input::Data(Bytes::from_static(b"\n")));
    }

    /// Records whether the remote side may have data which it does not read yet, and so pings it does not read either.
    pub(super) fn unread(&self, unread: bool) {
        self.idle.unread(unread);
    }

    /// Closes the remote stdin, and waits at most `patience` until the remote side has ended. `take` receives the
    /// remaining output and returns whether it was the end.
    pub(super) async fn cancel(&mut self, patience: Duration, mut take: impl FnMut(Output) -> bool) {
        let _ = timeout(patience, async {
            let input = self.input.clone();
            let mut closed = false;
            loop {
                tokio::select! {
                    room = input.reserve(), if !closed => {
                        closed = true;
                        if let Ok(room) = room {
                            room.send(Input::Close);
                        }
                    }
                    output = self.output.recv() => match output {
                        Some(Ok(output)) => if take(output) { return },
                        Some(Err(_)) | None => return,
                    },
                }
            }
        })
        .await;
    }
}

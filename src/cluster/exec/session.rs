//! One running remote command as two bounded channels: what it says, and what we say.
//!
//! It must not know the protocol that runs over it, nor what carries it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, Instant, timeout},
};

use super::watch::lock;

/// What the remote side says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Bytes of stdout.
    Stdout(Bytes),
    /// Bytes of stderr.
    Stderr(Bytes),
    /// How the carrier says that it ended; advisory, since the last bytes may be missing although it is good.
    Status(ExecStatus),
}

/// What an exec's Status frame says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExecStatus {
    /// The process ran and exited.
    Exited(i32),
    /// It did not, for this reason; or nobody knows how it ended.
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

/// What we say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// Bytes for its stdin.
    Data(Bytes),
    /// End of its stdin, which cancels it.
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

/// When the remote side was last known to be owed nothing: then it must answer pings.
#[derive(Clone, Debug)]
pub(super) struct Quiet(Arc<std::sync::Mutex<QuietState>>);

#[derive(Debug)]
struct QuietState {
    sending: bool,
    unread: bool,
    since: Instant,
}

impl Quiet {
    fn new() -> Self {
        Self(Arc::new(std::sync::Mutex::new(QuietState { sending: false, unread: false, since: Instant::now() })))
    }

    /// A send begins or ends: a peer that does not take it may well not get to our pings either.
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

    /// Since when pings had to be answered; nothing while they need not be.
    pub(super) fn since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        (!state.sending && !state.unread).then_some(state.since)
    }
}

/// A remote command. Dropping it drops the carrier, which the remote side takes for a cancel.
#[derive(Debug)]
pub struct Session {
    output: mpsc::Receiver<Result<Output, SessionCut>>,
    input: mpsc::Sender<Input>,
    quiet: Quiet,
    tasks: JoinSet<()>,
}

/// The carrier's side of a session.
#[derive(Debug)]
pub struct Carrier {
    /// What the remote side says; closed at its end.
    pub output: mpsc::Sender<Result<Output, SessionCut>>,
    /// What we say; closed when the session was dropped.
    pub input: mpsc::Receiver<Input>,
    pub(super) quiet: Quiet,
}

/// Frames that wait in either direction; with those of an API server (32 KiB) a few dozen KiB.
const FRAMES: usize = 2;

impl Session {
    /// A session, and the side that carries it. `tasks` are ended with the session.
    pub fn new() -> (Self, Carrier) {
        let (output_sender, output) = mpsc::channel(FRAMES);
        let (input, input_receiver) = mpsc::channel(FRAMES);
        let quiet = Quiet::new();
        let carrier = Carrier { output: output_sender, input: input_receiver, quiet: quiet.clone() };
        (Self { output, input, quiet, tasks: JoinSet::new() }, carrier)
    }

    /// The same session with the tasks that carry it, which end with it.
    #[must_use]
    pub fn carried_by(mut self, tasks: JoinSet<()>) -> Self {
        self.tasks = tasks;
        self
    }

    /// What comes next; nothing at the carrier's end.
    pub(super) async fn next(&mut self) -> Option<Result<Output, SessionCut>> {
        self.output.recv().await
    }

    /// Says it, waiting for room.
    pub(super) async fn say(&self, input: Input) -> Result<(), SessionCut> {
        self.input.send(input).await.map_err(|_| SessionCut::input())
    }

    /// Where to say things while listening.
    pub(super) fn sender(&self) -> mpsc::Sender<Input> {
        self.input.clone()
    }

    /// Sends something that means nothing, unless other things wait to be sent: pings alone do not keep a proxy or an API
    /// server from ending a long silent stream.
    pub(super) fn heartbeat(&self) {
        let _ = self.input.try_send(Input::Data(Bytes::from_static(b"\n")));
    }

    /// Whether the remote side may have bytes of ours before it that it does not read yet, and so no pings either.
    pub(super) fn unread(&self, unread: bool) {
        self.quiet.unread(unread);
    }

    /// Closes the remote stdin, and waits until the remote side is gone, at most `patience`; `take` sees what it still says
    /// and tells whether that was the end.
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
                    said = self.output.recv() => match said {
                        Some(Ok(output)) => if take(output) { return },
                        Some(Err(_)) | None => return,
                    },
                }
            }
        })
        .await;
    }
}

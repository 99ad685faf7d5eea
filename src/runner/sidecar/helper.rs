//! Sends the helper to the sidecar: one exec in the app's container, which gets the word for the door by stdin.
//!
//! It must not know what the run does. The exec stays as long as the helper, which must not become a child of the app's
//! process 1: a database server there takes a stranger that died of a signal for a crashed child of its own. But nothing
//! depends on the exec: the helper's lifeline is the socket, so that it outlives the API server.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::{
    cluster::exec::{ExecStatus, Heard, Session, tell},
    model::{Failure, Reason},
    seal::{CommandLineError, Nonce, socket_command},
};

/// How long the sidecar may take to say that the helper came, after the helper's exec has ended.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait before an API server that was not reached is asked again.
const PAUSE: Duration = Duration::from_secs(2);
/// How often.
const ATTEMPTS: u32 = 30;

/// What the helper is to run, and where it is.
#[derive(Clone)]
pub struct HelperCommand {
    /// The helper in the app's container.
    pub program: String,
    /// Whether the command reads a restore.
    pub restore: bool,
    /// The command; it may hold passwords.
    pub command: Vec<String>,
}

/// Where the helper is awaited.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Awaited {
    pub token: String,
    pub socket: String,
}

impl HelperCommand {
    /// The command line of its exec.
    fn line(&self, socket: &str) -> Result<Vec<String>, CommandLineError> {
        socket_command(&self.program, socket, self.restore, &self.command)
    }

    /// Whether it can be run at all, before anything is begun.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let longest = format!("/stowaway-socket/{}", "0".repeat(Nonce::LENGTH));
        self.line(&longest).map(drop).map_err(|error| Failure::new(Reason::InvalidRequest, error.to_string()))
    }

    /// Sends the helper as soon as it is awaited; returns only if it cannot come, with the reason. To be dropped with the
    /// run.
    pub(super) async fn send(
        &self,
        open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
        mut awaited: watch::Receiver<Option<Awaited>>,
        mut connected: watch::Receiver<bool>,
    ) -> String {
        let Ok(Some(Awaited { token, socket })) = awaited.wait_for(Option::is_some).await.map(|found| found.clone())
        else {
            return std::future::pending().await;
        };
        let why = match self.line(&socket) {
            Ok(line) => self.exec(&line, &token, open, &connected).await,
            Err(error) => error.to_string(),
        };
        tokio::select! {
            biased;
            _ = connected.wait_for(|connected| *connected) => std::future::pending().await,
            () = sleep(TOLD_WITHIN) => why,
        }
    }

    /// Until the exec ends, with why. An API server that is not reached has begun nothing, or something that has got no
    /// word.
    async fn exec(
        &self,
        line: &[String],
        token: &str,
        open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
        connected: &watch::Receiver<bool>,
    ) -> String {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let told = async { tell(open(line).await?, format!("{token}\n").into()).await };
            match told.await {
                // Its command is done, and the sidecar has yet to tell.
                Ok(Heard::Ended { status: ExecStatus::Exited(0), .. }) => return std::future::pending().await,
                Ok(Heard::Ended { status, stderr }) => return format!("{status}: {stderr}"),
                Ok(Heard::Enough(())) => return String::new(),
                Err(failure) if failure.reason == Reason::StreamCut && !*connected.borrow() => why = failure.message,
                Err(failure) => return failure.message,
            }
            sleep(PAUSE).await;
        }
        why
    }
}

//! Starts the helper which connects to the sidecar: one exec in the app's container, whose stdin carries the socket's
//! token.
//!
//! The exec lasts as long as the helper, because the helper must not become a child of the app's process 1: a database
//! server as process 1 takes an unknown child which died of a signal for a crashed child of its own. Otherwise nothing
//! depends on the exec. The helper ends with the socket, so that it survives an outage of the API server.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::{
    exec::{ExchangeOutcome, ExecStatus, Session, send_line},
    model::{Failure, Reason},
    seal::{CommandLineError, Nonce, socket_command},
};

/// The time that the sidecar may take to report the helper's connection after the helper's exec has ended.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);
/// The pause before the next attempt when the API server was not reached.
const PAUSE: Duration = Duration::from_secs(2);
/// The number of attempts.
const ATTEMPTS: u32 = 30;

/// The helper's program and the command which it runs.
#[derive(Clone)]
pub struct HelperCommand {
    /// The path of the helper in the app's container.
    pub program: String,
    /// Whether the command reads a restore.
    pub restore: bool,
    /// The command, which may hold passwords.
    pub command: Vec<String>,
}

/// The socket to which the helper is expected to connect, and its token.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Awaited {
    pub token: String,
    pub socket: String,
}

impl HelperCommand {
    /// The command line of the helper's exec.
    fn line(&self, socket: &str) -> Result<Vec<String>, CommandLineError> {
        socket_command(&self.program, socket, self.restore, &self.command)
    }

    /// Checks that the command line is valid, before the run is started.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let longest = format!("/stowaway-socket/{}", "0".repeat(Nonce::LENGTH));
        self.line(&longest).map(drop).map_err(|error| Failure::new(Reason::InvalidRequest, error.to_string()))
    }

    /// Starts the helper as soon as the socket is announced. Returns only if the helper cannot connect, with the
    /// reason. The caller drops this future when the run has ended.
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
            () = sleep(REPORTED_WITHIN) => why,
        }
    }

    /// Runs the exec until it ends, and returns why it ended. If the API server was not reached, either nothing was
    /// started, or a helper which received no token.
    async fn exec(
        &self,
        line: &[String],
        token: &str,
        open: impl AsyncFn(&[String]) -> Result<Session, Failure>,
        connected: &watch::Receiver<bool>,
    ) -> String {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let sent = async { send_line(open(line).await?, format!("{token}\n").into()).await };
            match sent.await {
                // The command has ended, and the sidecar will report the result.
                Ok(ExchangeOutcome::RemoteEnded { status: ExecStatus::Exited(0), .. }) => {
                    return std::future::pending().await;
                }
                Ok(ExchangeOutcome::RemoteEnded { status, stderr }) => return format!("{status}: {stderr}"),
                Ok(ExchangeOutcome::Complete(())) => return String::new(),
                Err(failure) if failure.reason == Reason::StreamCut && !*connected.borrow() => why = failure.message,
                Err(failure) => return failure.message,
            }
            sleep(PAUSE).await;
        }
        why
    }
}

//! A dump in the shell form: the command's stdout becomes stream items, with an end only if that end was proven. A slow
//! receiver makes the command wait.

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    super::{Control, ExecStatus, Input, LineSource, Output, Session, lines::Splitter, watch::Watch},
    DumpEnd, Dumped, END_WITHIN, READY_WITHIN, acknowledge, broken, cut, heartbeat, receive, unsealed,
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{HELD_OPEN, Nonce, UnsealError, Unsealer, failure_of},
    stream::{End, StreamItem, StreamSender},
};

/// The size of a data item.
pub(super) const PIECE: usize = 64 * 1024;

/// Why the loop ended early.
enum Stop {
    /// Nothing ran.
    NoShell(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs the dump form over a session whose remote side was started with `seal::dump_command`.
pub async fn dump(
    mut session: Session,
    nonce: &Nonce,
    control: &Control,
    pieces: &StreamSender,
) -> Result<Dumped, Failure> {
    let mut receiver = Receiver {
        unsealer: Unsealer::new(nonce),
        stderr: control.lines.splitter(LineSource::Stderr),
        watch: Watch::start(control),
        pieces,
    };
    let outcome = receiver.run(&mut session, nonce).await;
    match outcome {
        Ok(end) => hand_over_end(control, pieces, end).await.map(Dumped::Whole),
        Err(Stop::NoShell(why)) => {
            session.cancel(END_WITHIN, |_| false).await;
            Ok(Dumped::NoShell { why })
        }
        Err(Stop::Failed(failure)) => {
            let Receiver { mut unsealer, mut stderr, .. } = receiver;
            session
                .cancel(END_WITHIN, |output| match output {
                    Output::Stdout(data) => unsealer.push(&data).is_err() || unsealer.exit_status().is_some(),
                    Output::Stderr(data) => {
                        stderr.push(&data);
                        false
                    }
                    Output::Status(_) => true,
                })
                .await;
            Err(broken(pieces, failure).await)
        }
    }
}

struct Receiver<'a> {
    unsealer: Unsealer,
    stderr: Splitter,
    watch: Watch<'a>,
    pieces: &'a StreamSender,
}

impl Receiver<'_> {
    async fn run(&mut self, session: &mut Session, nonce: &Nonce) -> Result<DumpEnd, Stop> {
        let sent = self.watch.unless_interrupted(session.send(Input::Data(nonce.line()))).await?;
        sent.map_err(|error| cut(&error, 0))?;
        tokio::select! {
            ready = self.ready(session) => ready?,
            () = sleep(READY_WITHIN) => {
                return Err(Stop::NoShell(format!("no shell answered within {} seconds", READY_WITHIN.as_secs())));
            }
        }
        let status = self.data(session).await?;
        if let Some(failure) = failure_of(status).filter(|_| status == HELD_OPEN) {
            // Without an acknowledgement the session is cancelled, which ends the processes which the command left
            // behind.
            return Err(failure.into());
        }
        let bytes = self.unsealer.bytes();
        let stderr = &mut self.stderr;
        let acknowledged = acknowledge(session, nonce.line(), |output| match output {
            Output::Stderr(data) => {
                stderr.push(&data);
                Ok(())
            }
            Output::Stdout(_) => Err(unsealed(&UnsealError::Contradicted { bytes })),
            Output::Status(reported) => agrees(status, &reported),
        });
        // The command's own failure takes precedence over what its remaining processes did to the stream.
        let acknowledged = acknowledged.await;
        if let Some(failure) = failure_of(status) {
            return Err(failure.into());
        }
        acknowledged?;
        Ok(DumpEnd { proof: Proof::Acknowledged, bytes, exit_code: 0 })
    }

    /// Waits until the remote shell reports that it starts the command. Nothing ran if anything else arrives.
    async fn ready(&mut self, session: &mut Session) -> Result<(), Stop> {
        while !self.unsealer.is_ready() {
            match receive(session, &self.watch, None).await? {
                Some(Ok(Output::Stdout(chunk))) => match self.unsealer.push(&chunk) {
                    Ok(data) => self.hand_over(data).await?,
                    Err(UnsealError::NotReady) => {
                        return Err(Stop::NoShell("the program sh of the container is not a POSIX shell".into()));
                    }
                    Err(error) => return Err(unsealed(&error).into()),
                },
                Some(Ok(Output::Stderr(data))) => self.stderr.push(&data),
                Some(Ok(Output::Status(status))) => return Err(Stop::NoShell(status.to_string())),
                Some(Err(error)) => return Err(cut(&error, 0).into()),
                None => return Err(ended(0, None).into()),
            }
        }
        Ok(())
    }

    /// Receives data until the trailer, and returns the trailer's exit status.
    async fn data(&mut self, session: &mut Session) -> Result<u16, Failure> {
        let mut heartbeat = heartbeat();
        loop {
            if let Some(exit_status) = self.unsealer.exit_status() {
                return Ok(exit_status);
            }
            let received = receive(session, &self.watch, Some(&mut heartbeat)).await?;
            match received {
                Some(Ok(Output::Stdout(chunk))) => {
                    let data = self.unsealer.push(&chunk).map_err(|error| unsealed(&error))?;
                    self.hand_over(data).await?;
                }
                Some(Ok(Output::Stderr(data))) => self.stderr.push(&data),
                // The script waits for the acknowledgement, so that it ends here only if another process ended it.
                Some(Ok(Output::Status(status))) => return Err(ended(self.unsealer.bytes(), Some(&status))),
                Some(Err(error)) => return Err(cut(&error, self.unsealer.bytes())),
                None => return Err(ended(self.unsealer.bytes(), None)),
            }
        }
    }

    async fn hand_over(&mut self, mut data: Bytes) -> Result<(), Failure> {
        self.watch.command_is_not_idle();
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.watch.unless_interrupted(self.pieces.send(StreamItem::Data(piece))).await?.map_err(|_| not_taken())?;
        }
        self.watch.moved(self.unsealer.bytes());
        Ok(())
    }
}

/// Runs a dump over a session with the command itself. Its end is known only from the carrier's status, if there is
/// one.
pub async fn dump_plain(mut session: Session, control: &Control, pieces: &StreamSender) -> Result<DumpEnd, Failure> {
    match plain(&mut session, control, pieces).await {
        Ok(end) => hand_over_end(control, pieces, end).await,
        Err(failure) => Err(broken(pieces, failure).await),
    }
}

async fn plain(session: &mut Session, control: &Control, pieces: &StreamSender) -> Result<DumpEnd, Failure> {
    let mut stderr = control.lines.splitter(LineSource::Stderr);
    let mut watch = Watch::start(control);
    let mut bytes = 0_u64;
    loop {
        match receive(session, &watch, None).await? {
            Some(Ok(Output::Stdout(mut data))) => {
                bytes = bytes.saturating_add(data.len() as u64);
                watch.command_is_not_idle();
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE));
                    watch.unless_interrupted(pieces.send(StreamItem::Data(piece))).await?.map_err(|_| not_taken())?;
                }
                watch.moved(bytes);
            }
            Some(Ok(Output::Stderr(data))) => stderr.push(&data),
            Some(Ok(Output::Status(ExecStatus::Exited(code)))) => {
                return match u16::try_from(code).ok().map(failure_of) {
                    Some(None) => Ok(DumpEnd { proof: Proof::None, bytes, exit_code: 0 }),
                    Some(Some(failure)) => Err(failure),
                    None => Err(Failure::new(Reason::CommandFailed, format!("the command exited with status {code}"))
                        .with_exit_code(code)),
                };
            }
            Some(Ok(Output::Status(ExecStatus::Refused(why)))) => {
                let message = format!("the container's runtime did not run the command: {why}");
                return Err(Failure::new(Reason::ExecRefused, message));
            }
            Some(Err(error)) => return Err(cut(&error, bytes)),
            None => return Err(ended(bytes, None)),
        }
    }
}

pub(super) async fn hand_over_end(control: &Control, pieces: &StreamSender, end: DumpEnd) -> Result<DumpEnd, Failure> {
    // Only a cancellation ends this wait, because the stream is complete: its timeouts do not apply while the store
    // takes the end.
    tokio::select! {
        biased;
        () = control.cancel.cancelled() => Err(Failure::new(Reason::Cancelled, "the run was cancelled")),
        sent = pieces.send(StreamItem::End(End { proof: end.proof, bytes: end.bytes })) => {
            sent.map(|()| end).map_err(|_| not_taken())
        }
    }
}

/// Checks the carrier's status of a stream against the trailer of that stream.
pub(super) fn agrees(trailer: u16, status: &ExecStatus) -> Result<(), Failure> {
    if *status == ExecStatus::Exited(i32::from(trailer)) {
        return Ok(());
    }
    let message = format!("the stream's trailer reports exit status {trailer}, but the API server reports: {status}");
    Err(Failure::new(Reason::StreamContradicted, message))
}

pub(super) fn ended(bytes: u64, status: Option<&ExecStatus>) -> Failure {
    let why = status.map_or_else(String::new, |status| format!("; the API server reports about the exec: {status}"));
    Failure::new(Reason::StreamCut, format!("{}{why}", UnsealError::Cut { bytes }))
}

pub(super) fn not_taken() -> Failure {
    Failure::new(Reason::InternalError, "the receiver of the stream stopped before its end")
}

//! A dump: the command's stdout becomes pieces, and an end only if it was proven.
//!
//! It must not know where the pieces go; a receiver that does not take them makes the command wait.

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    super::{Control, ExecStatus, Input, LineSource, Output, Session, lines::Splitter, watch::Watch},
    DumpEnd, Dumped, END_WITHIN, READY_WITHIN, acknowledge, broken, cut, hear, heartbeat, unsealed,
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{HELD_OPEN, Nonce, UnsealError, Unsealer, failure_of},
    stream::{End, Piece, PieceSender},
};

/// What a store takes at once.
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
    pieces: &PieceSender,
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
    pieces: &'a PieceSender,
}

impl Receiver<'_> {
    async fn run(&mut self, session: &mut Session, nonce: &Nonce) -> Result<DumpEnd, Stop> {
        let said = self.watch.unless_interrupted(session.say(Input::Data(nonce.line()))).await?;
        said.map_err(|error| cut(&error, 0))?;
        tokio::select! {
            ready = self.ready(session) => ready?,
            () = sleep(READY_WITHIN) => {
                return Err(Stop::NoShell(format!("no shell answered within {} seconds", READY_WITHIN.as_secs())));
            }
        }
        let status = self.data(session).await?;
        if let Some(failure) = failure_of(status).filter(|_| status == HELD_OPEN) {
            // Without an acknowledgement the session is cancelled, which ends what the command left behind.
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
            Output::Status(said) => agrees(status, &said),
        });
        // The command's own failure says more than what its remains did to the stream.
        let acknowledged = acknowledged.await;
        if let Some(failure) = failure_of(status) {
            return Err(failure.into());
        }
        acknowledged?;
        Ok(DumpEnd { proof: Proof::Acknowledged, bytes, exit_code: 0 })
    }

    /// Until the remote shell says that it starts the command. Whatever else comes: nothing ran.
    async fn ready(&mut self, session: &mut Session) -> Result<(), Stop> {
        while !self.unsealer.is_ready() {
            match hear(session, &self.watch, None).await? {
                Some(Ok(Output::Stdout(chunk))) => match self.unsealer.push(&chunk) {
                    Ok(data) => self.hand_over(data).await?,
                    Err(UnsealError::NotReady) => {
                        return Err(Stop::NoShell("what is called sh in the container is no POSIX shell".into()));
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

    /// Until the trailer; gives its exit status.
    async fn data(&mut self, session: &mut Session) -> Result<u16, Failure> {
        let mut heartbeat = heartbeat();
        loop {
            if let Some(exit_status) = self.unsealer.exit_status() {
                return Ok(exit_status);
            }
            let heard = hear(session, &self.watch, Some(&mut heartbeat)).await?;
            match heard {
                Some(Ok(Output::Stdout(chunk))) => {
                    let data = self.unsealer.push(&chunk).map_err(|error| unsealed(&error))?;
                    self.hand_over(data).await?;
                }
                Some(Ok(Output::Stderr(data))) => self.stderr.push(&data),
                // It waits for our last word, so it ends by itself only if somebody ended it.
                Some(Ok(Output::Status(said))) => return Err(ended(self.unsealer.bytes(), Some(&said))),
                Some(Err(error)) => return Err(cut(&error, self.unsealer.bytes())),
                None => return Err(ended(self.unsealer.bytes(), None)),
            }
        }
    }

    async fn hand_over(&mut self, mut data: Bytes) -> Result<(), Failure> {
        self.watch.command_is_not_idle();
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.watch.unless_interrupted(self.pieces.send(Piece::Data(piece))).await?.map_err(|_| not_taken())?;
        }
        self.watch.moved(self.unsealer.bytes());
        Ok(())
    }
}

/// Runs over a session with the bare command: its end is what the carrier says of it, if it says anything.
pub async fn dump_plain(mut session: Session, control: &Control, pieces: &PieceSender) -> Result<DumpEnd, Failure> {
    match plain(&mut session, control, pieces).await {
        Ok(end) => hand_over_end(control, pieces, end).await,
        Err(failure) => Err(broken(pieces, failure).await),
    }
}

async fn plain(session: &mut Session, control: &Control, pieces: &PieceSender) -> Result<DumpEnd, Failure> {
    let mut stderr = control.lines.splitter(LineSource::Stderr);
    let mut watch = Watch::start(control);
    let mut bytes = 0_u64;
    loop {
        match hear(session, &watch, None).await? {
            Some(Ok(Output::Stdout(mut data))) => {
                bytes = bytes.saturating_add(data.len() as u64);
                watch.command_is_not_idle();
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(PIECE));
                    watch.unless_interrupted(pieces.send(Piece::Data(piece))).await?.map_err(|_| not_taken())?;
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

pub(super) async fn hand_over_end(control: &Control, pieces: &PieceSender, end: DumpEnd) -> Result<DumpEnd, Failure> {
    // Only a cancel ends this wait: the stream is whole, and however long the store takes is its own affair.
    tokio::select! {
        biased;
        () = control.cancel.cancelled() => Err(Failure::new(Reason::Cancelled, "the run was cancelled")),
        sent = pieces.send(Piece::End(End { proof: end.proof, bytes: end.bytes })) => {
            sent.map(|()| end).map_err(|_| not_taken())
        }
    }
}

/// The carrier's word on a stream that its trailer called whole.
pub(super) fn agrees(trailer: u16, said: &ExecStatus) -> Result<(), Failure> {
    if *said == ExecStatus::Exited(i32::from(trailer)) {
        return Ok(());
    }
    let message = format!("the command's exit status came as {trailer} in band, and the API server says: {said}");
    Err(Failure::new(Reason::StreamContradicted, message))
}

pub(super) fn ended(bytes: u64, status: Option<&ExecStatus>) -> Failure {
    let why = status.map_or_else(String::new, |status| format!("; the API server says of the exec: {status}"));
    Failure::new(Reason::StreamCut, format!("{}{why}", UnsealError::Cut { bytes }))
}

pub(super) fn not_taken() -> Failure {
    Failure::new(Reason::InternalError, "the receiving side of the stream gave up before its end")
}

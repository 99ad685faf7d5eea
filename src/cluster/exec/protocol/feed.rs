//! A restore: pieces become the command's stdin, and it sees their end only when all of them arrived and ended well.
//!
//! It must not know where the pieces come from. The order of steps: nonce and size, `ready`, the bytes, `got`, the word to
//! go, the trailer, the acknowledgement. Until the word to go nothing is committed by an end of file; after it, only the
//! trailer tells.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, FeedEnd, READY_WITHIN, acknowledge, cut,
    dump::agrees,
    hear, heartbeat, unsealed,
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{INPUT_LEFT, Marker, Nonce, UnsealError, Unsealer, failure_of},
    stream::Piece,
};

/// Runs the restore form over a session whose remote side was started with `seal::restore_command`.
///
/// Reasons of its own: [`Reason::UnsafeTarget`], nothing ran since the container lacks what keeps a restore safe;
/// [`Reason::InputNotConsumed`]; [`Reason::OutcomeUnknown`], the word to go was said and no answer came.
pub async fn feed(
    mut session: Session,
    nonce: &Nonce,
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let mut feeder = Feeder {
        nonce,
        size,
        sent: 0,
        unsealer: Unsealer::new(nonce),
        marker: Marker::got(nonce),
        stdout: control.lines.splitter(LineSource::Stdout),
        stderr: control.lines.splitter(LineSource::Stderr),
        watch: Watch::start(control),
        gone: false,
    };
    match feeder.run(&mut session, input).await {
        Ok(status) => feeder.finish(&mut session, status).await,
        Err(failure) => feeder.abort(&mut session, failure).await,
    }
}

struct Feeder<'a> {
    nonce: &'a Nonce,
    size: u64,
    sent: u64,
    unsealer: Unsealer,
    marker: Marker,
    stdout: Splitter,
    stderr: Splitter,
    watch: Watch<'a>,
    /// The word to go was, or may have been, said.
    gone: bool,
}

impl Feeder<'_> {
    /// Until the trailer; gives its status.
    async fn run(&mut self, session: &mut Session, input: mpsc::Receiver<Piece>) -> Result<u16, Failure> {
        let header = Input::Data(self.nonce.line_with_size(self.size));
        self.watch.unless_interrupted(session.say(header)).await?.map_err(|error| cut(&error, 0))?;
        tokio::select! {
            ready = self.ready(session) => ready?,
            () = sleep(READY_WITHIN) => {
                let message = format!("no shell answered within {} seconds; nothing was changed", READY_WITHIN.as_secs());
                return Err(Failure::new(Reason::UnsafeTarget, message));
            }
        }
        session.unread(true);
        if let ControlFlow::Break(status) = self.bytes(session, input).await? {
            return Ok(status);
        }
        session.unread(false);
        // From the attempt on, since an attempt that fails may have reached the other side.
        self.gone = true;
        let go = Input::Data(self.nonce.line());
        self.watch.unless_interrupted(session.say(go)).await?.map_err(|error| cut(&error, self.sent))?;
        let mut heartbeat = heartbeat();
        loop {
            let heard = hear(session, &self.watch, Some(&mut heartbeat)).await?;
            if let Some(status) = self.take(heard)? {
                return Ok(status);
            }
        }
    }

    async fn ready(&mut self, session: &mut Session) -> Result<(), Failure> {
        while !self.unsealer.is_ready() {
            let heard = hear(session, &self.watch, None).await?;
            let why = match heard {
                Some(Ok(Output::Status(status))) => status.to_string(),
                Some(Ok(Output::Stdout(chunk))) => match self.unsealer.push(&chunk) {
                    Err(UnsealError::NotReady) => "what is called sh there is no POSIX shell".to_owned(),
                    Err(error) => return Err(unsealed(&error)),
                    Ok(data) => {
                        self.stdout.push(&data);
                        continue;
                    }
                },
                heard => {
                    self.take(heard)?;
                    continue;
                }
            };
            let message = format!(
                "the container cannot take a restore safely: it needs sh, head, wc, sleep and a readable /proc ({why}); \
                 nothing was changed"
            );
            return Err(Failure::new(Reason::UnsafeTarget, message));
        }
        Ok(())
    }

    /// Until all bytes are there and both sides say so. Listens while it sends: a command that talks a lot while its input
    /// is full must be heard, or both sides wait for ever. Breaks with the status of a command that ended early.
    async fn bytes(
        &mut self,
        session: &mut Session,
        mut input: mpsc::Receiver<Piece>,
    ) -> Result<ControlFlow<u16>, Failure> {
        let sender = session.sender();
        let mut next: Option<Bytes> = None;
        let mut ended = false;
        while !(ended && self.marker.is_seen()) {
            // It may have come in one piece with `ready`.
            if let Some(status) = self.unsealer.exit_status() {
                return Ok(ControlFlow::Break(status));
            }
            if next.is_none() {
                self.watch.command_is_not_idle();
            }
            tokio::select! {
                failure = self.watch.interruption() => return Err(failure),
                heard = session.next() => drop(self.take(heard)?),
                room = sender.reserve(), if next.is_some() => {
                    let room = room.map_err(|_| cut(&SessionCut::input(), self.sent))?;
                    room.send(Input::Data(next.take().unwrap_or_default()));
                    self.watch.moved(self.sent);
                }
                // One byte too many would be read as the word to go.
                piece = input.recv(), if next.is_none() && !ended => match data_of(piece, self.sent, self.size)? {
                    Some(data) => {
                        self.sent = self.sent.saturating_add(data.len() as u64);
                        self.watch.moved(self.sent);
                        next = Some(data);
                    }
                    None => ended = true,
                },
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What the remote side said; gives the trailer's status.
    fn take(&mut self, heard: Option<Result<Output, SessionCut>>) -> Result<Option<u16>, Failure> {
        match heard {
            Some(Ok(Output::Stdout(chunk))) => {
                let data = self.unsealer.push(&chunk).map_err(|error| unsealed(&error))?;
                self.stdout.push(&data);
                Ok(self.unsealer.exit_status())
            }
            Some(Ok(Output::Stderr(chunk))) => {
                let others = self.marker.push(&chunk);
                self.stderr.push(&others);
                Ok(None)
            }
            // It waits for our last word, so it ends by itself only if somebody ended it.
            Some(Ok(Output::Status(said))) => {
                let message = format!("the remote shell ended before its last word, after {} bytes: {said}", self.sent);
                Err(Failure::new(Reason::StreamCut, message))
            }
            Some(Err(error)) => Err(cut(&error, self.sent)),
            None => Err(cut(&SessionCut("the API server ended the connection".into()), self.sent)),
        }
    }

    /// After the trailer: acknowledges it, and says what it means.
    async fn finish(mut self, session: &mut Session, status: u16) -> Result<FeedEnd, Failure> {
        if !self.gone {
            let status = if status == 0 { INPUT_LEFT } else { status };
            // The end of stdin is the acknowledgement here, since the rest of the input is on its way before any word.
            session.cancel(END_WITHIN, |output| self.remains(output)).await;
            return verdict(status);
        }
        let acknowledged = acknowledge(session, self.nonce.line(), |output| match output {
            Output::Status(said) if status == 0 => agrees(status, &said),
            Output::Stdout(_) => Err(unsealed(&UnsealError::Contradicted { bytes: self.unsealer.bytes() })),
            output => {
                self.remains(output);
                Ok(())
            }
        });
        let acknowledged = acknowledged.await;
        verdict(status).and_then(|end| acknowledged.map(|()| end))
    }

    /// Makes the remote side end the command. Once the word to go was said, only the trailer tells what happened.
    async fn abort(mut self, session: &mut Session, failure: Failure) -> Result<FeedEnd, Failure> {
        session.cancel(END_WITHIN, |output| self.remains(output)).await;
        aborted(self.gone, self.unsealer.exit_status(), Proof::Acknowledged, failure)
    }

    /// Takes in what comes when it decides nothing any more, and tells whether that was the end.
    fn remains(&mut self, output: Output) -> bool {
        matches!(self.take(Some(Ok(output))), Err(_) | Ok(Some(_)))
    }
}

/// The data of the next piece after `sent` bytes; nothing for an end that is right, after exactly `size` of them.
pub(super) fn data_of(piece: Option<Piece>, sent: u64, size: u64) -> Result<Option<Bytes>, Failure> {
    let mismatch = |bytes: u64| {
        let message = format!("the stored stream has {bytes} bytes, and {size} were announced; nothing was changed");
        Failure::new(Reason::StreamContradicted, message)
    };
    match piece {
        Some(Piece::Data(data)) => match sent.saturating_add(data.len() as u64) {
            bytes if bytes > size => Err(mismatch(bytes)),
            _ => Ok(Some(data)),
        },
        Some(Piece::End(end)) if end.bytes == size && sent == size => Ok(None),
        Some(Piece::End(_)) => Err(mismatch(sent)),
        Some(Piece::Broken(failure)) => Err(failure),
        None => Err(Failure::new(Reason::StreamCut, "the stored stream ended without saying that it is whole")),
    }
}

/// What became of a restore that we gave up, and whose command ended with that status, if anybody said so.
pub(super) fn aborted(gone: bool, status: Option<u16>, proof: Proof, failure: Failure) -> Result<FeedEnd, Failure> {
    match status {
        _ if !gone => Err(failure),
        Some(0) => Ok(FeedEnd { exit_code: 0, proof }),
        Some(_) => Err(failure),
        None => {
            let message = format!(
                "all input was handed over, and how the command ended is not known: look at the target; {}",
                failure.message
            );
            Err(Failure::new(Reason::OutcomeUnknown, message))
        }
    }
}

fn verdict(status: u16) -> Result<FeedEnd, Failure> {
    failure_of(status).map_or(Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged }), Err)
}

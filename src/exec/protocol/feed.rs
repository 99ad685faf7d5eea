//! A restore in the shell form: stream items become the command's stdin, and the command sees the end of its input only
//! when all of it arrived and ended well.
//!
//! The steps in order: nonce and size, `ready`, the bytes, `got`, the go message, the trailer, the acknowledgement.
//! Before the go message, no end of file makes the command commit anything. After it, only the trailer shows how the
//! command ended.

use std::ops::ControlFlow;

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, FeedEnd, READY_WITHIN, acknowledge, cut,
    dump::agrees,
    heartbeat, receive, unsealed,
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{INPUT_LEFT, Marker, Nonce, UnsealError, Unsealer, failure_of},
    stream::StreamItem,
};

/// Runs the restore form over a session whose remote side was started with `seal::restore_command`.
///
/// Failures of this function: [`Reason::UnsafeTarget`], if nothing ran because the container lacks what a safe restore
/// needs; [`Reason::InputNotConsumed`]; [`Reason::OutcomeUnknown`], if the go message was sent and no trailer arrived.
pub async fn feed(
    mut session: Session,
    nonce: &Nonce,
    size: u64,
    input: mpsc::Receiver<StreamItem>,
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
        go_sent: false,
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
    /// Whether the go message was, or may have been, sent.
    go_sent: bool,
}

impl Feeder<'_> {
    /// Runs all steps up to the trailer, and returns the trailer's status.
    async fn run(&mut self, session: &mut Session, input: mpsc::Receiver<StreamItem>) -> Result<u16, Failure> {
        let header = Input::Data(self.nonce.line_with_size(self.size));
        self.watch.unless_interrupted(session.send(header)).await?.map_err(|error| cut(&error, 0))?;
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
        // Set before the attempt, because a failed attempt may still have reached the remote side.
        self.go_sent = true;
        let go = Input::Data(self.nonce.line());
        self.watch.unless_interrupted(session.send(go)).await?.map_err(|error| cut(&error, self.sent))?;
        let mut heartbeat = heartbeat();
        loop {
            let received = receive(session, &self.watch, Some(&mut heartbeat)).await?;
            if let Some(status) = self.take(received)? {
                return Ok(status);
            }
        }
    }

    async fn ready(&mut self, session: &mut Session) -> Result<(), Failure> {
        while !self.unsealer.is_ready() {
            let received = receive(session, &self.watch, None).await?;
            let why = match received {
                Some(Ok(Output::Status(status))) => status.to_string(),
                Some(Ok(Output::Stdout(chunk))) => match self.unsealer.push(&chunk) {
                    Err(UnsealError::NotReady) => "its program sh is not a POSIX shell".to_owned(),
                    Err(error) => return Err(unsealed(&error)),
                    Ok(data) => {
                        self.stdout.push(&data);
                        continue;
                    }
                },
                received => {
                    self.take(received)?;
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

    /// Sends all bytes, and waits until the remote side has confirmed them. Reads output while it sends, because a
    /// command which prints a lot while its input is full would otherwise block, and both sides would wait for ever.
    /// Breaks with the status of a command which ended early.
    async fn bytes(
        &mut self,
        session: &mut Session,
        mut input: mpsc::Receiver<StreamItem>,
    ) -> Result<ControlFlow<u16>, Failure> {
        let sender = session.sender();
        let mut next: Option<Bytes> = None;
        let mut ended = false;
        while !(ended && self.marker.is_seen()) {
            // The trailer may have arrived in one chunk with `ready`.
            if let Some(status) = self.unsealer.exit_status() {
                return Ok(ControlFlow::Break(status));
            }
            if next.is_none() {
                self.watch.command_is_not_idle();
            }
            tokio::select! {
                failure = self.watch.interruption() => return Err(failure),
                received = session.next() => drop(self.take(received)?),
                room = sender.reserve(), if next.is_some() => {
                    let room = room.map_err(|_| cut(&SessionCut::input(), self.sent))?;
                    room.send(Input::Data(next.take().unwrap_or_default()));
                    self.watch.moved(self.sent);
                }
                // Never more than `size` bytes: the script would read a further byte as the go message.
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

    /// Processes output of the remote side, and returns the trailer's status when it arrived.
    fn take(&mut self, received: Option<Result<Output, SessionCut>>) -> Result<Option<u16>, Failure> {
        match received {
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
            // The script waits for the acknowledgement, so that it ends here only if another process ended it.
            Some(Ok(Output::Status(status))) => {
                let message = format!("the remote shell ended before its trailer, after {} bytes: {status}", self.sent);
                Err(Failure::new(Reason::StreamCut, message))
            }
            Some(Err(error)) => Err(cut(&error, self.sent)),
            None => Err(cut(&SessionCut("the API server ended the connection".into()), self.sent)),
        }
    }

    /// Acknowledges the trailer, and returns the result which it reports.
    async fn finish(mut self, session: &mut Session, status: u16) -> Result<FeedEnd, Failure> {
        if !self.go_sent {
            let status = if status == 0 { INPUT_LEFT } else { status };
            // Here the end of stdin is the acknowledgement, because the rest of the input would arrive before any
            // message.
            session.cancel(END_WITHIN, |output| self.remains(output)).await;
            return verdict(status);
        }
        let acknowledged = acknowledge(session, self.nonce.line(), |output| match output {
            Output::Status(reported) if status == 0 => agrees(status, &reported),
            Output::Stdout(_) => Err(unsealed(&UnsealError::Contradicted { bytes: self.unsealer.bytes() })),
            output => {
                self.remains(output);
                Ok(())
            }
        });
        let acknowledged = acknowledged.await;
        verdict(status).and_then(|end| acknowledged.map(|()| end))
    }

    /// Cancels the session, so that the remote side ends the command. After the go message, only the trailer shows what
    /// happened.
    async fn abort(mut self, session: &mut Session, failure: Failure) -> Result<FeedEnd, Failure> {
        session.cancel(END_WITHIN, |output| self.remains(output)).await;
        aborted(self.go_sent, self.unsealer.exit_status(), Proof::Acknowledged, failure)
    }

    /// Processes output which no longer decides anything. Returns whether it was the end.
    fn remains(&mut self, output: Output) -> bool {
        matches!(self.take(Some(Ok(output))), Err(_) | Ok(Some(_)))
    }
}

/// The data of the next item after `sent` bytes. `None` for a valid end, after exactly `size` bytes.
pub(super) fn data_of(piece: Option<StreamItem>, sent: u64, size: u64) -> Result<Option<Bytes>, Failure> {
    let mismatch = |bytes: u64| {
        let message = format!("the stored stream has {bytes} bytes, and {size} were announced; nothing was changed");
        Failure::new(Reason::StreamContradicted, message)
    };
    match piece {
        Some(StreamItem::Data(data)) => match sent.saturating_add(data.len() as u64) {
            bytes if bytes > size => Err(mismatch(bytes)),
            _ => Ok(Some(data)),
        },
        Some(StreamItem::End(end)) if end.bytes == size && sent == size => Ok(None),
        Some(StreamItem::End(_)) => Err(mismatch(sent)),
        Some(StreamItem::Broken(failure)) => Err(failure),
        None => Err(Failure::new(Reason::StreamCut, "the stored stream ended without its end marker")),
    }
}

/// The result of a restore which was aborted, from the command's exit status if it is known.
pub(super) fn aborted(go_sent: bool, status: Option<u16>, proof: Proof, failure: Failure) -> Result<FeedEnd, Failure> {
    match status {
        _ if !go_sent => Err(failure),
        Some(0) => Ok(FeedEnd { exit_code: 0, proof }),
        Some(_) => Err(failure),
        None => {
            let message = format!(
                "all input was sent, but it is not known how the command ended: check the restored data; {}",
                failure.message
            );
            Err(Failure::new(Reason::OutcomeUnknown, message))
        }
    }
}

fn verdict(status: u16) -> Result<FeedEnd, Failure> {
    failure_of(status).map_or(Ok(FeedEnd { exit_code: 0, proof: Proof::Acknowledged }), Err)
}

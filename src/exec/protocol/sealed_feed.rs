//! A restore by the helper: stream items become sealed frames, and `GO` is sent only when the helper has all of them.
//!
//! Before `GO`, no end of file makes the command commit anything. After it, only the helper's report of the command's
//! end shows what happened.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, FeedEnd, acknowledge, cut,
    dump::agrees,
    feed::{aborted, data_of},
    sealed::{Helper, HelperFrames, gave_up, not_sealed, unexpected_frame},
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{
        INPUT_LEFT, failure_of,
        sealed::{Frame, Outcome, Sealer, Window},
        status_of,
    },
    stream::StreamItem,
};

/// Feeds a helper which was greeted, as [`super::feed`] feeds a shell.
pub async fn feed_sealed(
    helper: Helper,
    size: u64,
    input: mpsc::Receiver<StreamItem>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let Helper { mut session, nonce, frames } = helper;
    let mut feeder = Feeder {
        size,
        frames,
        sealer: Sealer::new(&nonce, Window::RESTORE).map_err(not_sealed)?,
        wire: Vec::new(),
        whole: false,
        go_sent: false,
        ended: None,
        stdout: control.lines.splitter(LineSource::Stdout),
        stderr: control.lines.splitter(LineSource::Stderr),
        watch: Watch::start(control),
    };
    match feeder.run(&mut session, input).await {
        Ok(outcome) => feeder.finish(&mut session, outcome).await,
        Err(failure) => feeder.abort(&mut session, failure).await,
    }
}

struct Feeder<'a> {
    size: u64,
    frames: HelperFrames,
    sealer: Sealer,
    /// Encoded frames which are to be sent next.
    wire: Vec<u8>,
    /// Whether the input ended well, and its trailer was encoded.
    whole: bool,
    /// Whether `GO` was, or may have been, sent.
    go_sent: bool,
    /// The end of the command, as the helper reported it.
    ended: Option<Outcome>,
    stdout: Splitter,
    stderr: Splitter,
    watch: Watch<'a>,
}

impl Feeder<'_> {
    /// Runs until the helper reports how the command ended. Reads output while it sends, because a command which prints
    /// a lot while its input is full would otherwise block, and both sides would wait for ever.
    async fn run(&mut self, session: &mut Session, mut input: mpsc::Receiver<StreamItem>) -> Result<Outcome, Failure> {
        let sender = session.sender();
        loop {
            self.read()?;
            if let Some(outcome) = self.ended {
                return Ok(outcome);
            }
            let takes_input = self.wire.is_empty() && !self.whole && self.sealer.has_room();
            if takes_input {
                self.watch.command_is_not_idle();
            }
            let silence = self.frames.silence();
            tokio::select! {
                failure = self.watch.interruption() => return Err(failure),
                received = session.next() => self.receive(received)?,
                room = sender.reserve(), if !self.wire.is_empty() => {
                    let room = room.map_err(|_| cut(&SessionCut::input(), self.sealer.bytes()))?;
                    room.send(Input::Data(Bytes::from(std::mem::take(&mut self.wire))));
                    if !self.whole {
                        self.watch.moved(self.sealer.bytes());
                    }
                }
                piece = input.recv(), if takes_input => {
                    self.seal(piece)?;
                }
                () = self.frames.beat() => if self.wire.is_empty() {
                    self.sealer.encode(&Frame::Heartbeat, &mut self.wire);
                },
                failure = silence => return Err(failure),
            }
        }
    }

    /// Encodes the next item. The trailer is encoded only for a valid end.
    fn seal(&mut self, piece: Option<StreamItem>) -> Result<(), Failure> {
        match data_of(piece, self.sealer.bytes(), self.size)? {
            Some(data) => {
                self.sealer.push(&data, &mut self.wire).map_err(not_sealed)?;
                self.watch.moved(self.sealer.bytes());
            }
            None => {
                self.sealer.finish(Outcome::Exited(0), &mut self.wire).map_err(not_sealed)?;
                self.whole = true;
                self.watch.command_is_not_idle();
            }
        }
        Ok(())
    }

    fn receive(&mut self, received: Option<Result<Output, SessionCut>>) -> Result<(), Failure> {
        match received {
            Some(Ok(Output::Stdout(chunk))) => self.frames.push(&chunk),
            Some(Ok(Output::Stderr(chunk))) => self.stderr.push(&chunk),
            // The helper waits for `DONE`, so that it ends here only if another process ended it.
            Some(Ok(Output::Status(status))) => {
                let bytes = self.sealer.bytes();
                let message = format!("the helper ended before its last message, after {bytes} bytes: {status}");
                return Err(Failure::new(Reason::StreamCut, message));
            }
            Some(Err(error)) => return Err(cut(&error, self.sealer.bytes())),
            None => {
                let ended = SessionCut("the API server ended the connection".into());
                return Err(cut(&ended, self.sealer.bytes()));
            }
        }
        Ok(())
    }

    /// Processes the frames which the helper has sent.
    fn read(&mut self) -> Result<(), Failure> {
        while let Some(frame) = self.frames.next_frame()? {
            match frame {
                Frame::Acknowledge(consumed) => self.sealer.acknowledged(consumed).map_err(not_sealed)?,
                Frame::Stdout(text) => self.stdout.push(&text),
                Frame::Stderr(text) => self.stderr.push(&text),
                Frame::Got if self.whole && !self.go_sent => {
                    // Set before the attempt, because a failed attempt may still have reached the helper.
                    self.go_sent = true;
                    self.sealer.encode(&Frame::Go, &mut self.wire);
                }
                Frame::Ended(outcome) if self.ended.is_none() => {
                    self.ended = Some(outcome);
                    return Ok(());
                }
                Frame::Heartbeat => {}
                Frame::Fault(fault) => return Err(gave_up(fault)),
                _ => return Err(unexpected_frame()),
            }
        }
        Ok(())
    }

    /// Acknowledges the command's end, and returns the result.
    async fn finish(mut self, session: &mut Session, outcome: Outcome) -> Result<FeedEnd, Failure> {
        let status = match (status_of(outcome), self.go_sent) {
            (0, false) => INPUT_LEFT,
            (status, _) => status,
        };
        self.sealer.encode(&Frame::Done, &mut self.wire);
        let Self { wire, frames, stdout, stderr, .. } = &mut self;
        let acknowledged = acknowledge(session, Bytes::from(std::mem::take(wire)), |output| match output {
            Output::Status(reported) if status == 0 => agrees(status, &reported),
            Output::Status(_) => Ok(()),
            Output::Stdout(chunk) => {
                frames.push(&chunk);
                // The outcome is known. Processes which the command left behind may still print.
                while let Ok(Some(frame)) = frames.next_frame() {
                    match frame {
                        Frame::Stdout(text) => stdout.push(&text),
                        Frame::Stderr(text) => stderr.push(&text),
                        _ => {}
                    }
                }
                Ok(())
            }
            Output::Stderr(data) => {
                stderr.push(&data);
                Ok(())
            }
        });
        let acknowledged = acknowledged.await;
        failure_of(status).map_or(Ok(()), Err)?;
        acknowledged?;
        Ok(FeedEnd { exit_code: 0, proof: Proof::Sealed })
    }

    /// Cancels the session, so that the helper ends the command. After `GO`, only the helper's report of the command's
    /// end shows what happened.
    async fn abort(mut self, session: &mut Session, failure: Failure) -> Result<FeedEnd, Failure> {
        session
            .cancel(END_WITHIN, |output| match output {
                Output::Status(_) => true,
                output => {
                    let processed = self.receive(Some(Ok(output))).and_then(|()| self.read());
                    // After `ENDED` nothing that the helper sends decides anything.
                    processed.is_err() && self.ended.is_some()
                }
            })
            .await;
        aborted(self.go_sent, self.ended.map(status_of), Proof::Sealed, failure)
    }
}

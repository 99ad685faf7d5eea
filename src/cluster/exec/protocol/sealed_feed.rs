//! A restore by the helper: pieces become sealed frames, and the word to go is said only when the helper has them all.
//!
//! It must not know where the pieces come from. Until the word to go nothing is committed by an end of file; after it, only
//! the helper's word on the command's end tells.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, FeedEnd, acknowledge, cut,
    dump::agrees,
    feed::{aborted, data_of},
    sealed::{Helper, Words, gave_up, not_sealed, out_of_place},
};
use crate::{
    model::{Failure, Proof, Reason},
    seal::{
        INPUT_LEFT, failure_of,
        sealed::{Frame, Outcome, Sealer, Window},
        status_of,
    },
    stream::Piece,
};

/// Feeds a helper that was greeted with `restore`, as [`super::feed`] does with a shell.
pub async fn feed_sealed(
    helper: Helper,
    size: u64,
    input: mpsc::Receiver<Piece>,
    control: &Control,
) -> Result<FeedEnd, Failure> {
    let Helper { mut session, nonce, words } = helper;
    let mut feeder = Feeder {
        size,
        words,
        sealer: Sealer::new(&nonce, Window::RESTORE).map_err(not_sealed)?,
        wire: Vec::new(),
        whole: false,
        gone: false,
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
    words: Words,
    sealer: Sealer,
    /// What is to be said next.
    wire: Vec<u8>,
    /// The input ended well, and its trailer was made.
    whole: bool,
    /// The word to go was, or may have been, said.
    gone: bool,
    /// How the helper says that the command ended.
    ended: Option<Outcome>,
    stdout: Splitter,
    stderr: Splitter,
    watch: Watch<'a>,
}

impl Feeder<'_> {
    /// Until the helper says how the command ended. Listens while it sends: a command that talks a lot while its input is
    /// full must be heard, or both sides wait for ever.
    async fn run(&mut self, session: &mut Session, mut input: mpsc::Receiver<Piece>) -> Result<Outcome, Failure> {
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
            let silence = self.words.silence();
            tokio::select! {
                failure = self.watch.interruption() => return Err(failure),
                heard = session.next() => self.hear(heard)?,
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
                () = self.words.beat() => if self.wire.is_empty() {
                    self.sealer.say(&Frame::Heartbeat, &mut self.wire);
                },
                failure = silence => return Err(failure),
            }
        }
    }

    /// Makes frames of the next piece; the trailer only for an end that is right.
    fn seal(&mut self, piece: Option<Piece>) -> Result<(), Failure> {
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

    fn hear(&mut self, heard: Option<Result<Output, SessionCut>>) -> Result<(), Failure> {
        match heard {
            Some(Ok(Output::Stdout(chunk))) => self.words.push(&chunk),
            Some(Ok(Output::Stderr(chunk))) => self.stderr.push(&chunk),
            // It waits for our last word, so it ends by itself only if somebody ended it.
            Some(Ok(Output::Status(said))) => {
                let bytes = self.sealer.bytes();
                let message = format!("the helper ended before its last word, after {bytes} bytes: {said}");
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

    /// Takes in what the helper has said.
    fn read(&mut self) -> Result<(), Failure> {
        while let Some(frame) = self.words.next_frame()? {
            match frame {
                Frame::Acknowledge(consumed) => self.sealer.acknowledged(consumed).map_err(not_sealed)?,
                Frame::Said(said) => self.stdout.push(&said),
                Frame::Stderr(said) => self.stderr.push(&said),
                Frame::Got if self.whole && !self.gone => {
                    // From the attempt on, since an attempt that fails may have reached the other side.
                    self.gone = true;
                    self.sealer.say(&Frame::Go, &mut self.wire);
                }
                Frame::Ended(outcome) if self.ended.is_none() => {
                    self.ended = Some(outcome);
                    return Ok(());
                }
                Frame::Heartbeat => {}
                Frame::Fault(fault) => return Err(gave_up(fault)),
                _ => return Err(out_of_place()),
            }
        }
        Ok(())
    }

    /// After the command's end: acknowledges it, and says what it means.
    async fn finish(mut self, session: &mut Session, outcome: Outcome) -> Result<FeedEnd, Failure> {
        let status = match (status_of(outcome), self.gone) {
            (0, false) => INPUT_LEFT,
            (status, _) => status,
        };
        self.sealer.say(&Frame::Done, &mut self.wire);
        let Self { wire, words, stdout, stderr, .. } = &mut self;
        let acknowledged = acknowledge(session, Bytes::from(std::mem::take(wire)), |output| match output {
            Output::Status(said) if status == 0 => agrees(status, &said),
            Output::Status(_) => Ok(()),
            Output::Stdout(chunk) => {
                words.push(&chunk);
                // The outcome is known; who is left of the command's family may go on talking.
                while let Ok(Some(frame)) = words.next_frame() {
                    match frame {
                        Frame::Said(said) => stdout.push(&said),
                        Frame::Stderr(said) => stderr.push(&said),
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

    /// Makes the helper end the command. Once the word to go was said, only its word on that tells what happened.
    async fn abort(mut self, session: &mut Session, failure: Failure) -> Result<FeedEnd, Failure> {
        session
            .cancel(END_WITHIN, |output| match output {
                Output::Status(_) => true,
                output => {
                    let heard = self.hear(Some(Ok(output))).and_then(|()| self.read());
                    // After its last word it has nothing to say that decides anything.
                    heard.is_err() && self.ended.is_some()
                }
            })
            .await;
        aborted(self.gone, self.ended.map(status_of), Proof::Sealed, failure)
    }
}

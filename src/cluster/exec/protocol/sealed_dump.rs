//! A dump by the helper: its frames become pieces, and an end only if count, digest and exit status are as it sealed them.
//!
//! It must not know where the pieces go; a receiver that does not take them makes the command wait, and the helper hears
//! our heartbeat meanwhile.

use bytes::{Bytes, BytesMut};

use super::{
    super::{Control, LineSource, Output, Session, lines::Splitter, watch::Watch},
    DumpEnd, END_WITHIN, acknowledge, broken, cut,
    dump::{PIECE, agrees, ended, hand_over_end, not_taken},
    sealed::{Helper, Words, gave_up, not_as_sealed, only_heartbeats, out_of_place, say, say_if_room},
};
use crate::{
    model::{Failure, Proof},
    seal::{
        failure_of,
        sealed::{Frame, FrameEncoder, Opener, Trailer, Window},
        status_of,
    },
    stream::{Piece, PieceSender},
};

/// Takes the stream of a helper that was greeted, and hands it over.
pub async fn dump_sealed(helper: Helper, control: &Control, pieces: &PieceSender) -> Result<DumpEnd, Failure> {
    let Helper { mut session, nonce, words } = helper;
    let opener = match Opener::new(Window::DUMP) {
        Ok(opener) => opener,
        Err(error) => return Err(broken(pieces, not_as_sealed(error)).await),
    };
    let mut receiver = Receiver {
        words,
        opener,
        ours: FrameEncoder::new(&nonce),
        stderr: control.lines.splitter(LineSource::Stderr),
        watch: Watch::start(control),
        pieces,
    };
    match receiver.run(&mut session).await {
        Ok(end) => {
            drop(receiver);
            hand_over_end(control, pieces, end).await
        }
        Err(failure) => {
            let Receiver { words, stderr, .. } = &mut receiver;
            session
                .cancel(END_WITHIN, |output| match output {
                    Output::Stdout(chunk) => {
                        words.push(&chunk);
                        while let Ok(Some(frame)) = words.next_frame() {
                            if let Frame::Stderr(said) = frame {
                                stderr.push(&said);
                            }
                        }
                        false
                    }
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
    words: Words,
    opener: Opener,
    ours: FrameEncoder,
    stderr: Splitter,
    watch: Watch<'a>,
    pieces: &'a PieceSender,
}

impl Receiver<'_> {
    async fn run(&mut self, session: &mut Session) -> Result<DumpEnd, Failure> {
        let trailer = self.data(session).await?;
        self.opener.verify(&trailer).map_err(not_as_sealed)?;
        // What came together with it.
        only_heartbeats(&mut self.words, &[])?;
        let status = status_of(trailer.outcome);
        let mut word = Vec::new();
        self.ours.encode(&Frame::Done, &mut word);
        let Self { words, stderr, .. } = self;
        let acknowledged = acknowledge(session, Bytes::from(word), |output| match output {
            Output::Stderr(data) => {
                stderr.push(&data);
                Ok(())
            }
            Output::Stdout(chunk) => only_heartbeats(words, &chunk),
            Output::Status(said) => agrees(status, &said),
        });
        // The command's own failure says more than what its remains did to the stream.
        let acknowledged = acknowledged.await;
        failure_of(status).map_or(Ok(()), Err)?;
        acknowledged?;
        Ok(DumpEnd { proof: Proof::Sealed, bytes: trailer.bytes, exit_code: 0 })
    }

    /// Until the trailer.
    async fn data(&mut self, session: &mut Session) -> Result<Trailer, Failure> {
        loop {
            while let Some(frame) = self.words.next_frame()? {
                match frame {
                    Frame::Data(payload) => self.open(session, payload).await?,
                    Frame::Trailer(trailer) => return Ok(trailer),
                    // A fault follows, or the end of the connection.
                    Frame::Heartbeat | Frame::Ended(_) => {}
                    Frame::Stderr(said) => self.stderr.push(&said),
                    Frame::Fault(fault) => return Err(gave_up(fault)),
                    _ => return Err(out_of_place()),
                }
            }
            let silence = self.words.silence();
            let sender = session.sender();
            let heard = tokio::select! {
                biased;
                failure = self.watch.interruption() => return Err(failure),
                heard = session.next() => heard,
                () = self.words.beat() => {
                    say_if_room(&sender, |wire| self.ours.encode(&Frame::Heartbeat, wire));
                    continue;
                }
                failure = silence => return Err(failure),
            };
            match heard {
                Some(Ok(Output::Stdout(chunk))) => self.words.push(&chunk),
                Some(Ok(Output::Stderr(data))) => self.stderr.push(&data),
                // It waits for our last word, so it ends by itself only if somebody ended it.
                Some(Ok(Output::Status(said))) => return Err(ended(self.opener.bytes(), Some(&said))),
                Some(Err(error)) => return Err(cut(&error, self.opener.bytes())),
                None => return Err(ended(self.opener.bytes(), None)),
            }
        }
    }

    /// Hands over what is in one frame, and acknowledges it when that is due.
    async fn open(&mut self, session: &Session, payload: Bytes) -> Result<(), Failure> {
        self.opener.take(payload).map_err(not_as_sealed)?;
        loop {
            let mut piece = BytesMut::zeroed(PIECE);
            let length = self.opener.pull(&mut piece).map_err(not_as_sealed)?;
            if length == 0 {
                break;
            }
            piece.truncate(length);
            self.hand_over(session, piece.freeze()).await?;
        }
        self.words.listen_from_now();
        let Some(consumed) = self.opener.due() else { return Ok(()) };
        let mut wire = Vec::new();
        self.ours.encode(&Frame::Acknowledge(consumed), &mut wire);
        let said = self.watch.unless_interrupted(say(session, &mut wire)).await?;
        said.map_err(|error| cut(&error, self.opener.bytes()))
    }

    /// However long the store takes, the helper hears that we are there.
    async fn hand_over(&mut self, session: &Session, piece: Bytes) -> Result<(), Failure> {
        self.watch.command_is_not_idle();
        let sender = session.sender();
        let handing = self.pieces.send(Piece::Data(piece));
        tokio::pin!(handing);
        loop {
            tokio::select! {
                biased;
                failure = self.watch.interruption() => return Err(failure),
                handed = &mut handing => {
                    handed.map_err(|_| not_taken())?;
                    self.watch.moved(self.opener.bytes());
                    return Ok(());
                }
                () = self.words.beat() => say_if_room(&sender, |wire| self.ours.encode(&Frame::Heartbeat, wire)),
            }
        }
    }
}

//! A dump by the helper: its frames become stream items, with an end only if count, digest and exit status match the
//! helper's trailer. A slow receiver makes the command wait; meanwhile the helper receives heartbeats.

use bytes::{Bytes, BytesMut};

use super::{
    super::{Control, LineSource, Output, Session, lines::Splitter, watch::Watch},
    DumpEnd, END_WITHIN, acknowledge, broken, cut,
    dump::{PIECE, agrees, ended, hand_over_end, not_taken},
    sealed::{Helper, HelperFrames, gave_up, not_as_sealed, only_heartbeats, send, send_if_room, unexpected_frame},
};
use crate::{
    model::{Failure, Proof},
    seal::{
        failure_of,
        sealed::{Frame, FrameEncoder, Opener, Trailer, Window},
        status_of,
    },
    stream::{StreamItem, StreamSender},
};

/// Receives the stream of a helper which was greeted, and sends it to `pieces`.
pub async fn dump_sealed(helper: Helper, control: &Control, pieces: &StreamSender) -> Result<DumpEnd, Failure> {
    let Helper { mut session, nonce, frames } = helper;
    let opener = match Opener::new(Window::DUMP) {
        Ok(opener) => opener,
        Err(error) => return Err(broken(pieces, not_as_sealed(error)).await),
    };
    let mut receiver = Receiver {
        frames,
        opener,
        encoder: FrameEncoder::new(&nonce),
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
            let Receiver { frames, stderr, .. } = &mut receiver;
            session
                .cancel(END_WITHIN, |output| match output {
                    Output::Stdout(chunk) => {
                        frames.push(&chunk);
                        while let Ok(Some(frame)) = frames.next_frame() {
                            if let Frame::Stderr(text) = frame {
                                stderr.push(&text);
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
    frames: HelperFrames,
    opener: Opener,
    encoder: FrameEncoder,
    stderr: Splitter,
    watch: Watch<'a>,
    pieces: &'a StreamSender,
}

impl Receiver<'_> {
    async fn run(&mut self, session: &mut Session) -> Result<DumpEnd, Failure> {
        let trailer = self.data(session).await?;
        self.opener.verify(&trailer).map_err(not_as_sealed)?;
        // Frames which arrived together with the trailer.
        only_heartbeats(&mut self.frames, &[])?;
        let status = status_of(trailer.outcome);
        let mut done = Vec::new();
        self.encoder.encode(&Frame::Done, &mut done);
        let Self { frames, stderr, .. } = self;
        let acknowledged = acknowledge(session, Bytes::from(done), |output| match output {
            Output::Stderr(data) => {
                stderr.push(&data);
                Ok(())
            }
            Output::Stdout(chunk) => only_heartbeats(frames, &chunk),
            Output::Status(reported) => agrees(status, &reported),
        });
        // The command's own failure takes precedence over what its remaining processes did to the stream.
        let acknowledged = acknowledged.await;
        failure_of(status).map_or(Ok(()), Err)?;
        acknowledged?;
        Ok(DumpEnd { proof: Proof::Sealed, bytes: trailer.bytes, exit_code: 0 })
    }

    /// Receives data until the trailer.
    async fn data(&mut self, session: &mut Session) -> Result<Trailer, Failure> {
        loop {
            while let Some(frame) = self.frames.next_frame()? {
                match frame {
                    Frame::Data(payload) => self.open(session, payload).await?,
                    Frame::Trailer(trailer) => return Ok(trailer),
                    // After `Ended`, a fault or the end of the connection follows.
                    Frame::Heartbeat | Frame::Ended(_) => {}
                    Frame::Stderr(text) => self.stderr.push(&text),
                    Frame::Fault(fault) => return Err(gave_up(fault)),
                    _ => return Err(unexpected_frame()),
                }
            }
            let silence = self.frames.silence();
            let sender = session.sender();
            let received = tokio::select! {
                biased;
                failure = self.watch.interruption() => return Err(failure),
                received = session.next() => received,
                () = self.frames.beat() => {
                    send_if_room(&sender, |wire| self.encoder.encode(&Frame::Heartbeat, wire));
                    continue;
                }
                failure = silence => return Err(failure),
            };
            match received {
                Some(Ok(Output::Stdout(chunk))) => self.frames.push(&chunk),
                Some(Ok(Output::Stderr(data))) => self.stderr.push(&data),
                // The helper waits for `DONE`, so that it ends here only if another process ended it.
                Some(Ok(Output::Status(status))) => return Err(ended(self.opener.bytes(), Some(&status))),
                Some(Err(error)) => return Err(cut(&error, self.opener.bytes())),
                None => return Err(ended(self.opener.bytes(), None)),
            }
        }
    }

    /// Sends the content of one frame to the receiver, and acknowledges it when that is due.
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
        self.frames.listen_from_now();
        let Some(consumed) = self.opener.due() else { return Ok(()) };
        let mut wire = Vec::new();
        self.encoder.encode(&Frame::Acknowledge(consumed), &mut wire);
        let sent = self.watch.unless_interrupted(send(session, &mut wire)).await?;
        sent.map_err(|error| cut(&error, self.opener.bytes()))
    }

    /// Sends a data item to the receiver. While the receiver is slow, the helper receives heartbeats.
    async fn hand_over(&mut self, session: &Session, piece: Bytes) -> Result<(), Failure> {
        self.watch.command_is_not_idle();
        let sender = session.sender();
        let handing = self.pieces.send(StreamItem::Data(piece));
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
                () = self.frames.beat() => send_if_room(&sender, |wire| self.encoder.encode(&Frame::Heartbeat, wire)),
            }
        }
    }
}

//! The helper on the other side of a session: its greeting, the frames of both directions, and the heartbeats.

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, READY_WITHIN, cut, receive,
};
use crate::{
    model::{Failure, Reason},
    seal::{
        HELD_OPEN, Nonce, failure_of,
        sealed::{
            Answer, Fault, Frame, FrameDecoder, FrameError, MAX_LINE, OpenError, SealError, VERSION, hello,
            parse_answer,
        },
    },
};

/// The interval of heartbeats. The helper ends its command after two minutes without a frame of this side, and this
/// side ends after two minutes without a frame of the helper.
const BEAT_EVERY: Duration = Duration::from_secs(10);
const SILENT_FOR: Duration = Duration::from_mins(2);

/// The result of greeting a helper.
pub enum Greeting {
    /// A helper with the same protocol version. It starts the command now.
    Ready(Helper),
    /// There is no such helper. Nothing ran, so that another mode may follow.
    NothingRan {
        /// The message of the container's runtime or of the helper, for users.
        why: String,
    },
}

/// A helper which was greeted, and its frames which were not processed yet.
pub struct Helper {
    pub(super) session: Session,
    pub(super) nonce: Nonce,
    pub(super) frames: HelperFrames,
}

/// Greets the program on the other side of the session, which was started with a command line of
/// `seal::ExecMode::Helper`.
pub async fn greet(mut session: Session, nonce: &Nonce, control: &Control) -> Result<Greeting, Failure> {
    let answer = {
        let mut stderr = control.lines.splitter(LineSource::Stderr);
        let watch = Watch::start(control);
        tokio::select! {
            answer = answer(&mut session, nonce, &watch, &mut stderr) => answer,
            () = sleep(READY_WITHIN) => {
                let message = format!("the helper did not answer within {} seconds", READY_WITHIN.as_secs());
                Err(Failure::new(Reason::StreamCut, message))
            }
        }
    };
    let why = match answer {
        Ok(Ok(rest)) => {
            let mut decoder = FrameDecoder::new(nonce);
            decoder.push(&rest);
            let frames = HelperFrames { decoder, beat: beat(), received: Instant::now() };
            return Ok(Greeting::Ready(Helper { session, nonce: nonce.clone(), frames }));
        }
        Ok(Err(why)) => Ok(Greeting::NothingRan { why }),
        Err(failure) => Err(failure),
    };
    session.cancel(END_WITHIN, |output| matches!(output, Output::Status(_))).await;
    why
}

/// Returns the bytes after the line which reports that the helper is ready, or the reason why there is no helper.
async fn answer(
    session: &mut Session,
    nonce: &Nonce,
    watch: &Watch<'_>,
    stderr: &mut Splitter,
) -> Result<Result<Vec<u8>, String>, Failure> {
    let sent = watch.unless_interrupted(session.send(Input::Data(hello(nonce)))).await?;
    sent.map_err(|error| cut(&error, 0))?;
    let mut held = Vec::new();
    loop {
        match receive(session, watch, None).await? {
            Some(Ok(Output::Stdout(chunk))) => held.extend_from_slice(&chunk),
            Some(Ok(Output::Stderr(chunk))) => stderr.push(&chunk),
            Some(Ok(Output::Status(status))) => return Ok(Err(status.to_string())),
            Some(Err(error)) => return Err(cut(&error, 0)),
            None => return Err(cut(&SessionCut("the API server ended the connection".into()), 0)),
        }
        let end = held.iter().position(|byte| *byte == b'\n');
        if end.is_none() && held.len() < MAX_LINE {
            continue;
        }
        let line = &held[..end.unwrap_or_default()];
        return Ok(match parse_answer(nonce, line) {
            Some(Answer::Ready) => Ok(held.split_off(line.len() + 1)),
            Some(Answer::Speaks(version)) => Err(format!(
                "the helper in the pod speaks version {version} of the protocol, and Stowaway speaks {VERSION}"
            )),
            None => Err("the program at the helper's path is not Stowaway's helper".to_owned()),
        });
    }
}

fn beat() -> Interval {
    let mut beat = interval_at(Instant::now() + BEAT_EVERY, BEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// The decoder of the helper's frames, and the heartbeat clocks of both sides.
pub(super) struct HelperFrames {
    decoder: FrameDecoder,
    beat: Interval,
    received: Instant,
}

impl HelperFrames {
    /// Takes bytes of the helper's stdout.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.decoder.push(chunk);
    }

    /// The next frame of the pushed bytes.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Failure> {
        let frame = self.decoder.next_frame().map_err(changed)?;
        if frame.is_some() {
            self.received = Instant::now();
        }
        Ok(frame)
    }

    /// Restarts the clock of [`Self::silence`], because this side did not read until now.
    pub(super) fn listen_from_now(&mut self) {
        self.received = Instant::now();
    }

    /// Completes when the next heartbeat is due.
    pub(super) async fn beat(&mut self) {
        self.beat.tick().await;
    }

    /// Completes only if the helper has sent nothing for too long.
    pub(super) fn silence(&self) -> impl Future<Output = Failure> + use<> {
        let until = self.received + SILENT_FOR;
        async move {
            sleep_until(until).await;
            let message = format!("the helper sent nothing for {} seconds", SILENT_FOR.as_secs());
            Failure::new(Reason::StreamCut, message)
        }
    }
}

/// Sends the content of `wire`, waiting for room.
pub(super) async fn send(session: &Session, wire: &mut Vec<u8>) -> Result<(), SessionCut> {
    session.send(Input::Data(Bytes::from(std::mem::take(wire)))).await
}

/// Sends a frame if there is room now. `make` is called only in that case, because frames are numbered.
pub(super) fn send_if_room(sender: &mpsc::Sender<Input>, make: impl FnOnce(&mut Vec<u8>)) {
    if let Ok(room) = sender.try_reserve() {
        let mut wire = Vec::new();
        make(&mut wire);
        room.send(Input::Data(Bytes::from(wire)));
    }
}

/// Processes output after the trailer. Any frame other than a heartbeat contradicts the trailer.
pub(super) fn only_heartbeats(frames: &mut HelperFrames, chunk: &[u8]) -> Result<(), Failure> {
    frames.push(chunk);
    while let Some(frame) = frames.next_frame()? {
        match frame {
            Frame::Heartbeat => {}
            Frame::Fault(fault) => return Err(gave_up(fault)),
            _ => return Err(unexpected_frame()),
        }
    }
    Ok(())
}

pub(super) fn changed(error: FrameError) -> Failure {
    Failure::new(Reason::StreamContradicted, format!("the helper's stream was damaged in transit: {error}"))
}

#[allow(clippy::needless_pass_by_value, reason = "to be given to map_err")]
pub(super) fn not_as_sealed(error: OpenError) -> Failure {
    Failure::new(Reason::StreamContradicted, error.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "to be given to map_err")]
pub(super) fn not_sealed(error: SealError) -> Failure {
    let reason = match error {
        SealError::Compression(_) => Reason::InternalError,
        SealError::Acknowledged { .. } => Reason::StreamContradicted,
    };
    Failure::new(reason, error.to_string())
}

pub(super) fn unexpected_frame() -> Failure {
    Failure::new(Reason::StreamContradicted, "the helper sent an unexpected frame")
}

/// The failure for a fault which the helper reported.
pub(super) fn gave_up(fault: Fault) -> Failure {
    if fault == Fault::HeldOpen
        && let Some(failure) = failure_of(HELD_OPEN)
    {
        return failure;
    }
    let (reason, why) = match fault {
        Fault::Corrupt => (Reason::StreamContradicted, "the data which it received was damaged in transit"),
        Fault::Silence => (Reason::StreamCut, "it received nothing from Stowaway for too long"),
        Fault::Cancelled => (Reason::StreamCut, "it was cancelled"),
        Fault::Continued => (
            Reason::StreamContradicted,
            "the stream continued after its end: the command left a background process behind that writes to stdout",
        ),
        // `HeldOpen` has a failure of its own, see above.
        Fault::HeldOpen | Fault::Internal => (Reason::InternalError, "it failed; see the lines of stderr"),
    };
    Failure::new(reason, format!("the helper gave up: {why}"))
}

//! The helper on the other side of a session: its greeting, its frames, and ours, with a heartbeat while we wait.
//!
//! It must not know which way the data goes.

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    super::{Control, Input, LineSource, Output, Session, SessionCut, lines::Splitter, watch::Watch},
    END_WITHIN, READY_WITHIN, cut, hear,
};
use crate::{
    model::{Failure, Reason},
    seal::{
        HELD_OPEN, Nonce, failure_of,
        sealed::{
            Answer, Fault, Frame, FrameDecoder, FrameError, LONGEST_LINE, OpenError, SealError, VERSION, hello,
            parse_answer,
        },
    },
};

/// The helper ends its command after two minutes without a word of ours; so do we without one of its.
const BEAT_EVERY: Duration = Duration::from_secs(10);
const SILENT_FOR: Duration = Duration::from_mins(2);

/// What answered.
pub enum Greeting {
    /// A helper that speaks our version; it starts the command now.
    Ready(Helper),
    /// None that does. Nothing ran, so another way may follow.
    NothingRan {
        /// What the container's runtime or the helper said, for people.
        why: String,
    },
}

/// A helper that was greeted, and what of its words nobody has looked at yet.
pub struct Helper {
    pub(super) session: Session,
    pub(super) nonce: Nonce,
    pub(super) words: Words,
}

/// Greets what runs on the other side of the session, which was started with a command line of `seal::Way::Helper`.
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
            let mut frames = FrameDecoder::new(nonce);
            frames.push(&rest);
            let words = Words { frames, beat: beat(), heard: Instant::now() };
            return Ok(Greeting::Ready(Helper { session, nonce: nonce.clone(), words }));
        }
        Ok(Err(why)) => Ok(Greeting::NothingRan { why }),
        Err(failure) => Err(failure),
    };
    session.cancel(END_WITHIN, |output| matches!(output, Output::Status(_))).await;
    why
}

/// What follows the word that the helper is ready; or why it will not be.
async fn answer(
    session: &mut Session,
    nonce: &Nonce,
    watch: &Watch<'_>,
    stderr: &mut Splitter,
) -> Result<Result<Vec<u8>, String>, Failure> {
    let said = watch.unless_interrupted(session.say(Input::Data(hello(nonce)))).await?;
    said.map_err(|error| cut(&error, 0))?;
    let mut held = Vec::new();
    loop {
        match hear(session, watch, None).await? {
            Some(Ok(Output::Stdout(chunk))) => held.extend_from_slice(&chunk),
            Some(Ok(Output::Stderr(chunk))) => stderr.push(&chunk),
            Some(Ok(Output::Status(status))) => return Ok(Err(status.to_string())),
            Some(Err(error)) => return Err(cut(&error, 0)),
            None => return Err(cut(&SessionCut("the API server ended the connection".into()), 0)),
        }
        let end = held.iter().position(|byte| *byte == b'\n');
        if end.is_none() && held.len() < LONGEST_LINE {
            continue;
        }
        let line = &held[..end.unwrap_or_default()];
        return Ok(match parse_answer(nonce, line) {
            Some(Answer::Ready) => Ok(held.split_off(line.len() + 1)),
            Some(Answer::Speaks(version)) => {
                Err(format!("the helper in the pod speaks version {version} of the protocol, and we speak {VERSION}"))
            }
            None => Err("what is in the helper's place is none of ours".to_owned()),
        });
    }
}

fn beat() -> Interval {
    let mut beat = interval_at(Instant::now() + BEAT_EVERY, BEAT_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// What the helper says, as frames, and the clocks of both sides.
pub(super) struct Words {
    frames: FrameDecoder,
    beat: Interval,
    heard: Instant,
}

impl Words {
    /// Takes bytes of the helper's stdout.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.frames.push(chunk);
    }

    /// The next frame of what was pushed.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, Failure> {
        let frame = self.frames.next_frame().map_err(changed)?;
        if frame.is_some() {
            self.heard = Instant::now();
        }
        Ok(frame)
    }

    /// We did not listen until now, so silence begins now.
    pub(super) fn listen_from_now(&mut self) {
        self.heard = Instant::now();
    }

    /// When it is time for a heartbeat.
    pub(super) async fn beat(&mut self) {
        self.beat.tick().await;
    }

    /// Ends only if the helper has said nothing for too long.
    pub(super) fn silence(&self) -> impl Future<Output = Failure> + use<> {
        let until = self.heard + SILENT_FOR;
        async move {
            sleep_until(until).await;
            let message = format!("the helper said nothing for {} seconds", SILENT_FOR.as_secs());
            Failure::new(Reason::StreamCut, message)
        }
    }
}

/// Says what waits in `wire` as soon as there is room.
pub(super) async fn say(session: &Session, wire: &mut Vec<u8>) -> Result<(), SessionCut> {
    session.say(Input::Data(Bytes::from(std::mem::take(wire)))).await
}

/// Says it if there is room right now; `make` is called only then, since frames are numbered.
pub(super) fn say_if_room(sender: &mpsc::Sender<Input>, make: impl FnOnce(&mut Vec<u8>)) {
    if let Ok(room) = sender.try_reserve() {
        let mut wire = Vec::new();
        make(&mut wire);
        room.send(Input::Data(Bytes::from(wire)));
    }
}

/// Takes what came after the trailer; something other than a heartbeat contradicts that.
pub(super) fn only_heartbeats(words: &mut Words, chunk: &[u8]) -> Result<(), Failure> {
    words.push(chunk);
    while let Some(frame) = words.next_frame()? {
        match frame {
            Frame::Heartbeat => {}
            Frame::Fault(fault) => return Err(gave_up(fault)),
            _ => return Err(out_of_place()),
        }
    }
    Ok(())
}

pub(super) fn changed(error: FrameError) -> Failure {
    Failure::new(Reason::StreamContradicted, format!("the helper's stream was damaged on its way: {error}"))
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

pub(super) fn out_of_place() -> Failure {
    Failure::new(Reason::StreamContradicted, "the helper said something that has no place there")
}

/// Why a helper gave up by itself.
pub(super) fn gave_up(fault: Fault) -> Failure {
    if fault == Fault::HeldOpen
        && let Some(failure) = failure_of(HELD_OPEN)
    {
        return failure;
    }
    let (reason, why) = match fault {
        Fault::Corrupt => (Reason::StreamContradicted, "what it received was damaged on its way"),
        Fault::Silence => (Reason::StreamCut, "it heard nothing from us for too long"),
        Fault::Cancelled => (Reason::StreamCut, "it was asked to end"),
        Fault::WentOn => (
            Reason::StreamContradicted,
            "the stream went on after its end: the command left a background process behind that writes to stdout",
        ),
        // The former has a failure of its own.
        Fault::HeldOpen | Fault::Internal => (Reason::InternalError, "it failed; see the lines of stderr"),
    };
    Failure::new(reason, format!("the helper gave up: {why}"))
}

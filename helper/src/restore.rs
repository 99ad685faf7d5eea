//! A restore: a sealed stream, opened into the command's stdin, whose end the command sees only when told so.
//!
//! It must not know where the stream comes from. Whatever breaks before the word to go, [`Input`] kills the command and all
//! that it started before it lets go of the pipe.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use bytes::Bytes;
use rustix::event::PollFlags;
use stowaway_seal::{
    Answer, Fault, Frame, FrameEncoder, MAXIMUM_PAYLOAD, Nonce, OpenError, Opener, Outcome, Trailer, Window,
};

use crate::{
    arguments::{Job, Patience},
    command,
    descriptors::{self, Moved},
    input::Input,
    link::{Heard, Link, Pipes},
    peer::Peer,
    signals::Signals,
    stderr::Stderrs,
};

const PIECE: usize = 64 * 1024;
/// How long last words may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The exit status without a holder. Our parent is process 1 then, and a database server that is process 1 (`PostgreSQL`)
/// takes any but 0 and 1 for the crash of a child of its own.
const LEFT_ALONE: u8 = 1;

/// Runs the job to its end; gives the exit status of this program.
pub fn run(
    mut peer: Peer,
    nonce: &Nonce,
    job: &Job,
    signals: &Signals,
    (link, pipes): (Link, Pipes),
) -> io::Result<u8> {
    let frames = FrameEncoder::new(nonce);
    let stderr = Stderrs::of(job)?;
    let opener = Opener::new(Window::RESTORE).map_err(io::Error::other)?;
    let Pipes { input, output, errors } = pipes;
    let stdin = input.reader.try_clone()?;
    peer.wire().extend_from_slice(&Answer::Ready.line(nonce));
    let mut restore = Restore {
        link,
        is_alone: false,
        input: None,
        stdout: None,
        stderr,
        frames,
        opener,
        peer,
        patience: job.patience,
        queue: VecDeque::new(),
        queued: 0,
        piece: vec![0; PIECE],
        begin: 0,
        end: 0,
        trailer: None,
        verified: false,
        ended: None,
        said_ended: false,
        unsaid: 0,
    };
    match command::start(job, stdin.into(), output.writer, errors.writer) {
        Ok(leader) => {
            restore.input = Some(Input::of(leader, input));
            restore.stdout = Some(output.reader);
            restore.stderr.attach(errors.reader);
        }
        Err((outcome, said)) => {
            restore.stderr.say(said.as_bytes());
            restore.ended = Some(outcome);
        }
    }
    let fault = restore.pump(signals);
    Ok(restore.leave(fault))
}

struct Restore {
    /// To the holder, which has the command's pipes as well.
    link: Link,
    /// The holder is gone.
    is_alone: bool,
    /// Nothing for a command that could not be started.
    input: Option<Input>,
    stdout: Option<OwnedFd>,
    stderr: Stderrs,
    frames: FrameEncoder,
    opener: Opener,
    peer: Peer,
    patience: Patience,
    /// Data that waits for the command; as much as the window lets through.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// What is being written: the part from `begin` to `end`.
    piece: Vec<u8>,
    begin: usize,
    end: usize,
    trailer: Option<Trailer>,
    /// All input was as sealed, and is in the pipe.
    verified: bool,
    ended: Option<Outcome>,
    said_ended: bool,
    /// Bytes of the command's stdout that nobody took in time.
    unsaid: u64,
}

impl Restore {
    /// Until how it ended is acknowledged, or something breaks.
    fn pump(&mut self, signals: &Signals) -> Option<Fault> {
        loop {
            if signals.take() {
                return Some(Fault::Cancelled);
            }
            if let Some(input) = self.input.as_mut().filter(|_| self.ended.is_none()) {
                self.ended = input.outcome();
            }
            if self.peer.is_silent() {
                return Some(Fault::Silence);
            }
            if self.peer.is_beat_due() {
                self.frames.encode(&Frame::Heartbeat, self.peer.wire());
            }
            if self.pour().is_err() {
                return Some(Fault::Corrupt);
            }
            self.say_when_ended();
            self.say_stderr();
            if !self.peer.write() {
                return Some(Fault::Cancelled);
            }
            let [words, room, data, stderr, reader, holder, ..] = {
                let [words, room] = self.peer.wanted();
                let [stderr, reader] = self.stderr.wanted();
                let data = self.stdout.as_ref().map(|stdout| (stdout.as_fd(), PollFlags::IN));
                let signal = Some((signals.descriptor(), PollFlags::IN));
                let is_full = self.begin < self.end && self.ended.is_none();
                let pipe = self.input.as_ref().filter(|_| is_full).and_then(Input::wanted);
                let holder = Some(self.link.wanted());
                descriptors::wait([words, room, data, stderr, reader, holder, signal, pipe], self.peer.rest())
            };
            if !holder.is_empty() && !self.hear_holder() {
                return Some(Fault::Internal);
            }
            if room.contains(PollFlags::ERR) {
                return Some(Fault::Cancelled);
            }
            if !(stderr | reader).is_empty() {
                self.stderr.pass();
            }
            if !data.is_empty() {
                self.say();
            }
            if !words.is_empty()
                && let ControlFlow::Break(end) = self.listen()
            {
                return end;
            }
        }
    }

    /// Takes what the other side says; breaks when it is over, with the fault if there is one.
    fn listen(&mut self) -> ControlFlow<Option<Fault>> {
        let is_there = self.peer.read();
        loop {
            match self.peer.next_frame() {
                // Nobody reads it any more once the command ended.
                Ok(Some(Frame::Data(_) | Frame::Trailer(_))) if self.said_ended => {}
                Ok(Some(Frame::Data(data))) if self.trailer.is_none() => {
                    self.queued += data.len();
                    if self.queued as u64 > Window::RESTORE.bytes + MAXIMUM_PAYLOAD as u64 {
                        return ControlFlow::Break(Some(Fault::Corrupt));
                    }
                    self.queue.push_back(data);
                }
                Ok(Some(Frame::Trailer(trailer))) if self.trailer.is_none() => self.trailer = Some(trailer),
                Ok(Some(Frame::Go)) if self.verified => self.link.say(),
                Ok(Some(Frame::Done)) if self.said_ended => return ControlFlow::Break(None),
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Fault(_))) => return ControlFlow::Break(Some(Fault::Cancelled)),
                Ok(Some(_)) | Err(_) => return ControlFlow::Break(Some(Fault::Corrupt)),
                Ok(None) if is_there => return ControlFlow::Continue(()),
                Ok(None) => return ControlFlow::Break(Some(Fault::Cancelled)),
            }
        }
    }

    /// The command sees the end of its input once the holder has let go of it, and then we do. False when the holder is
    /// gone: nobody holds it then but us, so it cannot go on.
    fn hear_holder(&mut self) -> bool {
        match self.link.hear() {
            Heard::Word => {
                if let Some(input) = &mut self.input {
                    input.release();
                }
            }
            Heard::Nothing => {}
            Heard::Gone => {
                self.is_alone = true;
                self.stderr
                    .say(b"stowaway-helper: one of its two processes was killed, as happens when memory runs out\n");
            }
        }
        !self.is_alone
    }

    /// Moves input into the pipe as far as it goes, and says so.
    fn pour(&mut self) -> Result<(), OpenError> {
        let Some(input) = self.input.as_ref().filter(|_| !self.said_ended && !self.verified) else { return Ok(()) };
        loop {
            if self.begin < self.end {
                if self.ended.is_some() {
                    return Ok(());
                }
                match input.write(&self.piece[self.begin..self.end]) {
                    0 => return Ok(()),
                    length => self.begin += length,
                }
                continue;
            }
            (self.begin, self.end) = (0, self.opener.pull(&mut self.piece)?);
            if self.end > 0 {
                continue;
            }
            if let Some(consumed) = self.opener.due() {
                self.frames.encode(&Frame::Acknowledge(consumed), self.peer.wire());
            }
            let Some(data) = self.queue.pop_front() else { break };
            self.queued -= data.len();
            self.opener.take(data)?;
        }
        if let Some(trailer) = &self.trailer {
            self.opener.verify(trailer)?;
            self.verified = true;
            self.frames.encode(&Frame::Got, self.peer.wire());
        }
        Ok(())
    }

    /// What a command's end means depends on what of its input it has read, and when.
    fn say_when_ended(&mut self) {
        let Some(mut outcome) = self.ended.filter(|_| !self.said_ended) else { return };
        if let Some(input) = &mut self.input {
            if outcome == Outcome::Exited(0) {
                if self.begin < self.end || input.is_left() {
                    outcome = Outcome::InputLeft;
                } else if !input.is_released() {
                    // It may have read all: what still comes, and the word to go, will tell.
                    return;
                }
            }
            if !input.is_released() {
                // Whoever of its family is left could still read, and must not see an end.
                input.end(self.patience.end);
            }
        }
        self.ended = Some(outcome);
        self.said_ended = true;
        self.queue.clear();
        self.stderr.pass();
        self.say();
        self.say_last_stderr();
        self.frames.encode(&Frame::Ended(outcome), self.peer.wire());
    }

    fn say_stderr(&mut self) {
        if self.peer.has_room() {
            self.say_last_stderr();
        }
    }

    /// All that waits, which is bounded.
    fn say_last_stderr(&mut self) {
        while let Some(said) = self.stderr.take() {
            self.frames.encode(&Frame::Stderr(said.into()), self.peer.wire());
        }
    }

    /// Passes on what the command says to people; what nobody takes in time is lost, so that it never waits.
    fn say(&mut self) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..4 {
            let Some(stdout) = &self.stdout else { return };
            match descriptors::read(stdout, &mut buffer) {
                Moved::Bytes(length) if self.peer.has_room() => {
                    if self.unsaid > 0 {
                        let note =
                            format!("\n[{} bytes of stdout were dropped, since nobody took them]\n", self.unsaid);
                        self.frames.encode(&Frame::Said(note.into()), self.peer.wire());
                        self.unsaid = 0;
                    }
                    let said = Bytes::copy_from_slice(&buffer[..length]);
                    self.frames.encode(&Frame::Said(said), self.peer.wire());
                }
                Moved::Bytes(length) => self.unsaid = self.unsaid.saturating_add(length as u64),
                Moved::Nothing => return,
                Moved::Ended => self.stdout = None,
            }
        }
    }

    /// Ends what still has to end, says so where somebody listens, and gives the exit status of this program.
    fn leave(mut self, fault: Option<Fault>) -> u8 {
        if let Some(fault) = fault {
            if let Some(input) = &mut self.input {
                input.end(self.patience.end);
                self.ended = self.ended.or_else(|| input.outcome());
            }
            self.say();
            self.stderr.pass();
            self.say_last_stderr();
            if let Some(outcome) = self.ended.filter(|_| !self.said_ended) {
                self.frames.encode(&Frame::Ended(outcome), self.peer.wire());
            }
            self.frames.encode(&Frame::Fault(fault), self.peer.wire());
            self.peer.write_last_words(LAST_WORDS);
        }
        self.stderr.pass();
        match (self.ended, fault) {
            _ if self.is_alone => LEFT_ALONE,
            (Some(Outcome::Exited(0)), Some(_)) | (None, _) => 125,
            (Some(outcome), _) => command::exit_status(outcome),
        }
    }
}

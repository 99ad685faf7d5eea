//! A dump: the command's stdout, compressed and sealed, and its end, until the other side has acknowledged it.
//!
//! It must not know what the bytes are. Whatever breaks, the command and all that it started are ended first.

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_seal::{Answer, Fault, Frame, Nonce, Outcome, SealError, Sealer, Window};

use crate::{
    arguments::{Job, Patience},
    command,
    descriptors::{self, Moved},
    family::{self, Leader},
    peer::Peer,
    pipe::Pipe,
    signals::Signals,
    stderr::Stderrs,
};

const PIECE: usize = 64 * 1024;
/// How long last words may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the job to its end; gives the exit status of this program.
pub fn run(peer: Peer, nonce: &Nonce, job: &Job, signals: &Signals) -> Result<u8, SealError> {
    let output = Pipe::from_command().map_err(io::Error::from)?;
    let errors = Pipe::from_command().map_err(io::Error::from)?;
    let mut dump = Dump {
        leader: None,
        stdout: None,
        stderr: Stderrs::of(job).map_err(io::Error::from)?,
        sealer: Sealer::new(nonce, Window::DUMP)?,
        peer,
        patience: job.patience,
        ended: None,
        moved: Instant::now(),
        open: Duration::ZERO,
        readable_since: None,
        sealed: false,
    };
    dump.peer.wire().extend_from_slice(&Answer::Ready.line(nonce));
    match command::start(job, Stdio::null(), output.writer, errors.writer) {
        Ok(leader) => {
            dump.leader = Some(leader);
            dump.stdout = Some(output.reader);
            dump.stderr.attach(errors.reader);
        }
        Err((outcome, said)) => {
            dump.stderr.say(said.as_bytes());
            dump.ended = Some(outcome);
        }
    }
    let fault = dump.pump(signals).unwrap_or(Some(Fault::Internal));
    Ok(dump.leave(fault))
}

struct Dump {
    leader: Option<Leader>,
    stdout: Option<OwnedFd>,
    stderr: Stderrs,
    sealer: Sealer,
    peer: Peer,
    patience: Patience,
    /// How the command ended.
    ended: Option<Outcome>,
    /// When its stdout last had bytes.
    moved: Instant,
    /// How long its stdout has been open after its end. Time in which the other side did not keep pace does not count.
    open: Duration,
    /// Since when that time runs.
    readable_since: Option<Instant>,
    /// The trailer is on its way.
    sealed: bool,
}

impl Dump {
    /// Until the trailer is acknowledged, or something breaks.
    fn pump(&mut self, signals: &Signals) -> Result<Option<Fault>, SealError> {
        let mut buffer = vec![0; PIECE];
        loop {
            if signals.take() {
                return Ok(Some(Fault::Cancelled));
            }
            if let Some(leader) = self.leader.as_mut().filter(|_| self.ended.is_none()) {
                self.ended = leader.outcome();
            }
            self.count_open();
            if self.peer.is_silent() {
                return Ok(Some(Fault::Silence));
            }
            if self.peer.is_beat_due() {
                self.sealer.say(&Frame::Heartbeat, self.peer.wire());
            }
            if self.sealer.is_holding() && self.moved.elapsed() >= self.patience.flush && self.may_read() {
                self.sealer.flush(self.peer.wire())?;
            }
            if let Some(fault) = self.seal_when_over()? {
                return Ok(Some(fault));
            }
            self.say_stderr();
            if !self.peer.write() {
                return Ok(Some(Fault::Cancelled));
            }
            let [words, room, data, stderr, reader, _] = {
                let [words, room] = self.peer.wanted();
                let [stderr, reader] = self.stderr.wanted();
                // After the trailer it is watched for what must not come any more.
                let data = self.stdout.as_ref().filter(|_| self.may_read() || self.sealed);
                let data = data.map(|stdout| (stdout.as_fd(), PollFlags::IN));
                let signal = Some((signals.descriptor(), PollFlags::IN));
                descriptors::wait([words, room, data, stderr, reader, signal], self.rest())
            };
            if room.contains(PollFlags::ERR) {
                return Ok(Some(Fault::Cancelled));
            }
            if !(stderr | reader).is_empty() {
                self.stderr.pass();
            }
            if !words.is_empty()
                && let ControlFlow::Break(end) = self.listen()
            {
                return Ok(end);
            }
            if !data.is_empty()
                && let Some(fault) = self.read(&mut buffer)?
            {
                return Ok(Some(fault));
            }
        }
    }

    /// Counts how long others hold the stdout of a command that ended.
    fn count_open(&mut self) {
        if let Some(since) = self.readable_since {
            self.open = self.open.saturating_add(since.elapsed());
        }
        let counts = self.ended.is_some() && self.stdout.is_some() && self.may_read();
        self.readable_since = counts.then(Instant::now);
    }

    /// The end of stdout is the end of the stream. Where others hold stdout open after the command has ended with success,
    /// the stream has no end that could be sealed: they may write more, and how they end is not known.
    fn seal_when_over(&mut self) -> Result<Option<Fault>, SealError> {
        let Some(outcome) = self.ended.filter(|_| !self.sealed) else { return Ok(None) };
        if let Some(stdout) = &self.stdout {
            if self.open < self.patience.remains {
                return Ok(None);
            }
            if outcome == Outcome::Exited(0) {
                for holder in family::holders(stdout) {
                    self.stderr.say(format!("stowaway-helper: {holder} still holds the command's stdout\n").as_bytes());
                }
                return Ok(Some(Fault::HeldOpen));
            }
        }
        self.stderr.pass();
        self.say_last_stderr();
        self.sealer.finish(outcome, self.peer.wire())?;
        self.sealed = true;
        Ok(None)
    }

    fn say_stderr(&mut self) {
        if self.peer.has_room() {
            self.say_last_stderr();
        }
    }

    /// All that waits, which is bounded. After the trailer nothing has a place any more.
    fn say_last_stderr(&mut self) {
        while !self.sealed
            && let Some(said) = self.stderr.take()
        {
            self.sealer.say(&Frame::Stderr(said.into()), self.peer.wire());
        }
    }

    /// Takes what the other side says; breaks when it is over, with the fault if there is one.
    fn listen(&mut self) -> ControlFlow<Option<Fault>> {
        let is_there = self.peer.read();
        loop {
            match self.peer.next_frame() {
                Ok(Some(Frame::Acknowledge(consumed))) => {
                    if self.sealer.acknowledged(consumed).is_err() {
                        return ControlFlow::Break(Some(Fault::Corrupt));
                    }
                }
                Ok(Some(Frame::Done)) if self.sealed => return ControlFlow::Break(None),
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Fault(_))) => return ControlFlow::Break(Some(Fault::Cancelled)),
                Ok(Some(_)) | Err(_) => return ControlFlow::Break(Some(Fault::Corrupt)),
                Ok(None) if is_there => return ControlFlow::Continue(()),
                Ok(None) => return ControlFlow::Break(Some(Fault::Cancelled)),
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<Fault>, SealError> {
        let Some(stdout) = &self.stdout else { return Ok(None) };
        match descriptors::read(stdout, buffer) {
            Moved::Bytes(_) if self.sealed => return Ok(Some(Fault::WentOn)),
            Moved::Bytes(length) => {
                self.moved = Instant::now();
                self.sealer.push(&buffer[..length], self.peer.wire())?;
            }
            Moved::Nothing => {}
            Moved::Ended => self.stdout = None,
        }
        Ok(None)
    }

    /// Whether the stream may go on: the other side keeps pace.
    fn may_read(&self) -> bool {
        !self.sealed && self.peer.has_room() && self.sealer.has_room()
    }

    /// How long there is nothing to do without a word from anybody.
    fn rest(&self) -> Duration {
        let rest = self.peer.rest();
        if !self.may_read() {
            return rest;
        }
        let since = |patience: Duration| patience.saturating_sub(self.moved.elapsed());
        let flush = if self.sealer.is_holding() { since(self.patience.flush) } else { rest };
        let remains =
            if self.readable_since.is_some() { self.patience.remains.saturating_sub(self.open) } else { rest };
        rest.min(flush).min(remains)
    }

    /// Ends what still has to end, says so where somebody listens, and gives the exit status of this program.
    fn leave(mut self, fault: Option<Fault>) -> u8 {
        if let Some(fault) = fault {
            if let Some(leader) = &mut self.leader {
                leader.end(self.patience.end);
                self.ended = self.ended.or_else(|| leader.outcome());
            }
            self.stderr.pass();
            self.say_last_stderr();
            if let Some(outcome) = self.ended {
                self.sealer.say(&Frame::Ended(outcome), self.peer.wire());
            }
            self.sealer.say(&Frame::Fault(fault), self.peer.wire());
            self.peer.write_last_words(LAST_WORDS);
        }
        self.stderr.pass();
        match (self.ended, fault) {
            (Some(Outcome::Exited(0)), Some(_)) | (None, _) => 125,
            (Some(outcome), _) => command::exit_status(outcome),
        }
    }
}

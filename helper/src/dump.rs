//! A dump: compresses and seals the command's stdout and its end, until the other side has acknowledged it. On any
//! failure, the command and all processes that it started are ended first.

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_protocol::{Answer, Fault, Frame, Nonce, Outcome, SealError, Sealer, Window};

use crate::{
    arguments::{Job, Timeouts},
    command,
    descriptors::{self, IoResult},
    family::{self, CommandProcess},
    pipe::Pipe,
    signals::Signals,
    stderr::StderrForwarder,
    transport::Transport,
};

const CHUNK: usize = 64 * 1024;
/// The time that sending the last frames may take.
const LAST_FRAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the job to its end. Returns the exit status of this program.
pub fn run(transport: Transport, nonce: &Nonce, job: &Job, signals: &Signals) -> Result<u8, SealError> {
    let output = Pipe::from_command().map_err(io::Error::from)?;
    let errors = Pipe::from_command().map_err(io::Error::from)?;
    let mut dump = Dump {
        process: None,
        stdout: None,
        stderr: StderrForwarder::of(job).map_err(io::Error::from)?,
        sealer: Sealer::new(nonce, Window::DUMP)?,
        transport,
        timeouts: job.timeouts,
        ended: None,
        last_read: Instant::now(),
        held_open: Duration::ZERO,
        readable_since: None,
        sealed: false,
    };
    dump.transport.wire().extend_from_slice(&Answer::Ready.line(nonce));
    match command::start(job, Stdio::null(), output.writer, errors.writer) {
        Ok(process) => {
            dump.process = Some(process);
            dump.stdout = Some(output.reader);
            dump.stderr.attach(errors.reader);
        }
        Err((outcome, message)) => {
            dump.stderr.push(message.as_bytes());
            dump.ended = Some(outcome);
        }
    }
    let fault = dump.pump(signals).unwrap_or(Some(Fault::Internal));
    Ok(dump.finish(fault))
}

struct Dump {
    process: Option<CommandProcess>,
    stdout: Option<OwnedFd>,
    stderr: StderrForwarder,
    sealer: Sealer,
    transport: Transport,
    timeouts: Timeouts,
    /// The outcome of the command, once it has ended.
    ended: Option<Outcome>,
    /// When its stdout last had bytes.
    last_read: Instant,
    /// How long its stdout has been open after its end. Time during which the other side did not keep up does not
    /// count.
    held_open: Duration,
    /// Since when `held_open` is counting.
    readable_since: Option<Instant>,
    /// Whether the trailer was sent.
    sealed: bool,
}

impl Dump {
    /// Runs until the trailer is acknowledged, or until a failure.
    fn pump(&mut self, signals: &Signals) -> Result<Option<Fault>, SealError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            if signals.take() {
                return Ok(Some(Fault::Cancelled));
            }
            if let Some(process) = self.process.as_mut().filter(|_| self.ended.is_none()) {
                self.ended = process.outcome();
            }
            self.count_held_open();
            if self.transport.is_silent() {
                return Ok(Some(Fault::Silence));
            }
            if self.transport.is_heartbeat_due() {
                self.sealer.encode(&Frame::Heartbeat, self.transport.wire());
            }
            if self.sealer.is_holding() && self.last_read.elapsed() >= self.timeouts.flush && self.may_read() {
                self.sealer.flush(self.transport.wire())?;
            }
            if let Some(fault) = self.seal_at_end()? {
                return Ok(Some(fault));
            }
            self.send_stderr();
            if !self.transport.write() {
                return Ok(Some(Fault::Cancelled));
            }
            let [incoming, room, data, stderr, reader, _] = {
                let [incoming, room] = self.transport.interest();
                let [stderr, reader] = self.stderr.interest();
                // After the trailer, stdout is polled only to detect further data, which is a fault.
                let data = self.stdout.as_ref().filter(|_| self.may_read() || self.sealed);
                let data = data.map(|stdout| (stdout.as_fd(), PollFlags::IN));
                let signal = Some((signals.descriptor(), PollFlags::IN));
                descriptors::wait([incoming, room, data, stderr, reader, signal], self.until_due())
            };
            if room.contains(PollFlags::ERR) {
                return Ok(Some(Fault::Cancelled));
            }
            if !(stderr | reader).is_empty() {
                self.stderr.forward();
            }
            if !incoming.is_empty()
                && let ControlFlow::Break(end) = self.receive()
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

    /// Counts how long other processes hold the stdout of a command that has ended.
    fn count_held_open(&mut self) {
        if let Some(since) = self.readable_since {
            self.held_open = self.held_open.saturating_add(since.elapsed());
        }
        let counts = self.ended.is_some() && self.stdout.is_some() && self.may_read();
        self.readable_since = counts.then(Instant::now);
    }

    /// Seals the stream at the end of stdout. If other processes hold stdout open after the command has succeeded, the
    /// stream must not be sealed: they may write more, and how they end is unknown.
    fn seal_at_end(&mut self) -> Result<Option<Fault>, SealError> {
        let Some(outcome) = self.ended.filter(|_| !self.sealed) else { return Ok(None) };
        if let Some(stdout) = &self.stdout {
            if self.held_open < self.timeouts.held_open {
                return Ok(None);
            }
            if outcome == Outcome::Exited(0) {
                for holder in family::holders(stdout) {
                    self.stderr
                        .push(format!("stowaway-helper: {holder} still holds the command's stdout\n").as_bytes());
                }
                return Ok(Some(Fault::HeldOpen));
            }
        }
        self.stderr.forward();
        self.send_waiting_stderr();
        self.sealer.finish(outcome, self.transport.wire())?;
        self.sealed = true;
        Ok(None)
    }

    fn send_stderr(&mut self) {
        if self.transport.has_room() {
            self.send_waiting_stderr();
        }
    }

    /// Sends all waiting stderr, which is bounded. After the trailer no such frame is allowed.
    fn send_waiting_stderr(&mut self) {
        while !self.sealed
            && let Some(output) = self.stderr.take()
        {
            self.sealer.encode(&Frame::Stderr(output.into()), self.transport.wire());
        }
    }

    /// Processes the received frames. Breaks at the end of the run, with the fault if there is one.
    fn receive(&mut self) -> ControlFlow<Option<Fault>> {
        let is_there = self.transport.read();
        loop {
            match self.transport.next_frame() {
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
            IoResult::Bytes(_) if self.sealed => return Ok(Some(Fault::Continued)),
            IoResult::Bytes(length) => {
                self.last_read = Instant::now();
                self.sealer.push(&buffer[..length], self.transport.wire())?;
            }
            IoResult::Nothing => {}
            IoResult::Ended => self.stdout = None,
        }
        Ok(None)
    }

    /// Whether the stream may continue, because the other side keeps up.
    fn may_read(&self) -> bool {
        !self.sealed && self.transport.has_room() && self.sealer.has_room()
    }

    /// The time until something is due without an event.
    fn until_due(&self) -> Duration {
        let rest = self.transport.until_due();
        if !self.may_read() {
            return rest;
        }
        let since = |timeout: Duration| timeout.saturating_sub(self.last_read.elapsed());
        let flush = if self.sealer.is_holding() { since(self.timeouts.flush) } else { rest };
        let remains =
            if self.readable_since.is_some() { self.timeouts.held_open.saturating_sub(self.held_open) } else { rest };
        rest.min(flush).min(remains)
    }

    /// Ends the processes that still run, reports the fault if the other side reads, and returns the exit status of
    /// this program.
    fn finish(mut self, fault: Option<Fault>) -> u8 {
        if let Some(fault) = fault {
            if let Some(process) = &mut self.process {
                process.end(self.timeouts.end);
                self.ended = self.ended.or_else(|| process.outcome());
            }
            self.stderr.forward();
            self.send_waiting_stderr();
            if let Some(outcome) = self.ended {
                self.sealer.encode(&Frame::Ended(outcome), self.transport.wire());
            }
            self.sealer.encode(&Frame::Fault(fault), self.transport.wire());
            self.transport.write_rest(LAST_FRAMES_TIMEOUT);
        }
        self.stderr.forward();
        match (self.ended, fault) {
            (Some(Outcome::Exited(0)), Some(_)) | (None, _) => 125,
            (Some(outcome), _) => command::exit_status(outcome),
        }
    }
}

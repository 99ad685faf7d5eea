//! A restore: writes a sealed stream to the command's stdin, and closes the stdin only after GO. On any failure before
//! GO, [`Input`] kills the command and all its descendants before it closes the pipe.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use bytes::Bytes;
use rustix::event::PollFlags;
use stowaway_protocol::{
    Answer, Fault, Frame, FrameEncoder, MAX_PAYLOAD, Nonce, OpenError, Opener, Outcome, Trailer, Window,
};

use crate::{
    arguments::{Job, Timeouts},
    command,
    descriptors::{self, IoResult},
    guard_channel::{GuardChannel, Pipes, Received},
    input::Input,
    signals::Signals,
    stderr::StderrForwarder,
    transport::Transport,
};

const CHUNK: usize = 64 * 1024;
/// The time that sending the last frames may take.
const LAST_FRAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// The exit status if the guard is gone. Then the parent is process 1, and a database server that is process 1
/// (`PostgreSQL`) takes any status but 0 and 1 for the crash of a child of its own.
const GUARD_LOST_STATUS: u8 = 1;

/// Runs the job to its end. Returns the exit status of this program.
pub fn run(
    mut transport: Transport,
    nonce: &Nonce,
    job: &Job,
    signals: &Signals,
    (channel, pipes): (GuardChannel, Pipes),
) -> io::Result<u8> {
    let frames = FrameEncoder::new(nonce);
    let stderr = StderrForwarder::of(job)?;
    let opener = Opener::new(Window::RESTORE).map_err(io::Error::other)?;
    let Pipes { input, output, errors } = pipes;
    let stdin = input.reader.try_clone()?;
    transport.wire().extend_from_slice(&Answer::Ready.line(nonce));
    let mut restore = Restore {
        channel,
        guard_lost: false,
        input: None,
        stdout: None,
        stderr,
        frames,
        opener,
        transport,
        timeouts: job.timeouts,
        queue: VecDeque::new(),
        queued: 0,
        piece: vec![0; CHUNK],
        begin: 0,
        end: 0,
        trailer: None,
        verified: false,
        ended: None,
        reported_end: false,
        dropped: 0,
    };
    match command::start(job, stdin.into(), output.writer, errors.writer) {
        Ok(process) => {
            restore.input = Some(Input::of(process, input));
            restore.stdout = Some(output.reader);
            restore.stderr.attach(errors.reader);
        }
        Err((outcome, message)) => {
            restore.stderr.push(message.as_bytes());
            restore.ended = Some(outcome);
        }
    }
    let fault = restore.pump(signals);
    Ok(restore.finish(fault))
}

struct Restore {
    /// To the guard, which holds the command's pipes, too.
    channel: GuardChannel,
    /// Whether the guard is gone.
    guard_lost: bool,
    /// None if the command could not be started.
    input: Option<Input>,
    stdout: Option<OwnedFd>,
    stderr: StderrForwarder,
    frames: FrameEncoder,
    opener: Opener,
    transport: Transport,
    timeouts: Timeouts,
    /// Data that waits for the command, bounded by the window.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The buffer that is being written: the part from `begin` to `end` is left.
    piece: Vec<u8>,
    begin: usize,
    end: usize,
    trailer: Option<Trailer>,
    /// Whether all input is verified and in the pipe.
    verified: bool,
    ended: Option<Outcome>,
    reported_end: bool,
    /// Bytes of the command's stdout that were dropped, because the other side did not read in time.
    dropped: u64,
}

impl Restore {
    /// Runs until the outcome is acknowledged, or until a failure.
    fn pump(&mut self, signals: &Signals) -> Option<Fault> {
        loop {
            if signals.take() {
                return Some(Fault::Cancelled);
            }
            if let Some(input) = self.input.as_mut().filter(|_| self.ended.is_none()) {
                self.ended = input.outcome();
            }
            if self.transport.is_silent() {
                return Some(Fault::Silence);
            }
            if self.transport.is_heartbeat_due() {
                self.frames.encode(&Frame::Heartbeat, self.transport.wire());
            }
            if self.feed().is_err() {
                return Some(Fault::Corrupt);
            }
            self.report_end();
            self.send_stderr();
            if !self.transport.write() {
                return Some(Fault::Cancelled);
            }
            let [incoming, room, data, stderr, reader, guard, ..] = {
                let [incoming, room] = self.transport.interest();
                let [stderr, reader] = self.stderr.interest();
                let data = self.stdout.as_ref().map(|stdout| (stdout.as_fd(), PollFlags::IN));
                let signal = Some((signals.descriptor(), PollFlags::IN));
                let is_full = self.begin < self.end && self.ended.is_none();
                let pipe = self.input.as_ref().filter(|_| is_full).and_then(Input::interest);
                let guard = Some(self.channel.interest());
                descriptors::wait(
                    [incoming, room, data, stderr, reader, guard, signal, pipe],
                    self.transport.until_due(),
                )
            };
            if !guard.is_empty() && !self.receive_from_guard() {
                return Some(Fault::Internal);
            }
            if room.contains(PollFlags::ERR) {
                return Some(Fault::Cancelled);
            }
            if !(stderr | reader).is_empty() {
                self.stderr.forward();
            }
            if !data.is_empty() {
                self.forward_stdout();
            }
            if !incoming.is_empty()
                && let ControlFlow::Break(end) = self.receive()
            {
                return end;
            }
        }
    }

    /// Processes the received frames. Breaks at the end of the run, with the fault if there is one.
    fn receive(&mut self) -> ControlFlow<Option<Fault>> {
        let is_there = self.transport.read();
        loop {
            match self.transport.next_frame() {
                // Input is ignored once the command has ended.
                Ok(Some(Frame::Data(_) | Frame::Trailer(_))) if self.reported_end => {}
                Ok(Some(Frame::Data(data))) if self.trailer.is_none() => {
                    self.queued += data.len();
                    if self.queued as u64 > Window::RESTORE.bytes + MAX_PAYLOAD as u64 {
                        return ControlFlow::Break(Some(Fault::Corrupt));
                    }
                    self.queue.push_back(data);
                }
                Ok(Some(Frame::Trailer(trailer))) if self.trailer.is_none() => self.trailer = Some(trailer),
                Ok(Some(Frame::Go)) if self.verified => self.channel.send_go(),
                Ok(Some(Frame::Done)) if self.reported_end => return ControlFlow::Break(None),
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Fault(_))) => return ControlFlow::Break(Some(Fault::Cancelled)),
                Ok(Some(_)) | Err(_) => return ControlFlow::Break(Some(Fault::Corrupt)),
                Ok(None) if is_there => return ControlFlow::Continue(()),
                Ok(None) => return ControlFlow::Break(Some(Fault::Cancelled)),
            }
        }
    }

    /// Closes the command's input after the guard has closed it. Returns false if the guard is gone: then only this
    /// process would hold the input open, so the restore is aborted.
    fn receive_from_guard(&mut self) -> bool {
        match self.channel.receive() {
            Received::Go => {
                if let Some(input) = &mut self.input {
                    input.release();
                }
            }
            Received::Nothing => {}
            Received::Closed => {
                self.guard_lost = true;
                self.stderr.push(
                    b"stowaway-helper: one of the helper's two processes was killed, as happens when memory runs out\n",
                );
            }
        }
        !self.guard_lost
    }

    /// Writes as much input to the pipe as fits, and sends acknowledgements.
    fn feed(&mut self) -> Result<(), OpenError> {
        let Some(input) = self.input.as_ref().filter(|_| !self.reported_end && !self.verified) else { return Ok(()) };
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
                self.frames.encode(&Frame::Acknowledge(consumed), self.transport.wire());
            }
            let Some(data) = self.queue.pop_front() else { break };
            self.queued -= data.len();
            self.opener.take(data)?;
        }
        if let Some(trailer) = &self.trailer {
            self.opener.verify(trailer)?;
            self.verified = true;
            self.frames.encode(&Frame::Got, self.transport.wire());
        }
        Ok(())
    }

    /// Reports the outcome once it is known. The meaning of an exit depends on how much of its input the command has
    /// read.
    fn report_end(&mut self) {
        let Some(mut outcome) = self.ended.filter(|_| !self.reported_end) else { return };
        if let Some(input) = &mut self.input {
            if outcome == Outcome::Exited(0) {
                if self.begin < self.end || input.is_left() {
                    outcome = Outcome::InputLeft;
                } else if !input.is_released() {
                    // It may have read all input. That is decided by the next data, or by GO.
                    return;
                }
            }
            if !input.is_released() {
                // Remaining descendants could still read, and must not see an end of file.
                input.end(self.timeouts.end);
            }
        }
        self.ended = Some(outcome);
        self.reported_end = true;
        self.queue.clear();
        self.stderr.forward();
        self.forward_stdout();
        self.send_waiting_stderr();
        self.frames.encode(&Frame::Ended(outcome), self.transport.wire());
    }

    fn send_stderr(&mut self) {
        if self.transport.has_room() {
            self.send_waiting_stderr();
        }
    }

    /// Sends all waiting stderr, which is bounded.
    fn send_waiting_stderr(&mut self) {
        while let Some(output) = self.stderr.take() {
            self.frames.encode(&Frame::Stderr(output.into()), self.transport.wire());
        }
    }

    /// Forwards the command's stdout for the log. Output is dropped if the other side does not read in time, so that
    /// the command never blocks.
    fn forward_stdout(&mut self) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..4 {
            let Some(stdout) = &self.stdout else { return };
            match descriptors::read(stdout, &mut buffer) {
                IoResult::Bytes(length) if self.transport.has_room() => {
                    if self.dropped > 0 {
                        let note = format!(
                            "\n[{} bytes of stdout were dropped, because the reader was too slow]\n",
                            self.dropped
                        );
                        self.frames.encode(&Frame::Stdout(note.into()), self.transport.wire());
                        self.dropped = 0;
                    }
                    let output = Bytes::copy_from_slice(&buffer[..length]);
                    self.frames.encode(&Frame::Stdout(output), self.transport.wire());
                }
                IoResult::Bytes(length) => self.dropped = self.dropped.saturating_add(length as u64),
                IoResult::Nothing => return,
                IoResult::Ended => self.stdout = None,
            }
        }
    }

    /// Ends the processes that still run, reports the fault if the other side reads, and returns the exit status of
    /// this program.
    fn finish(mut self, fault: Option<Fault>) -> u8 {
        if let Some(fault) = fault {
            if let Some(input) = &mut self.input {
                input.end(self.timeouts.end);
                self.ended = self.ended.or_else(|| input.outcome());
            }
            self.forward_stdout();
            self.stderr.forward();
            self.send_waiting_stderr();
            if let Some(outcome) = self.ended.filter(|_| !self.reported_end) {
                self.frames.encode(&Frame::Ended(outcome), self.transport.wire());
            }
            self.frames.encode(&Frame::Fault(fault), self.transport.wire());
            self.transport.write_rest(LAST_FRAMES_TIMEOUT);
        }
        self.stderr.forward();
        match (self.ended, fault) {
            _ if self.guard_lost => GUARD_LOST_STATUS,
            (Some(Outcome::Exited(0)), Some(_)) | (None, _) => 125,
            (Some(outcome), _) => command::exit_status(outcome),
        }
    }
}

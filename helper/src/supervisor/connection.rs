//! One connection of a client: its request, and the lines that are sent to it as fast as it reads.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_protocol::{HEARTBEAT, MAX_SIDECAR_LINE, MAX_TASK, Reply, Request};

use super::record::Record;
use crate::descriptors::{self, IoResult};

/// With this many unwritten bytes, no new lines are produced.
const FULL: usize = 32 * 1024;

/// The state of a connection.
pub enum State {
    /// The request has not arrived completely.
    Reading,
    /// The request has arrived, but the task has not.
    Starting {
        /// Name of the run.
        id: String,
        /// The run's key, which identifies what the run does.
        key: String,
    },
    /// The client watches a run.
    Watching {
        /// Name of the run.
        id: String,
        /// The number of the next line.
        next: u64,
    },
    /// All lines are produced.
    Leaving,
}

/// The result of receiving.
pub enum Received {
    /// Nothing complete yet.
    Nothing,
    /// A request without a task.
    Request(Request),
    /// The task of a [`Request::Start`].
    Task {
        /// Name of the run.
        id: String,
        /// The run's key, which identifies what the run does.
        key: String,
        /// The task.
        task: Vec<u8>,
    },
    /// The client is gone, or its request is invalid.
    Gone,
}

/// A connection.
pub struct Connection {
    stream: UnixStream,
    /// The current state.
    pub state: State,
    /// When the connection was accepted, or when its last line was produced.
    pub since: Instant,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: Instant,
}

impl Connection {
    /// A connection that was accepted.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        descriptors::never_block(&stream)?;
        let now = Instant::now();
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, state: State::Reading, since: now, input, output, sent: now })
    }

    /// The events to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let out = if self.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (self.stream.as_fd(), PollFlags::IN | out)
    }

    /// Receives and parses the available bytes.
    pub fn receive(&mut self) -> Received {
        let mut buffer = [0; 4096];
        loop {
            match descriptors::read(&self.stream, &mut buffer) {
                // After its request a client sends nothing that matters; the exec's heartbeats end in the client
                // process.
                IoResult::Bytes(_) if matches!(self.state, State::Watching { .. } | State::Leaving) => {}
                IoResult::Bytes(length) => self.input.extend_from_slice(&buffer[..length]),
                IoResult::Nothing => break,
                IoResult::Ended => return Received::Gone,
            }
            if self.input.len() > MAX_SIDECAR_LINE + MAX_TASK {
                return Received::Gone;
            }
        }
        self.parse()
    }

    fn parse(&mut self) -> Received {
        loop {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { return Received::Nothing };
            let mut line: Vec<u8> = self.input.drain(..=end).collect();
            line.truncate(end);
            match &self.state {
                State::Reading => match str::from_utf8(&line).ok().and_then(Request::parse) {
                    Some(Request::Start { id, key }) => self.state = State::Starting { id, key },
                    Some(request) => return Received::Request(request),
                    None => return Received::Gone,
                },
                State::Starting { id, key } => {
                    let (id, key) = (id.clone(), key.clone());
                    return Received::Task { id, key, task: line };
                }
                State::Watching { .. } | State::Leaving => return Received::Nothing,
            }
        }
    }

    /// Sends the reply, which is the last line.
    pub fn answer(&mut self, reply: &Reply) {
        self.push_line(&reply.to_string());
        self.leave();
    }

    /// Sends the new lines of the run, as far as there is room, and a heartbeat if it is due.
    pub fn send_lines(&mut self, record: &Record, is_heartbeat_due: impl Fn(Instant) -> bool) {
        let State::Watching { next, .. } = &self.state else { return };
        let mut next = *next;
        for (number, event) in record.lines_from(next) {
            if self.output.len() >= FULL {
                break;
            }
            self.push_line(&format!("{number} {event}"));
            next = number + 1;
        }
        let is_complete = record.has_ended() && record.lines_from(next).next().is_none();
        if is_complete {
            self.leave();
            return;
        }
        if let State::Watching { next: stored, .. } = &mut self.state {
            *stored = next;
        }
        if self.output.is_empty() && is_heartbeat_due(self.sent) {
            self.push_line(HEARTBEAT);
        }
    }

    /// Writes as many bytes as fit. Returns false if the connection is to be closed.
    pub fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match descriptors::write(&self.stream, &self.output) {
                IoResult::Bytes(length) => drop(self.output.drain(..length)),
                IoResult::Nothing => return true,
                IoResult::Ended => return false,
            }
        }
        !matches!(self.state, State::Leaving)
    }

    /// The time until something is due.
    pub fn until_due(&self, heartbeat: Duration, request: Duration) -> Duration {
        match self.state {
            // A heartbeat that cannot be sent waits for room, not for the clock.
            State::Watching { .. } if !self.output.is_empty() => heartbeat,
            State::Watching { .. } => heartbeat.saturating_sub(self.sent.elapsed()),
            _ => request.saturating_sub(self.since.elapsed()),
        }
    }

    fn leave(&mut self) {
        self.state = State::Leaving;
        self.since = Instant::now();
    }

    fn push_line(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.push(b'\n');
        self.sent = Instant::now();
    }
}

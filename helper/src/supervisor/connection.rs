//! One small exec that asks: its request, and what it is told, as far as it takes it.
//!
//! It must not know processes.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_seal::{BEAT, LONGEST_SIDECAR_LINE, LONGEST_TASK, Reply, Request};

use super::record::Record;
use crate::descriptors::{self, Moved};

/// With so much that nobody took yet, nothing new is told.
const FULL: usize = 32 * 1024;

/// What a connection is about.
pub enum State {
    /// Its request is not there yet.
    Asking,
    /// It is, and the task is not.
    Starting {
        /// Which run.
        id: String,
        /// What it does.
        key: String,
    },
    /// It is told what happens in a run.
    Watching {
        /// Which run.
        id: String,
        /// The number of the next line.
        next: u64,
    },
    /// All was told.
    Leaving,
}

/// What came of listening.
pub enum Asked {
    /// Nothing yet.
    Nothing,
    /// A request that needs no more.
    Request(Request),
    /// The task of a [`Request::Start`].
    Task {
        /// Which run.
        id: String,
        /// What it does.
        key: String,
        /// The task.
        task: Vec<u8>,
    },
    /// It is gone, or makes no sense.
    Gone,
}

/// One that asks.
pub struct Connection {
    stream: UnixStream,
    /// What it is about.
    pub state: State,
    /// Since when.
    pub since: Instant,
    input: Vec<u8>,
    output: Vec<u8>,
    said: Instant,
}

impl Connection {
    /// Somebody who came.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        descriptors::never_block(&stream)?;
        let now = Instant::now();
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, state: State::Asking, since: now, input, output, said: now })
    }

    /// What to wait for.
    pub fn wanted(&self) -> (BorrowedFd<'_>, PollFlags) {
        let out = if self.output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (self.stream.as_fd(), PollFlags::IN | out)
    }

    /// Takes in what it says.
    pub fn listen(&mut self) -> Asked {
        let mut buffer = [0; 4096];
        loop {
            match descriptors::read(&self.stream, &mut buffer) {
                // After its request it has nothing to say; an exec's heartbeats end in the asking process.
                Moved::Bytes(_) if matches!(self.state, State::Watching { .. } | State::Leaving) => {}
                Moved::Bytes(length) => self.input.extend_from_slice(&buffer[..length]),
                Moved::Nothing => break,
                Moved::Ended => return Asked::Gone,
            }
            if self.input.len() > LONGEST_SIDECAR_LINE + LONGEST_TASK {
                return Asked::Gone;
            }
        }
        self.parse()
    }

    fn parse(&mut self) -> Asked {
        loop {
            let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else { return Asked::Nothing };
            let mut line: Vec<u8> = self.input.drain(..=end).collect();
            line.truncate(end);
            match &self.state {
                State::Asking => match str::from_utf8(&line).ok().and_then(Request::parse) {
                    Some(Request::Start { id, key }) => self.state = State::Starting { id, key },
                    Some(request) => return Asked::Request(request),
                    None => return Asked::Gone,
                },
                State::Starting { id, key } => {
                    let (id, key) = (id.clone(), key.clone());
                    return Asked::Task { id, key, task: line };
                }
                State::Watching { .. } | State::Leaving => return Asked::Nothing,
            }
        }
    }

    /// Answers, and has nothing more to say.
    pub fn answer(&mut self, reply: &Reply) {
        self.say(&reply.to_string());
        self.leave();
    }

    /// Tells what is new in the run, as far as it is taken; and now and then that we are still here.
    pub fn tell(&mut self, record: &Record, is_beat_due: impl Fn(Instant) -> bool) {
        let State::Watching { next, .. } = &self.state else { return };
        let mut next = *next;
        for (number, event) in record.lines_from(next) {
            if self.output.len() >= FULL {
                break;
            }
            self.say(&format!("{number} {event}"));
            next = number + 1;
        }
        let is_told = record.has_ended() && record.lines_from(next).next().is_none();
        if is_told {
            self.leave();
            return;
        }
        if let State::Watching { next: stored, .. } = &mut self.state {
            *stored = next;
        }
        if self.output.is_empty() && is_beat_due(self.said) {
            self.say(BEAT);
        }
    }

    /// Writes what fits; false when it is to be let go.
    pub fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            match descriptors::write(&self.stream, &self.output) {
                Moved::Bytes(length) => drop(self.output.drain(..length)),
                Moved::Nothing => return true,
                Moved::Ended => return false,
            }
        }
        !matches!(self.state, State::Leaving)
    }

    /// How long there is nothing to do about it.
    pub fn rest(&self, heartbeat: Duration, request: Duration) -> Duration {
        match self.state {
            // A beat that cannot be said waits for room, not for the clock.
            State::Watching { .. } if !self.output.is_empty() => heartbeat,
            State::Watching { .. } => heartbeat.saturating_sub(self.said.elapsed()),
            _ => request.saturating_sub(self.since.elapsed()),
        }
    }

    fn leave(&mut self) {
        self.state = State::Leaving;
        self.since = Instant::now();
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.push(b'\n');
        self.said = Instant::now();
    }
}

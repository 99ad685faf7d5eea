//! The other side, over our stdin and stdout: frames in, bytes out, and when each side last spoke.
//!
//! It must not know what is said.

use std::{
    io::{Stdin, Stdout, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use stowaway_seal::{Answer, Frame, FrameDecoder, FrameError, LONGEST_LINE, Nonce, VERSION, parse_hello};

use crate::{
    arguments::Patience,
    descriptors::{self, Moved, Wanted},
};

const PIECE: usize = 64 * 1024;
/// With so much that nobody took yet, nothing new is made.
const FULL: usize = 128 * 1024;

/// Why there is no other side to speak with. Nothing ran.
pub enum Refusal {
    /// Its first line is none of ours.
    NoHello,
    /// It speaks another version, and was told ours.
    OtherVersion,
}

/// The other side.
pub struct Peer {
    stdin: Stdin,
    stdout: Stdout,
    frames: FrameDecoder,
    wire: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
    heard: Instant,
    said: Instant,
    patience: Patience,
}

impl Peer {
    /// Reads the first line, and answers another version than ours. The word that we are ready is the caller's to say.
    pub fn greet(patience: Patience) -> Result<(Self, Nonce), Refusal> {
        let stdin = std::io::stdin();
        let begin = Instant::now();
        let mut line = Vec::new();
        let mut buffer = [0; LONGEST_LINE];
        let end = loop {
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            let left = patience.silence.saturating_sub(begin.elapsed());
            if line.len() >= LONGEST_LINE || left.is_zero() {
                return Err(Refusal::NoHello);
            }
            let [ready] = descriptors::wait([Some((stdin.as_fd(), PollFlags::IN))], left);
            if ready.is_empty() {
                continue;
            }
            match descriptors::read(&stdin, &mut buffer) {
                Moved::Bytes(length) => line.extend_from_slice(&buffer[..length]),
                Moved::Nothing => {}
                Moved::Ended => return Err(Refusal::NoHello),
            }
        };
        let (version, nonce) = parse_hello(&line[..end]).ok_or(Refusal::NoHello)?;
        let mut stdout = std::io::stdout();
        if version != VERSION {
            let answer = Answer::Speaks(VERSION).line(&nonce);
            // Whoever does not hear it sees us leave.
            let _unheard = stdout.write_all(&answer).and_then(|()| stdout.flush());
            return Err(Refusal::OtherVersion);
        }
        for descriptor in [stdin.as_fd(), stdout.as_fd()] {
            descriptors::never_block(descriptor).map_err(|_| Refusal::NoHello)?;
        }
        let mut frames = FrameDecoder::new(&nonce);
        frames.push(&line[end + 1..]);
        let now = Instant::now();
        let peer = Self {
            stdin,
            stdout,
            frames,
            wire: Vec::new(),
            written: 0,
            buffer: vec![0; PIECE],
            heard: now,
            said: now,
            patience,
        };
        Ok((peer, nonce))
    }

    /// What to wait for: its words, and room for ours. Without any of ours, a reader that goes away shows all the same.
    pub fn wanted(&self) -> [Option<Wanted<'_>>; 2] {
        let out = if self.is_drained() { PollFlags::empty() } else { PollFlags::OUT };
        [Some((self.stdin.as_fd(), PollFlags::IN)), Some((self.stdout.as_fd(), out))]
    }

    /// Reads what is there; false when the other side ended.
    pub fn read(&mut self) -> bool {
        match descriptors::read(&self.stdin, &mut self.buffer) {
            Moved::Bytes(length) => {
                self.frames.push(&self.buffer[..length]);
                true
            }
            Moved::Nothing => true,
            Moved::Ended => false,
        }
    }

    /// The next frame that was read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = self.frames.next_frame()?;
        if frame.is_some() {
            self.heard = Instant::now();
        }
        Ok(frame)
    }

    /// Where to append what is to be said.
    pub fn wire(&mut self) -> &mut Vec<u8> {
        self.said = Instant::now();
        &mut self.wire
    }

    /// Writes what fits; false when nobody will read it any more.
    pub fn write(&mut self) -> bool {
        while !self.is_drained() {
            match descriptors::write(&self.stdout, &self.wire[self.written..]) {
                Moved::Bytes(length) => self.written += length,
                Moved::Nothing => break,
                Moved::Ended => return false,
            }
        }
        if self.written >= PIECE || self.is_drained() {
            self.wire.drain(..self.written);
            self.written = 0;
        }
        true
    }

    /// Writes all that is to be said, as long as the other side takes it.
    pub fn write_last_words(&mut self, patience: Duration) {
        let begin = Instant::now();
        while self.write() && !self.is_drained() && begin.elapsed() < patience {
            descriptors::wait([Some((self.stdout.as_fd(), PollFlags::OUT))], patience);
        }
    }

    /// Whether more is to be made before the other side has taken some.
    pub fn has_room(&self) -> bool {
        self.wire.len() - self.written < FULL
    }

    /// Whether all was written.
    pub fn is_drained(&self) -> bool {
        self.wire.len() == self.written
    }

    /// Whether a heartbeat is due: nobody waits for one while other words are on their way.
    pub fn is_beat_due(&self) -> bool {
        self.is_drained() && self.said.elapsed() >= self.patience.heartbeat
    }

    /// Whether the other side has been silent for too long.
    pub fn is_silent(&self) -> bool {
        self.heard.elapsed() >= self.patience.silence
    }

    /// How long there is nothing to do for either.
    pub fn rest(&self) -> Duration {
        let silence = self.patience.silence.saturating_sub(self.heard.elapsed());
        let beat = self.patience.heartbeat.saturating_sub(self.said.elapsed());
        // A beat that is due and cannot be said waits for room, not for the clock.
        silence.min(if self.is_drained() { beat } else { self.patience.heartbeat })
    }
}

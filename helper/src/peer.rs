//! The other side, over our stdin and stdout or over a socket: frames in, bytes out, and when each side last spoke.
//!
//! It must not know what is said.

use std::{
    io::{self, Stdin, Stdout, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
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
    /// Our stdin did not say by which word it knows us.
    NoToken,
    /// It does not listen where it should.
    NoListener(io::Error),
}

/// What leads to the other side.
enum Line {
    /// The streams that a container's runtime gives to an exec; their end is the cancel.
    Stdio(Stdin, Stdout),
    /// A socket, whose end is the cancel then: whoever holds the exec may well go.
    Socket(UnixStream),
}

impl Line {
    fn input(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdio(stdin, _) => stdin.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        }
    }

    fn output(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdio(_, stdout) => stdout.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        }
    }

    fn say(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdio(_, stdout) => stdout.write_all(line).and_then(|()| stdout.flush()),
            Self::Socket(socket) => socket.write_all(line),
        }
    }
}

/// The other side.
pub struct Peer {
    line: Line,
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
    pub fn greet(patience: Patience, socket: Option<&Path>) -> Result<(Self, Nonce), Refusal> {
        let mut line = match socket {
            Some(socket) => Line::Socket(connect(socket, patience)?),
            None => Line::Stdio(io::stdin(), io::stdout()),
        };
        let (first, rest) = first_line(line.input(), patience).ok_or(Refusal::NoHello)?;
        let (version, nonce) = parse_hello(&first).ok_or(Refusal::NoHello)?;
        if version != VERSION {
            // Whoever does not hear it sees us leave.
            let _unheard = line.say(&Answer::Speaks(VERSION).line(&nonce));
            return Err(Refusal::OtherVersion);
        }
        for descriptor in [line.input(), line.output()] {
            descriptors::never_block(descriptor).map_err(|_| Refusal::NoHello)?;
        }
        let mut frames = FrameDecoder::new(&nonce);
        frames.push(&rest);
        let now = Instant::now();
        let peer = Self {
            line,
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
        [Some((self.line.input(), PollFlags::IN)), Some((self.line.output(), out))]
    }

    /// Reads what is there; false when the other side ended.
    pub fn read(&mut self) -> bool {
        match descriptors::read(self.line.input(), &mut self.buffer) {
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
            match descriptors::write(self.line.output(), &self.wire[self.written..]) {
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
            descriptors::wait([Some((self.line.output(), PollFlags::OUT))], patience);
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

/// The socket, after we said there by which word its other side knows us: the first line of our stdin, since a command line
/// is in the process list. From here on nobody is asked about our stdin any more.
fn connect(socket: &Path, patience: Patience) -> Result<UnixStream, Refusal> {
    let stdin = io::stdin();
    let (token, _) = first_line(stdin.as_fd(), patience).ok_or(Refusal::NoToken)?;
    let mut stream = UnixStream::connect(socket).map_err(Refusal::NoListener)?;
    stream.write_all(&token).and_then(|()| stream.write_all(b"\n")).map_err(Refusal::NoListener)?;
    Ok(stream)
}

/// The first line without its end, and what came after it; nothing if it is too long, or does not come in time.
fn first_line(from: BorrowedFd<'_>, patience: Patience) -> Option<(Vec<u8>, Vec<u8>)> {
    let begin = Instant::now();
    let mut line = Vec::new();
    let mut buffer = [0; LONGEST_LINE];
    loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            line.truncate(end);
            return Some((line, rest));
        }
        let left = patience.silence.saturating_sub(begin.elapsed());
        if line.len() >= LONGEST_LINE || left.is_zero() {
            return None;
        }
        let [ready] = descriptors::wait([Some((from, PollFlags::IN))], left);
        if ready.is_empty() {
            continue;
        }
        match descriptors::read(from, &mut buffer) {
            Moved::Bytes(length) => line.extend_from_slice(&buffer[..length]),
            Moved::Nothing => {}
            Moved::Ended => return None,
        }
    }
}

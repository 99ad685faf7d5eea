//! The transport to the other side, over stdin and stdout or over a socket: incoming frames, outgoing bytes, and the
//! times of the last activity in each direction.

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
use stowaway_protocol::{Answer, Frame, FrameDecoder, FrameError, MAX_LINE, Nonce, VERSION, parse_hello};

use crate::{
    arguments::Timeouts,
    descriptors::{self, Interest, IoResult},
};

const CHUNK: usize = 64 * 1024;
/// With this many unwritten bytes, no new frames are produced.
const FULL: usize = 128 * 1024;

/// Why the protocol could not be started. No command was run.
pub enum Refusal {
    /// The first line is not a hello.
    NoHello,
    /// The other side uses another version, and was sent this one.
    OtherVersion,
    /// Stdin did not contain the token for the socket.
    NoToken,
    /// The socket cannot be reached.
    NoListener(io::Error),
}

/// The streams to the other side.
enum Streams {
    /// The streams which the container runtime gives to an exec. Their end means cancel.
    Stdio(Stdin, Stdout),
    /// A socket, whose end means cancel. The exec that started this process may end.
    Socket(UnixStream),
}

impl Streams {
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

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdio(_, stdout) => stdout.write_all(line).and_then(|()| stdout.flush()),
            Self::Socket(socket) => socket.write_all(line),
        }
    }
}

/// The transport.
pub struct Transport {
    streams: Streams,
    frames: FrameDecoder,
    wire: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
    received: Instant,
    sent: Instant,
    timeouts: Timeouts,
}

impl Transport {
    /// Reads the hello, and answers a version other than this one. The caller sends the ready line.
    pub fn open(timeouts: Timeouts, socket: Option<&Path>) -> Result<(Self, Nonce), Refusal> {
        let mut streams = match socket {
            Some(socket) => Streams::Socket(connect(socket, timeouts)?),
            None => Streams::Stdio(io::stdin(), io::stdout()),
        };
        let (first, rest) = first_line(streams.input(), timeouts).ok_or(Refusal::NoHello)?;
        let (version, nonce) = parse_hello(&first).ok_or(Refusal::NoHello)?;
        if version != VERSION {
            // An unread answer does not matter, because the other side sees the exit.
            let _unread = streams.send(&Answer::Speaks(VERSION).line(&nonce));
            return Err(Refusal::OtherVersion);
        }
        for descriptor in [streams.input(), streams.output()] {
            descriptors::never_block(descriptor).map_err(|_| Refusal::NoHello)?;
        }
        let mut frames = FrameDecoder::new(&nonce);
        frames.push(&rest);
        let now = Instant::now();
        let transport = Self {
            streams,
            frames,
            wire: Vec::new(),
            written: 0,
            buffer: vec![0; CHUNK],
            received: now,
            sent: now,
            timeouts,
        };
        Ok((transport, nonce))
    }

    /// The events to wait for: input, and room for output. Even without output, a closed reader is reported.
    pub fn interest(&self) -> [Option<Interest<'_>>; 2] {
        let out = if self.is_drained() { PollFlags::empty() } else { PollFlags::OUT };
        [Some((self.streams.input(), PollFlags::IN)), Some((self.streams.output(), out))]
    }

    /// Reads the available bytes. Returns false if the other side has closed the stream.
    pub fn read(&mut self) -> bool {
        match descriptors::read(self.streams.input(), &mut self.buffer) {
            IoResult::Bytes(length) => {
                self.frames.push(&self.buffer[..length]);
                true
            }
            IoResult::Nothing => true,
            IoResult::Ended => false,
        }
    }

    /// The next frame that was read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = self.frames.next_frame()?;
        if frame.is_some() {
            self.received = Instant::now();
        }
        Ok(frame)
    }

    /// The buffer to which outgoing frames are appended.
    pub fn wire(&mut self) -> &mut Vec<u8> {
        self.sent = Instant::now();
        &mut self.wire
    }

    /// Writes as many bytes as fit. Returns false if the other side no longer reads.
    pub fn write(&mut self) -> bool {
        while !self.is_drained() {
            match descriptors::write(self.streams.output(), &self.wire[self.written..]) {
                IoResult::Bytes(length) => self.written += length,
                IoResult::Nothing => break,
                IoResult::Ended => return false,
            }
        }
        if self.written >= CHUNK || self.is_drained() {
            self.wire.drain(..self.written);
            self.written = 0;
        }
        true
    }

    /// Writes all remaining bytes, until the timeout or until the other side no longer reads.
    pub fn write_rest(&mut self, timeout: Duration) {
        let begin = Instant::now();
        while self.write() && !self.is_drained() && begin.elapsed() < timeout {
            descriptors::wait([Some((self.streams.output(), PollFlags::OUT))], timeout);
        }
    }

    /// Whether new frames may be produced before the other side has read some.
    pub fn has_room(&self) -> bool {
        self.wire.len() - self.written < FULL
    }

    /// Whether all bytes were written.
    pub fn is_drained(&self) -> bool {
        self.wire.len() == self.written
    }

    /// Whether a heartbeat is due. No heartbeat is needed while other frames are unwritten.
    pub fn is_heartbeat_due(&self) -> bool {
        self.is_drained() && self.sent.elapsed() >= self.timeouts.heartbeat
    }

    /// Whether the other side has been silent for too long.
    pub fn is_silent(&self) -> bool {
        self.received.elapsed() >= self.timeouts.silence
    }

    /// The time until a heartbeat or the silence timeout is due.
    pub fn until_due(&self) -> Duration {
        let silence = self.timeouts.silence.saturating_sub(self.received.elapsed());
        let heartbeat = self.timeouts.heartbeat.saturating_sub(self.sent.elapsed());
        // A heartbeat that cannot be sent waits for room, not for the clock.
        silence.min(if self.is_drained() { heartbeat } else { self.timeouts.heartbeat })
    }
}

/// Connects to the socket, and sends the token. The token is the first line of stdin and not an argument, because the
/// process list shows arguments. After that the end of stdin has no meaning.
fn connect(socket: &Path, timeouts: Timeouts) -> Result<UnixStream, Refusal> {
    let stdin = io::stdin();
    let (token, _) = first_line(stdin.as_fd(), timeouts).ok_or(Refusal::NoToken)?;
    let mut stream = UnixStream::connect(socket).map_err(Refusal::NoListener)?;
    stream.write_all(&token).and_then(|()| stream.write_all(b"\n")).map_err(Refusal::NoListener)?;
    Ok(stream)
}

/// Reads the first line, without its newline, and the bytes after it. None if the line is too long, or does not arrive
/// in time.
fn first_line(from: BorrowedFd<'_>, timeouts: Timeouts) -> Option<(Vec<u8>, Vec<u8>)> {
    let begin = Instant::now();
    let mut line = Vec::new();
    let mut buffer = [0; MAX_LINE];
    loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            line.truncate(end);
            return Some((line, rest));
        }
        let left = timeouts.silence.saturating_sub(begin.elapsed());
        if line.len() >= MAX_LINE || left.is_zero() {
            return None;
        }
        let [ready] = descriptors::wait([Some((from, PollFlags::IN))], left);
        if ready.is_empty() {
            continue;
        }
        match descriptors::read(from, &mut buffer) {
            IoResult::Bytes(length) => line.extend_from_slice(&buffer[..length]),
            IoResult::Nothing => {}
            IoResult::Ended => return None,
        }
    }
}

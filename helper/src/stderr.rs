//! Forwards the command's stderr to the reader, over this program's stderr or in frames. It never blocks the command,
//! and its buffer is bounded.

use std::{
    collections::VecDeque,
    io::Stderr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{event::PollFlags, io};

use crate::{
    arguments::Job,
    descriptors::{self, Interest, IoResult},
};

/// The size of the buffer for a slow reader. When it is full, the oldest bytes are dropped, because the end of an error
/// log explains a failure better than its beginning.
const WAITING: usize = 64 * 1024;
const CHUNK: usize = 16 * 1024;

/// Forwards from the command to the reader.
pub struct StderrForwarder {
    from: Option<OwnedFd>,
    /// This program's stderr; none if the output is fetched by [`StderrForwarder::take`].
    to: Option<Stderr>,
    in_frames: bool,
    waiting: VecDeque<u8>,
    lost: u64,
}

impl StderrForwarder {
    /// Creates a forwarder before the command is started. Makes this program's stderr non-blocking, if it is used.
    pub fn of(job: &Job) -> io::Result<Self> {
        let in_frames = job.socket.is_some();
        let to = std::io::stderr();
        if !in_frames {
            descriptors::never_block(&to)?;
        }
        Ok(Self { from: None, to: (!in_frames).then_some(to), in_frames, waiting: VecDeque::new(), lost: 0 })
    }

    /// Takes waiting bytes for one frame.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if !self.in_frames || self.waiting.is_empty() {
            return None;
        }
        self.note_lost();
        Some(self.waiting.drain(..self.waiting.len().min(CHUNK)).collect())
    }

    /// Sets the command's stderr, which must be non-blocking.
    pub fn attach(&mut self, from: OwnedFd) {
        self.from = Some(from);
    }

    /// The events to wait for: of the command's stderr, and of the reader.
    pub fn interest(&self) -> [Option<Interest<'_>>; 2] {
        let to = self.to.as_ref().filter(|_| !self.waiting.is_empty());
        [self.from.as_ref().map(|from| (from.as_fd(), PollFlags::IN)), to.map(|to| (to.as_fd(), PollFlags::OUT))]
    }

    /// Forwards the available bytes.
    pub fn forward(&mut self) {
        let mut buffer = [0; CHUNK];
        for _ in 0..4 {
            match self.from.as_ref().map_or(IoResult::Nothing, |from| descriptors::read(from, &mut buffer)) {
                IoResult::Bytes(length) => self.push(&buffer[..length]),
                IoResult::Ended => self.from = None,
                IoResult::Nothing => break,
            }
        }
        self.write();
    }

    /// Adds a message of this program, or output of the command.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        self.write();
        let surplus = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..surplus);
        self.lost = self.lost.saturating_add(surplus as u64);
    }

    fn write(&mut self) {
        if self.in_frames {
            return;
        }
        while !self.waiting.is_empty() {
            self.note_lost();
            let Some(to) = &self.to else {
                self.waiting.clear();
                return;
            };
            match descriptors::write(to, self.waiting.as_slices().0) {
                IoResult::Bytes(length) => {
                    self.waiting.drain(..length);
                }
                IoResult::Nothing => return,
                IoResult::Ended => {
                    self.to = None;
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    fn note_lost(&mut self) {
        if self.lost > 0 {
            let note = format!("\n[{} bytes of stderr were dropped, because the reader was too slow]\n", self.lost);
            for byte in note.bytes().rev() {
                self.waiting.push_front(byte);
            }
            self.lost = 0;
        }
    }
}

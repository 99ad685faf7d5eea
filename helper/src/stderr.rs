//! The command's stderr on its way to people, by our own stderr or by frames: never in the way, and never more of it in
//! memory than a little.
//!
//! It must not know what it says.

use std::{
    collections::VecDeque,
    io::Stderr,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{event::PollFlags, io};

use crate::{
    arguments::Job,
    descriptors::{self, Moved, Wanted},
};

/// What waits for a reader that is slow. Then the oldest goes: an end tells more of a failure than a beginning.
const WAITING: usize = 64 * 1024;
const PIECE: usize = 16 * 1024;

/// From the command to us to the reader.
pub struct Stderrs {
    from: Option<OwnedFd>,
    /// Ours; what waits is taken by [`Stderrs::take`] otherwise.
    to: Option<Stderr>,
    is_taken: bool,
    waiting: VecDeque<u8>,
    lost: u64,
}

impl Stderrs {
    /// Without a command yet. Ours, where that is the way, does not block from here on.
    pub fn of(job: &Job) -> io::Result<Self> {
        let is_taken = job.socket.is_some();
        let to = std::io::stderr();
        if !is_taken {
            descriptors::never_block(&to)?;
        }
        Ok(Self { from: None, to: (!is_taken).then_some(to), is_taken, waiting: VecDeque::new(), lost: 0 })
    }

    /// What waits, at most a frame's worth of it.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if !self.is_taken || self.waiting.is_empty() {
            return None;
        }
        self.note_lost();
        Some(self.waiting.drain(..self.waiting.len().min(PIECE)).collect())
    }

    /// Takes the command's, which must not block.
    pub fn attach(&mut self, from: OwnedFd) {
        self.from = Some(from);
    }

    /// What to wait for: the command's side, and the reader's.
    pub fn wanted(&self) -> [Option<Wanted<'_>>; 2] {
        let to = self.to.as_ref().filter(|_| !self.waiting.is_empty());
        [self.from.as_ref().map(|from| (from.as_fd(), PollFlags::IN)), to.map(|to| (to.as_fd(), PollFlags::OUT))]
    }

    /// Passes on what there is.
    pub fn pass(&mut self) {
        let mut buffer = [0; PIECE];
        for _ in 0..4 {
            match self.from.as_ref().map_or(Moved::Nothing, |from| descriptors::read(from, &mut buffer)) {
                Moved::Bytes(length) => self.say(&buffer[..length]),
                Moved::Ended => self.from = None,
                Moved::Nothing => break,
            }
        }
        self.write();
    }

    /// Says something of our own, or of the command's.
    pub fn say(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
        self.write();
        let surplus = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..surplus);
        self.lost = self.lost.saturating_add(surplus as u64);
    }

    fn write(&mut self) {
        if self.is_taken {
            return;
        }
        while !self.waiting.is_empty() {
            self.note_lost();
            let Some(to) = &self.to else {
                self.waiting.clear();
                return;
            };
            match descriptors::write(to, self.waiting.as_slices().0) {
                Moved::Bytes(length) => {
                    self.waiting.drain(..length);
                }
                Moved::Nothing => return,
                Moved::Ended => {
                    self.to = None;
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    fn note_lost(&mut self) {
        if self.lost > 0 {
            let note = format!("\n[{} bytes of stderr were dropped, since nobody took them]\n", self.lost);
            for byte in note.bytes().rev() {
                self.waiting.push_front(byte);
            }
            self.lost = 0;
        }
    }
}

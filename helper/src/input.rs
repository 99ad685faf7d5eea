//! The pipe into a restore's command. To let go of it is to say that the input is over, so that is guarded by its type:
//! only [`Input::release`] does so while anybody lives; whoever drops it otherwise kills the whole family first.
//!
//! It must not know where the bytes come from, nor that a holder has the pipe, too.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{event::PollFlags, io::ioctl_fionread};
use stowaway_seal::Outcome;

use crate::{
    descriptors::{self, Moved, Wanted},
    family::Leader,
    pipe::Pipe,
};

/// The input of a command that runs.
pub struct Input {
    leader: Leader,
    /// Ours as well, so that what the command left can be seen, and so that a write to it cannot fail.
    reader: OwnedFd,
    writer: Option<OwnedFd>,
}

impl Input {
    /// Of the command that reads from this pipe.
    pub fn of(leader: Leader, pipe: Pipe) -> Self {
        Self { leader, reader: pipe.reader, writer: Some(pipe.writer) }
    }

    /// What to wait for in order to write.
    pub fn wanted(&self) -> Option<Wanted<'_>> {
        self.writer.as_ref().map(|writer| (writer.as_fd(), PollFlags::OUT))
    }

    /// Writes what fits.
    pub fn write(&self, bytes: &[u8]) -> usize {
        match self.writer.as_ref().map(|writer| descriptors::write(writer, bytes)) {
            Some(Moved::Bytes(length)) => length,
            _ => 0,
        }
    }

    /// Whether bytes lie in the pipe that nobody has read.
    pub fn is_left(&self) -> bool {
        // Not known is not read.
        ioctl_fionread(&self.reader).map_or(true, |length| length > 0)
    }

    /// How the command ended, if it has.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.leader.outcome()
    }

    /// Lets the command see the end of its input.
    pub fn release(&mut self) {
        self.writer = None;
    }

    /// Whether the command may have seen the end of its input.
    pub fn is_released(&self) -> bool {
        self.writer.is_none()
    }

    /// Makes an end of the command and of all that it started: gently with what a command left that has ended after its
    /// input was over, else of all at once. One by one, a shell would go on with its next line, and the second half of a
    /// pipeline would take the end of the first for the end of its input.
    pub fn end(&mut self, patience: Duration) {
        if self.is_released() && self.outcome().is_some() {
            self.leader.end(patience);
        } else {
            self.leader.kill();
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if !self.is_released() {
            self.leader.kill();
        }
    }
}

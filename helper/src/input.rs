//! The writing end of the pipe to a restore's command. The command takes a closed pipe for the end of its input, so the
//! type guards against that: only [`Input::release`] closes it while processes live. Dropping an [`Input`] kills all
//! descendants first.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{event::PollFlags, io::ioctl_fionread};
use stowaway_protocol::Outcome;

use crate::{
    descriptors::{self, Interest, IoResult},
    family::CommandProcess,
    pipe::Pipe,
};

/// The input of a running command.
pub struct Input {
    process: CommandProcess,
    /// The reading end. This process holds it, too, so that unread input can be counted, and so that writes do not
    /// fail.
    reader: OwnedFd,
    writer: Option<OwnedFd>,
}

impl Input {
    /// The input of the command that reads from this pipe.
    pub fn of(process: CommandProcess, pipe: Pipe) -> Self {
        Self { process, reader: pipe.reader, writer: Some(pipe.writer) }
    }

    /// The event to wait for before the next write.
    pub fn interest(&self) -> Option<Interest<'_>> {
        self.writer.as_ref().map(|writer| (writer.as_fd(), PollFlags::OUT))
    }

    /// Writes as many bytes as fit.
    pub fn write(&self, bytes: &[u8]) -> usize {
        match self.writer.as_ref().map(|writer| descriptors::write(writer, bytes)) {
            Some(IoResult::Bytes(length)) => length,
            _ => 0,
        }
    }

    /// Whether the pipe contains unread bytes.
    pub fn is_left(&self) -> bool {
        // If the number is unknown, count the input as unread.
        ioctl_fionread(&self.reader).map_or(true, |length| length > 0)
    }

    /// The outcome of the command, if it has ended.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.process.outcome()
    }

    /// Closes the pipe, so that the command sees the end of its input.
    pub fn release(&mut self) {
        self.writer = None;
    }

    /// Whether the command may have seen the end of its input.
    pub fn is_released(&self) -> bool {
        self.writer.is_none()
    }

    /// Ends the command and all its descendants. If the command has ended after its input was complete, the remaining
    /// processes are ended gently. Otherwise all are killed at once: if they ended one by one, a shell would continue
    /// with its next line, and the second half of a pipeline would take the end of the first half for the end of its
    /// input.
    pub fn end(&mut self, timeout: Duration) {
        if self.is_released() && self.outcome().is_some() {
            self.process.end(timeout);
        } else {
            self.process.kill();
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if !self.is_released() {
            self.process.kill();
        }
    }
}

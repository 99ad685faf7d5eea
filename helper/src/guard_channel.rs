//! The channel between the two processes of a restore: a socket pair that no other process has. The guard sends the
//! descriptors over it once. Then each side sends GO once. End of file means that the other process is gone.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    cmsg_space,
    event::PollFlags,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    stdio::dup2_stdin,
};

use crate::{
    descriptors::{self, Interest, IoResult},
    pipe::Pipe,
};

const GO: u8 = b'g';
/// The guard's stdin, and both ends of three pipes.
const PASSED: usize = 7;

/// One end of the channel.
pub struct GuardChannel(UnixStream);

/// The result of reading from the channel.
#[derive(Debug, Eq, PartialEq)]
pub enum Received {
    /// GO. From the worker: close the command's input. From the guard: it is closed.
    Go,
    /// Nothing for now.
    Nothing,
    /// The other process is gone.
    Closed,
}

/// The pipes of a restore's command.
pub struct Pipes {
    /// Pipe of the command's stdin.
    pub input: Pipe,
    /// Pipe of the command's stdout.
    pub output: Pipe,
    /// Pipe of the command's stderr.
    pub errors: Pipe,
}

impl Pipes {
    /// Creates the pipes before the command is started.
    pub fn new() -> io::Result<Self> {
        Ok(Self { input: Pipe::to_command()?, output: Pipe::from_command()?, errors: Pipe::from_command()? })
    }
}

impl GuardChannel {
    /// Creates the guard's end, and the end that the worker gets as stdin. The pipes and the guard's own stdin, which
    /// becomes the worker's, are already sent over it.
    pub fn create(pipes: &Pipes) -> io::Result<(Self, OwnedFd)> {
        let (own, workers) = UnixStream::pair()?;
        let stdin = io::stdin();
        let Pipes { input, output, errors } = pipes;
        let passed = [
            stdin.as_fd(),
            input.reader.as_fd(),
            input.writer.as_fd(),
            output.reader.as_fd(),
            output.writer.as_fd(),
            errors.reader.as_fd(),
            errors.writer.as_fd(),
        ];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PASSED))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&passed)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&own, &[IoSlice::new(&[GO])], &mut control, SendFlags::NOSIGNAL)?;
        own.set_nonblocking(true)?;
        Ok((Self(own), workers.into()))
    }

    /// Takes the worker's end from stdin, and receives the descriptors.
    pub fn inherit() -> io::Result<(Self, Pipes)> {
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(PASSED))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&channel, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut passed = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                passed.extend(descriptors);
            }
        }
        let passed: [OwnedFd; PASSED] = passed.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        let [stdin, input, into_input, output, into_output, errors, into_errors] = passed;
        dup2_stdin(stdin)?;
        channel.set_nonblocking(true)?;
        let pipes = Pipes {
            input: Pipe { reader: input, writer: into_input },
            output: Pipe { reader: output, writer: into_output },
            errors: Pipe { reader: errors, writer: into_errors },
        };
        Ok((Self(channel), pipes))
    }

    /// The event to wait for before receiving.
    pub fn interest(&self) -> Interest<'_> {
        (self.0.as_fd(), PollFlags::IN)
    }

    /// Sends GO. A lost connection is detected when receiving.
    pub fn send_go(&self) {
        descriptors::write(&self.0, &[GO]);
    }

    /// Receives without blocking.
    pub fn receive(&self) -> Received {
        match descriptors::read(&self.0, &mut [0]) {
            IoResult::Bytes(_) => Received::Go,
            IoResult::Nothing => Received::Nothing,
            IoResult::Ended => Received::Closed,
        }
    }
}

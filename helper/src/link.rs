//! What the two processes of a restore have between them: a socket of which nobody else has an end. Descriptors go over it
//! once, then one word in each direction; its end tells each that the other is gone.
//!
//! It must not know when the word is due.

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
    descriptors::{self, Moved, Wanted},
    pipe::Pipe,
};

const WORD: u8 = b'g';
/// Our stdin, and three pipes.
const HANDED: usize = 7;

/// One end.
pub struct Link(UnixStream);

/// What came over it.
#[derive(Debug, Eq, PartialEq)]
pub enum Heard {
    /// The word. From the worker: let go of the command's input. From the holder: done.
    Word,
    /// Nothing for now.
    Nothing,
    /// The other process is gone.
    Gone,
}

/// The pipes of a restore's command.
pub struct Pipes {
    /// Its stdin.
    pub input: Pipe,
    /// Its stdout.
    pub output: Pipe,
    /// Its stderr.
    pub errors: Pipe,
}

impl Pipes {
    /// Without a command yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self { input: Pipe::to_command()?, output: Pipe::from_command()?, errors: Pipe::from_command()? })
    }
}

impl Link {
    /// The holder's end, and the one that its worker is to have as stdin. In it already: the pipes, and the holder's own
    /// stdin, which the worker takes for its own.
    pub fn with(pipes: &Pipes) -> io::Result<(Self, OwnedFd)> {
        let (ours, workers) = UnixStream::pair()?;
        let stdin = io::stdin();
        let Pipes { input, output, errors } = pipes;
        let handed = [
            stdin.as_fd(),
            input.reader.as_fd(),
            input.writer.as_fd(),
            output.reader.as_fd(),
            output.writer.as_fd(),
            errors.reader.as_fd(),
            errors.writer.as_fd(),
        ];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDED))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&handed)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&ours, &[IoSlice::new(&[WORD])], &mut control, SendFlags::NOSIGNAL)?;
        ours.set_nonblocking(true)?;
        Ok((Self(ours), workers.into()))
    }

    /// The worker's end, and what was in it.
    pub fn take() -> io::Result<(Self, Pipes)> {
        let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDED))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&link, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut handed = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                handed.extend(descriptors);
            }
        }
        let handed: [OwnedFd; HANDED] = handed.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        let [stdin, input, into_input, output, into_output, errors, into_errors] = handed;
        dup2_stdin(stdin)?;
        link.set_nonblocking(true)?;
        let pipes = Pipes {
            input: Pipe { reader: input, writer: into_input },
            output: Pipe { reader: output, writer: into_output },
            errors: Pipe { reader: errors, writer: into_errors },
        };
        Ok((Self(link), pipes))
    }

    /// What to wait for in order to hear.
    pub fn wanted(&self) -> Wanted<'_> {
        (self.0.as_fd(), PollFlags::IN)
    }

    /// Says the word. One that is gone shows in what is heard.
    pub fn say(&self) {
        descriptors::write(&self.0, &[WORD]);
    }

    /// Hears what there is.
    pub fn hear(&self) -> Heard {
        match descriptors::read(&self.0, &mut [0]) {
            Moved::Bytes(_) => Heard::Word,
            Moved::Nothing => Heard::Nothing,
            Moved::Ended => Heard::Gone,
        }
    }
}

//! A pipe to or from a command. Both ends are close-on-exec.

use std::os::fd::OwnedFd;

use rustix::{
    io,
    pipe::{PipeFlags, pipe_with},
};

use crate::descriptors;

/// Both ends of a pipe.
pub struct Pipe {
    /// The reading end.
    pub reader: OwnedFd,
    /// The writing end.
    pub writer: OwnedFd,
}

impl Pipe {
    /// A pipe whose writing end, which stays in this process, is non-blocking.
    pub fn to_command() -> io::Result<Self> {
        let pipe = Self::new()?;
        descriptors::never_block(&pipe.writer)?;
        Ok(pipe)
    }

    /// A pipe whose reading end, which stays in this process, is non-blocking.
    pub fn from_command() -> io::Result<Self> {
        let pipe = Self::new()?;
        descriptors::never_block(&pipe.reader)?;
        Ok(pipe)
    }

    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { reader, writer })
    }
}

//! A pipe to or from a command. Nobody inherits an end of it by accident.
//!
//! It must not know what goes through it.

use std::os::fd::OwnedFd;

use rustix::{
    io,
    pipe::{PipeFlags, pipe_with},
};

use crate::descriptors;

/// Both ends.
pub struct Pipe {
    /// What is read from.
    pub reader: OwnedFd,
    /// What is written to.
    pub writer: OwnedFd,
}

impl Pipe {
    /// One whose writing end, ours, never blocks.
    pub fn to_command() -> io::Result<Self> {
        let pipe = Self::new()?;
        descriptors::never_block(&pipe.writer)?;
        Ok(pipe)
    }

    /// One whose reading end, ours, never blocks.
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

//! An open file into the repository: as many bytes as it had when it was opened. What was appended since comes with the next
//! run.
//!
//! It must not know where the file is, nor what becomes of one that cannot be read.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Arc, atomic::Ordering},
};

use rustic_core::DataId;

use super::extents::{Extents, Filled};
use crate::repository::{
    Progress, RepositoryError,
    chunker::{self, Chunker},
    pack::BlobKind,
    packer::{Content, Packer},
};

/// Why a file is not stored.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something is wrong with it.
    File(io::Error),
    /// The run has failed.
    Run(RepositoryError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        Self::Run(error)
    }
}

/// Stores files, one after the other.
pub(super) struct FileSaver<'a> {
    packer: &'a Arc<Packer>,
    chunker: Chunker,
    progress: &'a Progress,
    buffer: Vec<u8>,
}

impl<'a> FileSaver<'a> {
    pub fn new(packer: &'a Arc<Packer>, chunker: Chunker, progress: &'a Progress) -> Self {
        Self { packer, chunker, progress, buffer: Vec::new() }
    }

    /// Stores a file of that size, and tells what its chunks are called.
    pub fn save(&mut self, file: File, size: u64) -> Result<Vec<DataId>, Failure> {
        let mut reading = Reading { file: Extents::new(file, size), size, at: 0 };
        if size <= chunker::MIN_BYTES as u64 {
            let length = self.read(&mut reading)?;
            reading.check_end()?;
            if length == 0 {
                return Ok(Vec::new());
            }
            return Ok(vec![self.packer.save(BlobKind::Data, &self.buffer[..length])?.into()]);
        }
        // Without what is left of a file that could not be read to its end.
        let mut chunker = self.chunker.clone();
        let mut content = Content::new(self.packer);
        while reading.at < size {
            self.packer.check()?;
            let length = self.read(&mut reading)?;
            content.add(&mut chunker, &self.buffer[..length])?;
        }
        reading.check_end()?;
        Ok(content.finish(&mut chunker)?)
    }

    /// Reads what is next, and tells how much of the buffer it is: less only at the file's end.
    fn read(&mut self, reading: &mut Reading) -> Result<usize, Failure> {
        let wanted = usize::try_from(reading.size - reading.at).unwrap_or(usize::MAX).min(chunker::MIN_BYTES);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut filled = 0;
        while filled < wanted {
            match reading.read(&mut self.buffer[filled..wanted]) {
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.read.fetch_add(filled as u64, Ordering::Relaxed);
        Ok(filled)
    }
}

/// A file, and how far it was read.
struct Reading {
    file: Extents,
    size: u64,
    at: u64,
}

impl Reading {
    /// Reads at least one byte into a buffer that is not empty, and that the file has enough for.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match self.file.read_at(buffer, self.at)? {
            Filled::Data(length) | Filled::Hole(length) => length,
        };
        if length == 0 {
            let text = format!("it shrank from {} to {} bytes while it was read", self.size, self.at);
            return Err(io::Error::other(text));
        }
        self.at += length as u64;
        Ok(length)
    }

    /// A file system that says 0 bytes of a file with content must not make it an empty one.
    fn check_end(&self) -> io::Result<()> {
        let file = self.file.file();
        let more = file.read_at(&mut [0], self.size)?;
        if more > 0 && file.metadata()?.size() <= self.size {
            let text = format!("it holds more than the {} bytes that its file system says", self.size);
            return Err(io::Error::other(text));
        }
        Ok(())
    }
}

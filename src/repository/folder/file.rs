//! An open file into the repository: as many bytes as it had when it was opened. What was appended since comes with the next
//! run. A file that became shorter meanwhile is read once more, and then stored as long as it is.
//!
//! It must not know where the file is, nor what becomes of one that cannot be read.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use rustic_core::DataId;
use rustix::{fs::Statx, io::Errno};

use super::{
    extents::{Extents, Filled},
    opened::{Opened, stat_of},
};
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
    /// It is gone.
    Vanished,
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

/// A file that is stored.
#[derive(Debug)]
pub(super) struct Saved {
    pub content: Vec<DataId>,
    /// How many bytes that is.
    pub size: u64,
    /// How the file changed while it was read, if it did.
    pub changed: Option<Changed>,
}

/// A file changed while it was read: what is stored may be neither what it was before nor what it is now.
#[derive(Debug)]
pub(super) struct Changed {
    /// The file as it was before the reading of what is stored.
    pub stat: Statx,
    /// For people.
    pub how: String,
}

/// What one reading gave.
struct Reading {
    content: Vec<DataId>,
    size: u64,
    /// The file after its last byte was read.
    now: Statx,
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

    /// Stores a file, and returns the ids of its chunks.
    pub fn save(&mut self, opened: &Opened) -> Result<Saved, Failure> {
        let stat = opened.stat;
        match self.read_through(opened, &stat) {
            // Holes are not read, so that the length alone shows whether the file ended within one.
            Ok(Reading { size, now, .. }) if size.min(now.stx_size) < stat.stx_size => {
                let how = format!("it shrank from {} to {} bytes, and was read again", stat.stx_size, now.stx_size);
                self.save_again(opened, now, how)
            }
            Ok(Reading { content, size, now }) => {
                let changed = how_changed(&stat, &now).map(|how| Changed { stat, how });
                Ok(Saved { content, size, changed })
            }
            // Another client of the file system deleted it, or put another file in its place.
            Err(Failure::File(error)) if is_stale(&error) => {
                let opened = match opened.open_again() {
                    Ok(opened) => opened,
                    Err(Errno::NOENT) => return Err(Failure::Vanished),
                    Err(Errno::STALE) if opened.has_lost_its_folder() => return Err(Failure::Vanished),
                    Err(error) => return Err(Failure::File(error.into())),
                };
                self.save_again(&opened, opened.stat, "another file took its place, which was read instead".into())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Stores a file which changes as long as it is now, or as it turns out to be.
    fn save_again(&mut self, opened: &Opened, stat: Statx, how: String) -> Result<Saved, Failure> {
        let Reading { content, size, .. } = self.read_through(opened, &stat)?;
        Ok(Saved { content, size, changed: Some(Changed { stat, how }) })
    }

    /// Reads a file to the length that it had, or to its end if that comes first.
    fn read_through(&mut self, opened: &Opened, stat: &Statx) -> Result<Reading, Failure> {
        let size = stat.stx_size;
        let mut file = Extents::new(&opened.file, size);
        let (content, at) = if size <= chunker::MIN_BYTES as u64 {
            let length = self.read(&mut file, 0, size)?;
            let content = match length {
                0 => Vec::new(),
                length => vec![self.packer.save(BlobKind::Data, &self.buffer[..length])?.into()],
            };
            (content, length as u64)
        } else {
            // Without what is left of a file that could not be read to its end.
            let mut chunker = self.chunker.clone();
            let (mut content, mut at) = (Content::new(self.packer), 0);
            while at < size {
                self.packer.check()?;
                let length = self.read(&mut file, at, size)?;
                if length == 0 {
                    break;
                }
                content.add(&mut chunker, &self.buffer[..length])?;
                at += length as u64;
            }
            (content.finish(&mut chunker)?, at)
        };
        if at == size {
            check_end(&opened.file, size)?;
        }
        let now = opened.look().map_err(io::Error::from)?;
        Ok(Reading { content, size: at, now })
    }

    /// Reads what is next, and tells how much of the buffer it is: less only at the file's end.
    fn read(&mut self, file: &mut Extents<'_>, at: u64, size: u64) -> Result<usize, Failure> {
        let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(chunker::MIN_BYTES);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut self.buffer[filled..wanted], at + filled as u64) {
                Ok(Filled::Data(0)) => break,
                Ok(Filled::Data(length) | Filled::Hole(length)) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.progress.read.fetch_add(filled as u64, Ordering::Relaxed);
        Ok(filled)
    }
}

/// A file system that reports 0 bytes of a file with content must not make it an empty one.
fn check_end(file: &File, size: u64) -> io::Result<()> {
    let more = file.read_at(&mut [0], size)?;
    if more > 0 && stat_of(file)?.stx_size <= size {
        let text = format!("it holds more than the {size} bytes that its file system reports");
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// How a file is another one than before its reading, by length and times.
fn how_changed(before: &Statx, now: &Statx) -> Option<String> {
    let times = |stat: &Statx| [stat.stx_mtime, stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec));
    if before.stx_size != now.stx_size {
        Some(format!("it grew from {} to {} bytes", before.stx_size, now.stx_size))
    } else if times(before) != times(now) {
        Some("it was written to".to_owned())
    } else {
        None
    }
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

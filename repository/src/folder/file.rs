//! Stores the content of an open file, up to the length which the file had when it was opened. Data which is appended
//! later is stored by the next run. A file which became shorter meanwhile is read again and stored with its new length.
//! A file whose reads end before the length which its file system reports is read again, and is not stored if they still
//! do.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use rustix::{
    fs::{AtFlags, Statx, StatxFlags, statx},
    io::Errno,
};

use super::{
    extents::{Extents, Filled},
    opened::Opened,
};
use crate::{
    Progress, RepositoryError,
    chunker::{self, Chunker},
    format::{BlobKind, DataId},
    packer::{Content, Packer},
};

/// Why a file is not stored.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file could not be read.
    File(io::Error),
    /// The file was deleted.
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

/// How often a file which another client deleted or replaced is opened by its name.
const MAX_ATTEMPTS: usize = 3;

/// A stored file.
#[derive(Debug)]
pub(super) struct Saved {
    pub content: Vec<DataId>,
    /// The length of the content.
    pub size: u64,
    /// How the file changed while it was read, if it did.
    pub changed: Option<Changed>,
}

/// A change of a file while it was read. The stored content may be neither the old nor the new one.
#[derive(Debug)]
pub(super) struct Changed {
    /// The file's metadata before the stored content was read.
    pub stat: Statx,
    /// A description for messages.
    pub how: String,
}

/// The result of reading a file once.
struct Reading {
    content: Vec<DataId>,
    size: u64,
    /// The file's metadata after its last byte was read.
    now: Statx,
}

/// The conclusion from one reading of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Conclusion {
    /// All bytes up to the former length were read.
    Whole,
    /// The file became shorter.
    Shrank,
    /// The reads ended before the length which the file system reports.
    EndedEarly,
}

/// Compares the length of a file before it was read, the number of bytes which were read, and the length afterwards.
fn conclude(before: u64, read: u64, after: u64) -> Conclusion {
    if read < before.min(after) {
        Conclusion::EndedEarly
    } else if after < before {
        // Holes are not read, so only the length shows whether the file was cut within a hole.
        Conclusion::Shrank
    } else {
        Conclusion::Whole
    }
}

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
            Ok(Reading { content, size, now }) => match conclude(stat.stx_size, size, now.stx_size) {
                Conclusion::Whole => {
                    let changed = describe_change(&stat, &now).map(|how| Changed { stat, how });
                    Ok(Saved { content, size, changed })
                }
                Conclusion::Shrank => {
                    let how = format!("it shrank from {} to {} bytes, and was read again", stat.stx_size, now.stx_size);
                    self.save_again(opened, now, how)
                }
                Conclusion::EndedEarly => {
                    let how = format!(
                        "its first reading ended after {size} of {} bytes, and it was read again",
                        stat.stx_size
                    );
                    // Network file systems update the length when a file is opened.
                    match opened.open_again() {
                        Ok(opened) => self.save_again(&opened, opened.stat, how),
                        Err(_) => self.save_again(opened, now, how),
                    }
                }
            },
            // Another client of the file system deleted or replaced the file.
            Err(Failure::File(error)) if is_stale(&error) => {
                let opened = reopen(opened)?;
                self.save_again(&opened, opened.stat, "another file replaced it, and was read instead".into())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads a file once more, up to its current length, or to its end if it shrinks again.
    fn save_again(&mut self, opened: &Opened, stat: Statx, how: String) -> Result<Saved, Failure> {
        let Reading { content, size, now } = self.read_through(opened, &stat)?;
        match conclude(stat.stx_size, size, now.stx_size) {
            Conclusion::EndedEarly => Err(Failure::File(ended_early(size, stat.stx_size.min(now.stx_size)))),
            Conclusion::Whole | Conclusion::Shrank => Ok(Saved { content, size, changed: Some(Changed { stat, how }) }),
        }
    }

    /// Reads a file up to the length in `stat`, or to its end if that comes first.
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
            // A fresh chunker, because the last one may hold the rest of a file whose reading failed.
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
        let now = opened.current_stat().map_err(io::Error::from)?;
        Ok(Reading { content, size: at, now })
    }

    /// Fills the buffer from this offset. Returns the number of bytes, which is lower than wanted only at the file's
    /// end.
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

/// Returns an error if the file has content beyond its reported size. Otherwise a file system which reports 0 bytes for
/// a file with content would cause an empty file in the snapshot.
fn check_end(file: &File, size: u64) -> io::Result<()> {
    let more = file.read_at(&mut [0], size)?;
    let now = || statx(file, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::SIZE);
    if more > 0 && now()?.stx_size <= size {
        let text = format!("it holds more than the {size} bytes that its file system reports");
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// Opens the file which has the name of a file with a stale handle. A file counts as deleted only if its folder does not
/// have it any more.
fn reopen(stale: &Opened) -> Result<Opened, Failure> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match stale.open_again() {
            Ok(opened) => return Ok(opened),
            Err(Errno::NOENT | Errno::STALE) if stale.is_gone() => return Err(Failure::Vanished),
            Err(Errno::NOENT | Errno::STALE) if attempts < MAX_ATTEMPTS => {}
            Err(error) => return Err(Failure::File(error.into())),
        }
    }
}

fn ended_early(read: u64, size: u64) -> io::Error {
    let text = format!(
        "its content ended after {read} of the {size} bytes that its file system reports, twice; compare it with a \
         copy, and repair it or remove it"
    );
    io::Error::other(text)
}

/// Compares length and times of a file before and after it was read.
fn describe_change(before: &Statx, now: &Statx) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_whole_only_up_to_the_length_that_the_file_system_reports() {
        for (before, read, after, expected) in [
            (0, 0, 0, Conclusion::Whole),
            (100, 100, 100, Conclusion::Whole),
            // What was appended is stored by the next run.
            (100, 100, 120, Conclusion::Whole),
            (100, 60, 60, Conclusion::Shrank),
            (100, 70, 60, Conclusion::Shrank),
            // The file was cut within a hole, which is not read.
            (100, 100, 60, Conclusion::Shrank),
            (100, 0, 0, Conclusion::Shrank),
            (100, 60, 100, Conclusion::EndedEarly),
            (100, 0, 100, Conclusion::EndedEarly),
            (100, 60, 120, Conclusion::EndedEarly),
            (100, 40, 60, Conclusion::EndedEarly),
        ] {
            assert_eq!(conclude(before, read, after), expected, "{before}, {read}, {after}");
        }
    }
}

//! A regular file that was opened by its name in a folder, and can be opened by that name again.
//!
//! By the handle of the folder alone. It must not know what is read from the file.

use std::{
    ffi::{CStr, CString},
    fs::File,
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx},
    io::Errno,
};

use super::metadata;

/// A pipe that took a file's place must not block the open.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: File,
    /// As the file was when it was opened.
    pub stat: Statx,
    folder: Arc<OwnedFd>,
    name: CString,
}

impl Opened {
    /// Opens the entry of that name; `Errno::NXIO` if it is no regular file by now.
    pub fn open(folder: &Arc<OwnedFd>, name: &CStr) -> rustix::io::Result<Self> {
        // Only the owner of a file, and root, may leave the time of the last access alone.
        let handle = match openat(folder, name, FILE | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(folder, name, FILE, Mode::empty()),
            handle => handle,
        }?;
        let file = File::from(handle);
        let stat = stat_of(&file)?;
        if metadata::file_type(&stat) != FileType::RegularFile {
            return Err(Errno::NXIO);
        }
        Ok(Self { file, stat, folder: Arc::clone(folder), name: name.to_owned() })
    }

    /// Opens what has the name now.
    pub fn open_again(&self) -> rustix::io::Result<Self> {
        Self::open(&self.folder, &self.name)
    }

    /// The file as it is now.
    pub fn look(&self) -> rustix::io::Result<Statx> {
        stat_of(&self.file)
    }

    /// Whether the folder itself is gone, so that nothing in it can be found by its name any more.
    pub fn has_lost_its_folder(&self) -> bool {
        is_gone(&self.folder)
    }
}

/// Whether a folder that is open was deleted: here, or by another client of a network file system.
pub(super) fn is_gone(folder: &OwnedFd) -> bool {
    match stat_of(folder) {
        Ok(stat) => stat.stx_nlink == 0,
        Err(error) => error == Errno::STALE,
    }
}

/// What the system knows of an open file or folder.
pub(super) fn stat_of(handle: impl std::os::fd::AsFd) -> rustix::io::Result<Statx> {
    statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

//! A regular file which was opened by its name within a folder's handle, and which can be opened again by that name.

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

/// NONBLOCK, because opening must not block if a pipe has replaced the file.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: File,
    /// The file's metadata when it was opened.
    pub stat: Statx,
    folder: Arc<OwnedFd>,
    name: CString,
}

impl Opened {
    /// Opens the entry of this name. Returns `Errno::NXIO` if the entry is not a regular file any more.
    pub fn open(folder: &Arc<OwnedFd>, name: &CStr) -> rustix::io::Result<Self> {
        // Only the owner of a file, and root, may use NOATIME.
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

    /// Opens the entry which has the name now.
    pub fn open_again(&self) -> rustix::io::Result<Self> {
        Self::open(&self.folder, &self.name)
    }

    /// The current metadata of the file.
    pub fn current_stat(&self) -> rustix::io::Result<Statx> {
        stat_of(&self.file)
    }

    /// Whether the folder was deleted, so that no entry can be opened by its name any more.
    pub fn is_folder_deleted(&self) -> bool {
        is_deleted(&self.folder)
    }
}

/// Whether an open folder was deleted, by this machine or by another client of a network file system.
pub(super) fn is_deleted(folder: &OwnedFd) -> bool {
    match stat_of(folder) {
        Ok(stat) => stat.stx_nlink == 0,
        Err(error) => error == Errno::STALE,
    }
}

/// The metadata of an open file or folder.
pub(super) fn stat_of(handle: impl std::os::fd::AsFd) -> rustix::io::Result<Statx> {
    statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

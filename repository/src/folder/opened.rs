//! A regular file which was opened by its name within a folder's handle, and which can be opened again by that name.

use std::{
    ffi::{CStr, CString},
    fs::File,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx},
    io::Errno,
};

use super::{
    metadata,
    open_folder::{Identity, OpenFolder, Presence},
};

/// NONBLOCK, because opening must not block if a pipe has replaced the file.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub file: File,
    /// The file's metadata when it was opened.
    pub stat: Statx,
    folder: Arc<OpenFolder>,
    name: CString,
}

impl Opened {
    /// Opens the entry of this name. Returns `Errno::NXIO` if the entry is not a regular file any more.
    pub fn open(folder: &Arc<OpenFolder>, name: &CStr) -> rustix::io::Result<Self> {
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
        current_stat_of(&self.file)
    }

    /// Whether the file was deleted or renamed, and no other file has its name.
    pub fn is_gone(&self) -> bool {
        self.folder.look_up(&self.name, Identity::of(&self.stat)) == Presence::Gone
    }
}

/// The metadata of an open file or folder as its server has it now, and not as a network file system's cache has it.
pub(super) fn current_stat_of(handle: impl std::os::fd::AsFd) -> rustix::io::Result<Statx> {
    statx(handle, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)
}

/// The metadata of an open file or folder.
pub(super) fn stat_of(handle: impl std::os::fd::AsFd) -> rustix::io::Result<Statx> {
    statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

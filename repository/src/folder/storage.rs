//! Decides whether an entry in the root of a volume belongs to the storage system, by the type of the file system and by
//! the entry's name and content. The entries are listed in `model`.

use std::{
    ffi::{CStr, OsStr},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstatfs, openat, statat},
    io::Errno,
};

use super::listing::{Listed, Listing};
use stowaway_model::{FileSystem, StorageEntry};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The type of the file system of a volume, by the handle of its root.
pub fn file_system_of(root: &OwnedFd) -> FileSystem {
    fstatfs(root).map_or(FileSystem::Unknown, |found| FileSystem::of_type(found.f_type))
}

/// Returns which entry of a storage system this is; none if the entry is the app's.
pub fn is_systems_own(root: &OwnedFd, file_system: FileSystem, name: &OsStr) -> Option<&'static StorageEntry> {
    let entry = StorageEntry::named(name.as_bytes(), file_system)?;
    let folder = match openat(root, name, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        // Only root may open it. Directories with snapshots are open to all users, so that a closed one is data.
        Err(Errno::ACCESS) if entry.is_empty() => return Some(entry),
        Err(_) => return None,
    };
    let Ok((mut names, None)) = Listing::of(&folder) else { return None };
    let is_folder = |name: &CStr| {
        statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    loop {
        match names.next_entry() {
            Ok(None) => return Some(entry),
            // Not every file system reports the kinds of its entries.
            Ok(Some(Listed { name, is_folder: is_listed_so }))
                if entry.can_hold(name.to_bytes(), is_listed_so || is_folder(name.as_c_str())) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
    }
}

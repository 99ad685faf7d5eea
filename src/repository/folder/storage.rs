//! Whether an entry in the root of a volume is the storage system's own, by what is there.
//!
//! By the handle of the root alone. It must not know which entries there are: `model` does.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use super::walk::names_in;
use crate::model::StorageEntry;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What of a storage system an entry in the root of a volume is; none if it is the app's.
pub fn is_systems_own(root: &OwnedFd, name: &OsStr) -> Option<&'static StorageEntry> {
    let entry = StorageEntry::named(name.as_bytes())?;
    let folder = match openat(root, name, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        // A folder that is closed to Stowaway is closed to the app, because both run as the same user.
        Err(Errno::ACCESS) => return Some(entry),
        Err(_) => return None,
    };
    let (names, failure) = names_in(&folder);
    let is_folder = |name| {
        statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    let is_own = failure.is_none()
        && names.iter().all(|listed| {
            // Not every file system lists the kinds of its entries.
            entry.can_hold(listed.name.to_bytes(), listed.is_folder || is_folder(listed.name.as_c_str()))
        });
    is_own.then_some(entry)
}

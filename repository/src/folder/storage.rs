//! Decides whether an entry in the root of a volume belongs to the storage system, by its name and content. The entries
//! are listed in `model`.

use std::{
    ffi::{CStr, OsStr},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use super::listing::{Listed, Listing};
use stowaway_model::StorageEntry;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Returns which entry of a storage system this is; none if the entry is the app's.
pub fn is_systems_own(root: &OwnedFd, name: &OsStr) -> Option<&'static StorageEntry> {
    let entry = StorageEntry::named(name.as_bytes())?;
    let folder = match openat(root, name, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        // A folder which Stowaway may not open is closed to the app, too, because both run as the same user.
        Err(Errno::ACCESS) => return Some(entry),
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

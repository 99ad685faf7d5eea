//! Moves a restored folder over a present one, folder by folder. Restored entries replace present ones, and other
//! entries stay.
//!
//! All steps use handles of folders, never a path of several names, because the volume's user may replace a folder by a
//! link at any time.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, fchmod, fchown, futimens,
        openat, renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
};
use xattr::FileExt;

use crate::{
    model::escape_name,
    repository::{Listed, Listing, RepositoryError, is_refusal, is_refusal_of_attribute},
};

pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A label which belongs to the machine. The target has its own.
const MACHINES_OWN: &str = "security.selinux";
const ACCESS_LIST: &str = "system.posix_acl_";

/// A failed step: the action, its path, and the error.
#[derive(Debug)]
pub(super) struct Refused {
    pub action: &'static str,
    /// Relative to the target.
    pub path: PathBuf,
    pub error: io::Error,
}

/// A folder which exists on both sides.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    /// Relative to both sides; empty for the sides themselves.
    path: PathBuf,
    /// The metadata of the restored folder before its entries were moved, which changes its times.
    wanted: Metadata,
    names: Listing,
}

/// Moves all entries of `part` into `root`, which is on the same file system, and removes the folders which are then
/// empty, except `part` itself. Folders which exist in both get the metadata of those in `part`, unless they are only
/// parents of the paths in `only`. Returns the metadata which could not be set.
pub(super) fn merge(part: &Path, root: &Path, only: &[PathBuf]) -> Result<Vec<String>, Refused> {
    let mut not_kept = Vec::new();
    let mut levels = vec![Level::new(open_side(part)?, open_side(root)?, PathBuf::new())?];
    while let Some(level) = levels.last_mut() {
        let next = level.names.next_entry().map_err(unlisted(&level.path))?;
        let Some(Listed { name, .. }) = next else {
            let Some(done) = levels.pop() else { break };
            if let Some(above) = levels.last() {
                let is_only_parent = only.iter().any(|path| path.starts_with(&done.path) && *path != done.path);
                if !is_only_parent {
                    let lost = take_over(&done).map_err(|error| Refused {
                        action: "set owner, mode and attributes of",
                        path: done.path.clone(),
                        error,
                    })?;
                    not_kept.extend(
                        lost.into_iter()
                            .map(|what| format!("{what} of {}", escape_name(done.path.as_os_str().as_bytes()))),
                    );
                }
                let name = done.path.file_name().unwrap_or_default();
                unlinkat(&above.from, name, AtFlags::REMOVEDIR).map_err(refused("remove the emptied", &done.path))?;
            }
            continue;
        };
        if let Some(below) = level.move_entry(OsStr::from_bytes(name.to_bytes()))? {
            levels.push(below);
        }
    }
    Ok(not_kept)
}

impl Level {
    fn new(from: OwnedFd, to: OwnedFd, path: PathBuf) -> Result<Self, Refused> {
        let (names, failure) = Listing::of(&from).map_err(unlisted(&path))?;
        if let Some(error) = failure {
            return Err(Refused { action: "list", path, error });
        }
        let file = from.try_clone().map(File::from);
        let wanted = file.and_then(|file| file.metadata());
        let wanted = wanted.map_err(|error| Refused { action: "read the metadata of", path: path.clone(), error })?;
        Ok(Self { from, to, path, wanted, names })
    }

    /// Moves an entry to the target. If the entry and the target's entry are both folders, it returns them instead.
    fn move_entry(&self, name: &OsStr) -> Result<Option<Self>, Refused> {
        let path = self.path.join(name);
        let moved = match renameat_with(&self.from, name, &self.to, name, RenameFlags::NOREPLACE) {
            // File systems without RENAME_NOREPLACE (NFS).
            Err(Errno::INVAL | Errno::NOSYS) => match statat(&self.to, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => renameat(&self.from, name, &self.to, name),
                Ok(_) => Err(Errno::EXIST),
                Err(error) => Err(error),
            },
            moved => moved,
        };
        match moved {
            Ok(()) => return Ok(None),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(refused("move what was restored to", &path)(error)),
        }
        let kind = |folder: &OwnedFd| {
            let stat =
                statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused("read the metadata of", &path))?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        match (kind(&self.from)?, kind(&self.to)?) {
            (true, true) => {
                let open = |folder: &OwnedFd| {
                    openat(folder, name, FOLDER, Mode::empty()).map_err(refused("open the folder", &path))
                };
                return Self::new(open(&self.from)?, open(&self.to)?, path).map(Some);
            }
            (_, true) => {
                // Links in the folder are removed, not followed.
                let there = PathBuf::from(format!("/proc/self/fd/{}", self.to.as_raw_fd())).join(name);
                let removed = std::fs::remove_dir_all(there);
                removed.map_err(|error| Refused { action: "remove the folder", path: path.clone(), error })?;
            }
            (true, false) => {
                unlinkat(&self.to, name, AtFlags::empty()).map_err(refused("remove", &path))?;
            }
            // The rename below replaces the file atomically.
            (false, false) => {}
        }
        renameat(&self.from, name, &self.to, name).map_err(refused("move what was restored to", &path))?;
        Ok(None)
    }
}

/// Opens the restored or the present folder itself. Its path may be a link of the system (`/proc/self/fd`).
pub(super) fn open_side(path: &Path) -> Result<OwnedFd, Refused> {
    openat(CWD, path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(refused("open", Path::new("")))
}

pub(super) fn refused(action: &'static str, path: &Path) -> impl Fn(Errno) -> Refused {
    move |error| Refused { action, path: path.to_owned(), error: error.into() }
}

pub(super) fn unlisted(path: &Path) -> impl Fn(RepositoryError) -> Refused {
    move |error| Refused { action: "list", path: path.to_owned(), error: io::Error::other(error) }
}

/// Sets the metadata of the restored folder on the present one. Returns the metadata which the system refused to set.
fn take_over(level: &Level) -> io::Result<Vec<String>> {
    let mut not_kept = Vec::new();
    let (from, to) = (File::from(level.from.try_clone()?), File::from(level.to.try_clone()?));
    let (wanted, present) = (&level.wanted, to.metadata()?);
    let (user, group) = (wanted.uid(), wanted.gid());
    if (user, group) != (present.uid(), present.gid()) {
        let owned = fchown(&to, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        let text = || format!("the owner {user}:{group}");
        unless_refused(owned.map_err(Into::into), is_refusal, text, &mut not_kept)?;
    }
    attributes(&from, &to, false, &mut not_kept)?;
    let mode = Mode::from_raw_mode(wanted.mode());
    let text = || format!("the mode {:o}", mode.as_raw_mode());
    unless_refused(fchmod(to.as_fd(), mode).map_err(Into::into), is_refusal, text, &mut not_kept)?;
    attributes(&from, &to, true, &mut not_kept)?;
    let times = futimens(&to, &times(wanted)).map_err(Into::into);
    unless_refused(times, is_refusal, || "the times".to_owned(), &mut not_kept)?;
    Ok(not_kept)
}

fn attributes(from: &File, to: &File, access_lists: bool, not_kept: &mut Vec<String>) -> io::Result<()> {
    let of = |file: &File| -> io::Result<Vec<OsString>> {
        let names = match file.list_xattr() {
            // The target's file system has no attributes, and the restored folder is on the same file system.
            Err(error) if is_refusal_of_attribute(&error) => return Ok(Vec::new()),
            names => names?,
        };
        let is_meant = |name: &OsString| {
            name != MACHINES_OWN && name.as_bytes().starts_with(ACCESS_LIST.as_bytes()) == access_lists
        };
        Ok(names.filter(is_meant).collect())
    };
    let wanted = of(from)?;
    let refused = is_refusal_of_attribute;
    for name in of(to)?.into_iter().filter(|name| !wanted.contains(name)) {
        unless_refused(to.remove_xattr(&name), refused, || format!("the lack of {}", shown(&name)), not_kept)?;
    }
    for name in wanted {
        let set = from.get_xattr(&name).and_then(|value| value.map_or(Ok(()), |value| to.set_xattr(&name, &value)));
        unless_refused(set, refused, || format!("the attribute {}", shown(&name)), not_kept)?;
    }
    Ok(())
}

fn shown(name: &OsStr) -> String {
    escape_name(name.as_bytes())
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    }
}

fn unless_refused(
    done: io::Result<()>,
    is_refusal: fn(&io::Error) -> bool,
    what: impl FnOnce() -> String,
    not_kept: &mut Vec<String>,
) -> io::Result<()> {
    match done {
        Err(error) if is_refusal(&error) => {
            not_kept.push(format!("{} ({error})", what()));
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests;

//! Gives what was restored its owner, attributes, mode and times, as far as we may; the rest is told.
//!
//! The order matters: a change of owner takes away special bits and capabilities, a change of mode changes an access list.
//! It must not know how the file came to be.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
};

use rustic_core::repofile::{Metadata, NodeType};
use rustix::{
    fs::{
        AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Uid, chmod, chownat, fchmod, fchown, futimens, openat, statx,
        utimensat,
    },
    io::Errno,
};
use xattr::FileExt;

use super::metadata::{is_access_list, permissions, portable, times};

/// What was tried, and why it failed.
pub(super) type Failed = (&'static str, io::Error);

/// Something that was just made.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A file or folder.
    Open(&'a File),
    /// Something that is not opened, by the folder that it is in.
    Named(BorrowedFd<'a>, &'a OsStr),
}

impl Place<'_> {
    /// Applies all of it. Gives what could not be kept for lack of rights, or of support by the file system.
    pub fn apply(self, metadata: &Metadata, kind: &NodeType) -> Result<Vec<String>, Failed> {
        let mut not_kept = Vec::new();
        let owner = self.own(metadata, &mut not_kept)?;
        self.attribute(metadata, false, &mut not_kept)?;
        if !matches!(kind, NodeType::Symlink { .. }) {
            self.permit(metadata, kind, &owner, &mut not_kept)?;
        }
        self.attribute(metadata, true, &mut not_kept)?;
        if let Some(times) = times(metadata) {
            let set = match self {
                Self::Open(file) => futimens(file, &times),
                Self::Named(folder, name) => utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW),
            };
            unless_forbidden(set, &mut not_kept, || "its times".to_owned())
                .map_err(|error| ("set the times of", error))?;
        }
        Ok(not_kept)
    }

    /// Gives what then owns it.
    fn own(self, metadata: &Metadata, not_kept: &mut Vec<String>) -> Result<Statx, Failed> {
        let look = || self.stat().map_err(|error| ("look at", error.into()));
        let stat = look()?;
        // The highest number stands for "as it is".
        let user = metadata.uid.filter(|user| ![stat.stx_uid, u32::MAX].contains(user));
        let group = metadata.gid.filter(|group| ![stat.stx_gid, u32::MAX].contains(group));
        if user.is_none() && group.is_none() {
            return Ok(stat);
        }
        match self.chown(user, group) {
            Ok(()) => {}
            // Those who may not give files away may still choose among their own groups. Where the numbers of a user
            // namespace end, that is EINVAL.
            Err(Errno::PERM | Errno::INVAL) => {
                if user.is_some() && group.is_some() {
                    let _ = self.chown(None, group);
                }
                let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
                not_kept.push(format!("its owner {}:{}", number(metadata.uid), number(metadata.gid)));
            }
            Err(error) => return Err(("set the owner of", error.into())),
        }
        look()
    }

    fn chown(self, user: Option<u32>, group: Option<u32>) -> rustix::io::Result<()> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        match self {
            Self::Open(file) => fchown(file, user, group),
            Self::Named(folder, name) => chownat(folder, name, user, group, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn permit(
        self,
        metadata: &Metadata,
        kind: &NodeType,
        owner: &Statx,
        not_kept: &mut Vec<String>,
    ) -> Result<(), Failed> {
        // restic leaves out a mode of 0.
        let mode = permissions(metadata.mode.unwrap_or_default());
        let mut allowed = mode;
        if !matches!(kind, NodeType::Dir) {
            // A program must not run as somebody who never owned it.
            allowed.set(Mode::SUID, mode.contains(Mode::SUID) && metadata.uid == Some(owner.stx_uid));
            allowed.set(Mode::SGID, mode.contains(Mode::SGID) && metadata.gid == Some(owner.stx_gid));
        }
        let set = match self {
            Self::Open(file) => fchmod(file, allowed),
            Self::Named(folder, name) => {
                // The system has no such call that never follows a link; this handle is of the thing itself.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(folder, name, flags, Mode::empty()).and_then(|own| chmod(path_of(own.as_fd()), allowed))
            }
        };
        let text = || format!("its mode {:o}", mode.as_raw_mode());
        if unless_forbidden(set, not_kept, text).map_err(|error| ("set the mode of", error))? {
            // Without the right to, the bit of a group that is not ours goes without a word.
            let stat = self.stat().map_err(|error| ("look at", error.into()))?;
            if u32::from(stat.stx_mode) & 0o7777 != mode.as_raw_mode() {
                not_kept.push(text());
            }
        }
        Ok(())
    }

    fn attribute(self, metadata: &Metadata, access_lists: bool, not_kept: &mut Vec<String>) -> Result<(), Failed> {
        for (name, value) in portable(metadata).filter(|(name, _)| is_access_list(name) == access_lists) {
            let set = match self {
                Self::Open(file) => file.set_xattr(name, value),
                Self::Named(folder, own) => xattr::set(path_of(folder).join(own), name, value),
            };
            match set {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    not_kept.push(format!("its attribute {name}, which the file system does not have"));
                }
                set => {
                    unless_forbidden(set, not_kept, || format!("its attribute {name}"))
                        .map_err(|error| ("set an attribute of", error))?;
                }
            }
        }
        Ok(())
    }

    fn stat(self) -> rustix::io::Result<Statx> {
        match self {
            Self::Open(file) => statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS),
            Self::Named(folder, name) => statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS),
        }
    }
}

/// The system's own name of a handle, which leads to the thing itself.
fn path_of(handle: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Whether it was done; false if we have no right to.
fn unless_forbidden<E: Into<io::Error>>(
    done: Result<(), E>,
    not_kept: &mut Vec<String>,
    what: impl FnOnce() -> String,
) -> io::Result<bool> {
    match done.map_err(Into::into) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            not_kept.push(what());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

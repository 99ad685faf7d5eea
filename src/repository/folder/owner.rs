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
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Uid, chmod, chownat, fchmod, fchown, futimens, openat, statx,
    utimensat,
};
use xattr::FileExt;

use super::{
    metadata::{is_access_list, permissions, portable, times},
    refusal::{is_refusal, is_refusal_of_attribute},
};
use crate::model::escape_name;

/// Times that differ by less are rounded by the file system: FAT has the coarsest.
const ROUNDED_SECONDS: u64 = 2;

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

/// How an app depends on something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Weight {
    /// An app can do without it: a time, a socket, a label.
    Minor,
    /// An app depends on whose its files are, unless they all were one user's, and now all are the user's that restores.
    Owner,
    /// An app may work otherwise without it: a mode, an access list, an entry.
    Essential,
}

/// Something that a target does not hold of what was stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Lost {
    /// For people, behind a path.
    pub what: String,
    pub weight: Weight,
}

impl Lost {
    pub fn essential(what: impl Into<String>) -> Self {
        Self { what: what.into(), weight: Weight::Essential }
    }

    pub fn minor(what: impl Into<String>) -> Self {
        Self { what: what.into(), weight: Weight::Minor }
    }
}

/// What became of the metadata of one entry.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub lost: Vec<Lost>,
    /// The file system holds its time, but for a fraction.
    pub is_rounded: bool,
}

impl Place<'_> {
    /// Applies all of it, as far as rights and the file system permit.
    pub fn apply(self, metadata: &Metadata, kind: &NodeType) -> Result<Applied, Failed> {
        let mut applied = Applied::default();
        let lost = &mut applied.lost;
        let owner = self.own(metadata, lost)?;
        self.attribute(metadata, false, lost)?;
        let has_mode = !matches!(kind, NodeType::Symlink { .. });
        let is_permitted = has_mode && self.permit(metadata, kind, &owner, lost)?;
        self.attribute(metadata, true, lost)?;
        let times = times(metadata);
        let is_timed = match &times {
            Some(times) => {
                let set = match self {
                    Self::Open(file) => futimens(file, times),
                    Self::Named(folder, name) => utimensat(folder, name, times, AtFlags::SYMLINK_NOFOLLOW),
                };
                unless_refused(set, is_refusal, lost, |error| Lost::minor(format!("its times ({error})")))
                    .map_err(|error| ("set the times of", error))?
            }
            None => false,
        };
        if is_permitted || is_timed {
            // What is refused without an error: the bit of a group that is not one's own, modes and times on FAT.
            let stat = self.stat().map_err(|error| ("look at", error.into()))?;
            let mode = permissions(metadata.mode.unwrap_or_default());
            if is_permitted && u32::from(stat.stx_mode) & 0o7777 != mode.as_raw_mode() {
                lost.push(Lost::essential(text_of(mode)));
            }
            if let Some(wanted) = times.filter(|_| is_timed).map(|times| times.last_modification) {
                let found = &stat.stx_mtime;
                if found.tv_sec.abs_diff(wanted.tv_sec) >= ROUNDED_SECONDS {
                    lost.push(Lost::minor("its times, which the file system cannot hold"));
                } else {
                    applied.is_rounded = (found.tv_sec, i64::from(found.tv_nsec)) != (wanted.tv_sec, wanted.tv_nsec);
                }
            }
        }
        Ok(applied)
    }

    /// Gives what then owns it.
    fn own(self, metadata: &Metadata, lost: &mut Vec<Lost>) -> Result<Statx, Failed> {
        let look = || self.stat().map_err(|error| ("look at", error.into()));
        let stat = look()?;
        // The highest number stands for "as it is".
        let user = metadata.uid.filter(|user| ![stat.stx_uid, u32::MAX].contains(user));
        let group = metadata.gid.filter(|group| ![stat.stx_gid, u32::MAX].contains(group));
        if user.is_none() && group.is_none() {
            return Ok(stat);
        }
        if let Err(error) = self.chown(user, group) {
            if !is_refusal(&error.into()) {
                return Err(("set the owner of", error.into()));
            }
            // Those who may not give files away may still choose among their own groups.
            if user.is_some() && group.is_some() {
                let _ = self.chown(None, group);
            }
        }
        let owner = look()?;
        // Some file systems refuse without an error.
        if user.is_some_and(|user| user != owner.stx_uid) || group.is_some_and(|group| group != owner.stx_gid) {
            let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            let what = format!("its owner {}:{}", number(metadata.uid), number(metadata.gid));
            lost.push(Lost { what, weight: Weight::Owner });
        }
        Ok(owner)
    }

    fn chown(self, user: Option<u32>, group: Option<u32>) -> rustix::io::Result<()> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        match self {
            Self::Open(file) => fchown(file, user, group),
            Self::Named(folder, name) => chownat(folder, name, user, group, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Whether the mode was set.
    fn permit(self, metadata: &Metadata, kind: &NodeType, owner: &Statx, lost: &mut Vec<Lost>) -> Result<bool, Failed> {
        // restic leaves out a mode of 0.
        let mode = permissions(metadata.mode.unwrap_or_default());
        let mut allowed = mode;
        if !matches!(kind, NodeType::Dir) {
            // A program must not run as a user who never owned it.
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
        unless_refused(set, is_refusal, lost, |_| Lost::essential(text_of(mode)))
            .map_err(|error| ("set the mode of", error))
    }

    fn attribute(self, metadata: &Metadata, access_lists: bool, lost: &mut Vec<Lost>) -> Result<(), Failed> {
        for (name, value) in portable(metadata).filter(|(name, _)| is_access_list(name) == access_lists) {
            let set = match self {
                Self::Open(file) => file.set_xattr(name, value),
                Self::Named(folder, own) => xattr::set(path_of(folder).join(own), name, value),
            };
            unless_refused(set, is_refusal_of_attribute, lost, |error| lost_attribute(name, error))
                .map_err(|error| ("set an attribute of", error))?;
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

fn text_of(mode: Mode) -> String {
    format!("its mode {:o}", mode.as_raw_mode())
}

/// Labels of security modules are the machine's business, and access lists of other systems stand beside a mode.
fn lost_attribute(name: &str, error: &io::Error) -> Lost {
    let is_minor = !is_access_list(name) && ["security.", "system."].iter().any(|prefix| name.starts_with(prefix));
    let what = format!("its attribute {} ({error})", escape_name(name.as_bytes()));
    if is_minor { Lost::minor(what) } else { Lost::essential(what) }
}

/// Whether it was done; false if it was refused, which is noted.
fn unless_refused<E: Into<io::Error>>(
    done: Result<(), E>,
    is_refusal: fn(&io::Error) -> bool,
    lost: &mut Vec<Lost>,
    what: impl FnOnce(&io::Error) -> Lost,
) -> io::Result<bool> {
    match done.map_err(Into::into) {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => {
            lost.push(what(&error));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

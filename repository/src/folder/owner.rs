//! Sets owner, attributes, mode and times of restored entries, and returns what could not be set. The order matters,
//! because a change of the owner clears special mode bits and capabilities, and a change of the mode changes an access
//! list.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Uid, chmod, chownat, fchmod, fchown, futimens, openat, statx,
    utimensat,
};
use xattr::FileExt;

use super::{
    metadata::{is_access_list, permissions, portable, times},
    refusal::{is_refusal, is_refusal_of_attribute},
};
use crate::format::{Metadata, NodeType};
use stowaway_model::escape_name;

/// Times that differ by less were rounded by the file system. FAT has the coarsest times: 2 s.
const ROUNDED_SECONDS: u64 = 2;

/// The action which failed, and its error.
pub(super) type Failed = (&'static str, io::Error);

/// The restored entry whose metadata is set.
#[derive(Clone, Copy)]
pub(super) enum MetadataTarget<'a> {
    /// An open file or folder.
    Open(&'a File),
    /// An entry which is not opened, by the handle of its folder and its name.
    Named(BorrowedFd<'a>, &'a OsStr),
}

/// How much an app depends on something that could not be restored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Severity {
    /// An app does not need it: a time, a socket, a security label.
    Minor,
    /// An app depends on the owner of its files, unless all files had the same owner and now all belong to the user who
    /// restores.
    Owner,
    /// An app may fail, or behave differently, without it: a mode, an access list, an entry.
    Essential,
}

/// A property or entry which the target lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Loss {
    /// A description which follows the path in a message.
    pub what: String,
    pub severity: Severity,
}

impl Loss {
    pub fn essential(what: impl Into<String>) -> Self {
        Self { what: what.into(), severity: Severity::Essential }
    }

    pub fn minor(what: impl Into<String>) -> Self {
        Self { what: what.into(), severity: Severity::Minor }
    }
}

/// The result of setting the metadata of one entry.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub losses: Vec<Loss>,
    /// Whether the file system rounded the modification time by less than [`ROUNDED_SECONDS`].
    pub is_rounded: bool,
}

impl MetadataTarget<'_> {
    /// Sets all metadata, as far as rights and the file system permit.
    pub fn apply(self, metadata: &Metadata, kind: &NodeType) -> Result<Applied, Failed> {
        let mut applied = Applied::default();
        let losses = &mut applied.losses;
        let owner = self.set_owner(metadata, losses)?;
        self.set_attributes(metadata, false, losses)?;
        let has_mode = !matches!(kind, NodeType::Symlink(_));
        let is_mode_set = has_mode && self.set_mode(metadata, kind, &owner, losses)?;
        self.set_attributes(metadata, true, losses)?;
        let times = times(metadata);
        let is_time_set = match &times {
            Some(times) => {
                let set = match self {
                    Self::Open(file) => futimens(file, times),
                    Self::Named(folder, name) => utimensat(folder, name, times, AtFlags::SYMLINK_NOFOLLOW),
                };
                unless_refused(set, is_refusal, losses, |error| Loss::minor(format!("its times ({error})")))
                    .map_err(|error| ("set the times of", error))?
            }
            None => false,
        };
        if is_mode_set || is_time_set {
            // Some changes are refused without an error: the setgid bit for a group of which the process is no member,
            // and modes and times on FAT.
            let stat = self.stat().map_err(|error| ("read the metadata of", error.into()))?;
            let mode = permissions(metadata.mode.unwrap_or_default());
            if is_mode_set && u32::from(stat.stx_mode) & 0o7777 != mode.as_raw_mode() {
                losses.push(Loss::essential(mode_text(mode)));
            }
            if let Some(wanted) = times.filter(|_| is_time_set).map(|times| times.last_modification) {
                let found = &stat.stx_mtime;
                if found.tv_sec.abs_diff(wanted.tv_sec) >= ROUNDED_SECONDS {
                    losses.push(Loss::minor("its times, which the file system cannot hold"));
                } else {
                    applied.is_rounded = (found.tv_sec, i64::from(found.tv_nsec)) != (wanted.tv_sec, wanted.tv_nsec);
                }
            }
        }
        Ok(applied)
    }

    /// Sets owner and group. Returns the entry's metadata afterwards.
    fn set_owner(self, metadata: &Metadata, losses: &mut Vec<Loss>) -> Result<Statx, Failed> {
        let read_stat = || self.stat().map_err(|error| ("read the metadata of", error.into()));
        let stat = read_stat()?;
        // For chown, the highest number means "do not change".
        let user = metadata.uid.filter(|user| ![stat.stx_uid, u32::MAX].contains(user));
        let group = metadata.gid.filter(|group| ![stat.stx_gid, u32::MAX].contains(group));
        if user.is_none() && group.is_none() {
            return Ok(stat);
        }
        if let Err(error) = self.chown(user, group) {
            if !is_refusal(&error.into()) {
                return Err(("set the owner of", error.into()));
            }
            // A process that may not change the owner may still set the group to one of its own groups.
            if user.is_some() && group.is_some() {
                let _ = self.chown(None, group);
            }
        }
        let owner = read_stat()?;
        // Some file systems ignore a change of the owner without an error.
        if user.is_some_and(|user| user != owner.stx_uid) || group.is_some_and(|group| group != owner.stx_gid) {
            let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
            let what = format!("its owner {}:{}", number(metadata.uid), number(metadata.gid));
            losses.push(Loss { what, severity: Severity::Owner });
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

    /// Sets the mode. Returns false if it was refused.
    fn set_mode(
        self,
        metadata: &Metadata,
        kind: &NodeType,
        owner: &Statx,
        losses: &mut Vec<Loss>,
    ) -> Result<bool, Failed> {
        // restic omits a mode of 0.
        let mode = permissions(metadata.mode.unwrap_or_default());
        let mut allowed = mode;
        if !matches!(kind, NodeType::Dir) {
            // A program must not run as a user who did not own it before.
            allowed.set(Mode::SUID, mode.contains(Mode::SUID) && metadata.uid == Some(owner.stx_uid));
            allowed.set(Mode::SGID, mode.contains(Mode::SGID) && metadata.gid == Some(owner.stx_gid));
        }
        let set = match self {
            Self::Open(file) => fchmod(file, allowed),
            Self::Named(folder, name) => {
                // Linux has no chmod by name which never follows a link. This handle refers to the entry itself.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(folder, name, flags, Mode::empty()).and_then(|own| chmod(path_of(own.as_fd()), allowed))
            }
        };
        unless_refused(set, is_refusal, losses, |_| Loss::essential(mode_text(mode)))
            .map_err(|error| ("set the mode of", error))
    }

    fn set_attributes(self, metadata: &Metadata, access_lists: bool, losses: &mut Vec<Loss>) -> Result<(), Failed> {
        for (name, value) in portable(metadata).filter(|(name, _)| is_access_list(name) == access_lists) {
            let set = match self {
                Self::Open(file) => file.set_xattr(name, value),
                Self::Named(folder, own) => xattr::set(path_of(folder).join(own), name, value),
            };
            unless_refused(set, is_refusal_of_attribute, losses, |error| attribute_loss(name, error))
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

/// A path in /proc which refers to the file or folder of the handle itself.
fn path_of(handle: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn mode_text(mode: Mode) -> String {
    format!("its mode {:o}", mode.as_raw_mode())
}

/// Labels of security modules belong to the machine, and access lists of other systems only supplement a mode.
fn attribute_loss(name: &str, error: &io::Error) -> Loss {
    let is_minor = !is_access_list(name) && ["security.", "system."].iter().any(|prefix| name.starts_with(prefix));
    let what = format!("its attribute {} ({error})", escape_name(name.as_bytes()));
    if is_minor { Loss::minor(what) } else { Loss::essential(what) }
}

/// Returns whether the action succeeded. A refusal is recorded as a loss and returns false.
fn unless_refused<E: Into<io::Error>>(
    done: Result<(), E>,
    is_refusal: fn(&io::Error) -> bool,
    losses: &mut Vec<Loss>,
    what: impl FnOnce(&io::Error) -> Loss,
) -> io::Result<bool> {
    match done.map_err(Into::into) {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => {
            losses.push(what(&error));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

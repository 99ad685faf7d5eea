//! The folder that is restored into: the mounted one, or one below it, which is made if it is not there.
//!
//! What is in a volume is its user's, so no link in it is followed. It must not know what is restored.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, open, openat},
    io::Errno,
};

use crate::model::{Failure, Reason};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NEW_FOLDER: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);

/// An open folder. Its path is the system's own name of the handle, which leads to the folder itself, whatever becomes of
/// its names.
#[derive(Debug)]
pub(super) struct Target(OwnedFd);

impl Target {
    /// Opens the folder at that path below the mounted one.
    pub fn open(mount: &Path, folder: &str) -> Result<Self, Failure> {
        let failed = |action: &str, at: &str, error: Errno| {
            Failure::new(Reason::TargetUnwritable, format!("failed to {action} {at}: {error}"))
        };
        let mut handle = open(mount, FOLDER, Mode::empty()).map_err(|error| failed("open", "the target", error))?;
        for name in folder.split('/').filter(|name| !name.is_empty()) {
            if matches!(name, "." | "..") || name.contains('\0') {
                let message = format!("spec.to.claim.path is no path below the claim's folder: {folder:?}");
                return Err(Failure::new(Reason::InvalidRequest, message));
            }
            let below = |handle: &OwnedFd| openat(handle, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            handle = match below(&handle) {
                Err(Errno::NOENT) => {
                    mkdirat(&handle, name, NEW_FOLDER).map_err(|error| failed("make the folder", folder, error))?;
                    below(&handle)
                }
                opened => opened,
            }
            .map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => {
                    let message = format!("{name} in {folder} is no folder, or a link, which is not followed");
                    Failure::new(Reason::TargetUnwritable, message)
                }
                error => failed("open the folder", folder, error),
            })?;
        }
        Ok(Self(handle))
    }

    /// When something was last put into it or taken out of it.
    pub fn modified(&self) -> Option<SystemTime> {
        std::fs::metadata(self.path()).and_then(|metadata| metadata.modified()).ok()
    }

    /// Sets that back, as far as we may: a folder that was left alone is to look so.
    pub fn set_modified(&self, time: Option<SystemTime>) {
        if let Some(time) = time
            && let Ok(folder) = File::open(self.path())
        {
            let _ = folder.set_modified(time);
        }
    }

    /// Leads to it as long as it is open.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn folder_is_made_where_there_is_none_and_opened_where_there_is() {
        let place = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let target = Target::open(place.path(), "a/b/").unwrap();
            fs::write(target.path().join("file"), "x").unwrap();
        }
        assert_eq!(fs::read(place.path().join("a/b/file")).unwrap(), b"x");
    }

    #[test]
    fn no_link_is_followed_and_no_path_leads_out() {
        let place = tempfile::tempdir().unwrap();
        let (volume, outside) = (place.path().join("volume"), place.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir_all(outside.join("x")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        for folder in ["absolute", "relative", "absolute/x", "relative/new", "../outside", "a/../../outside"] {
            assert!(Target::open(&volume, folder).is_err(), "{folder}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}

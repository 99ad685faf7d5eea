//! The target folder of a restore: the mounted folder, or a folder below it, which is created if it does not exist.
//!
//! No link in the volume is followed, because the volume's user may create links.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, open, openat},
    io::Errno,
};

use crate::model::{Failure, Reason};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NEW_FOLDER: Mode = Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);

/// An open folder. Its path is the system's name of the handle, which refers to the folder itself even if the folder is
/// renamed.
#[derive(Debug)]
pub(super) struct TargetFolder(OwnedFd);

impl TargetFolder {
    /// Opens the folder at this path below the mounted folder.
    pub fn open(mount: &Path, folder: &str) -> Result<Self, Failure> {
        let failed = |action: &str, at: &str, error: Errno| {
            Failure::new(Reason::TargetUnwritable, format!("failed to {action} {at}: {error}"))
        };
        let mut handle = open(mount, FOLDER, Mode::empty()).map_err(|error| failed("open", "the target", error))?;
        for name in folder.split('/').filter(|name| !name.is_empty()) {
            if matches!(name, "." | "..") || name.contains('\0') {
                let message = format!("spec.to.claim.path is not a path below the claim's folder: {folder:?}");
                return Err(Failure::new(Reason::InvalidRequest, message));
            }
            let below = |handle: &OwnedFd| openat(handle, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
            handle = match below(&handle) {
                Err(Errno::NOENT) => {
                    mkdirat(&handle, name, NEW_FOLDER).map_err(|error| failed("create the folder", folder, error))?;
                    below(&handle)
                }
                opened => opened,
            }
            .map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => {
                    let message = format!("{name} in {folder} is not a folder, or it is a link, which is not followed");
                    Failure::new(Reason::TargetUnwritable, message)
                }
                error => failed("open the folder", folder, error),
            })?;
        }
        Ok(Self(handle))
    }

    /// A path of the folder, valid while this handle is open.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn missing_folder_is_created_and_present_folder_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let target = TargetFolder::open(directory.path(), "a/b/").unwrap();
            fs::write(target.path().join("file"), "x").unwrap();
        }
        assert_eq!(fs::read(directory.path().join("a/b/file")).unwrap(), b"x");
    }

    #[test]
    fn no_link_is_followed_and_no_path_leads_out() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        fs::create_dir(&volume).unwrap();
        fs::create_dir_all(outside.join("x")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        for folder in ["absolute", "relative", "absolute/x", "relative/new", "../outside", "a/../../outside"] {
            assert!(TargetFolder::open(&volume, folder).is_err(), "{folder}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}

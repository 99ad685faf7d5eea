//! Finds what a move would replace although it changed lately. A safety copy may not have such an entry, so it must be
//! repeated before the entry is replaced.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, Stat, openat, statat},
    io::Errno,
};

use super::merge::{FOLDER, Refused, open_side, refused, unlisted};
use crate::repository::{Listed, Listing};

/// The time of the last change of an entry, in seconds and nanoseconds, by the clock of its file system.
pub(super) type ChangeTime = (i64, u64);

/// Returns the path of an entry of `root` which `part` would replace, and which changed at or after this time.
pub(super) fn changed_since(part: &Path, root: &Path, time: ChangeTime) -> Result<Option<PathBuf>, Refused> {
    let mut levels = vec![Level::new(Some(open_side(part)?), open_side(root)?, PathBuf::new())?];
    while let Some(level) = levels.last_mut() {
        let next = level.names.next_entry().map_err(unlisted(&level.path))?;
        let Some(Listed { name, .. }) = next else {
            levels.pop();
            continue;
        };
        let name = OsStr::from_bytes(name.to_bytes()).to_owned();
        let path = level.path.join(&name);
        let Some(present) = stat(&level.present, &name, &path)? else { continue };
        if !is_folder(&present) {
            if change_time(&present) >= time {
                return Ok(Some(path));
            }
            continue;
        }
        let open = |folder: &OwnedFd| openat(folder, &name, FOLDER, Mode::empty()).map_err(refused("open", &path));
        let restored = match &level.restored {
            Some(folder) if stat(folder, &name, &path)?.is_some_and(|stat| is_folder(&stat)) => Some(open(folder)?),
            _ => None,
        };
        let below = Level::new(restored, open(&level.present)?, path)?;
        levels.push(below);
    }
    Ok(None)
}

/// A present folder, and the restored folder which is merged into it. Without one, the present folder is removed as a
/// whole.
struct Level {
    restored: Option<OwnedFd>,
    present: OwnedFd,
    path: PathBuf,
    names: Listing,
}

impl Level {
    fn new(restored: Option<OwnedFd>, present: OwnedFd, path: PathBuf) -> Result<Self, Refused> {
        let (names, failure) = Listing::of(restored.as_ref().unwrap_or(&present)).map_err(unlisted(&path))?;
        if let Some(error) = failure {
            return Err(Refused { action: "list", path, error });
        }
        Ok(Self { restored, present, path, names })
    }
}

fn stat(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<Stat>, Refused> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(refused("read the metadata of", path)(error)),
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The time of the last change of content or metadata.
pub(super) fn change_time(stat: &Stat) -> ChangeTime {
    (stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_entries_that_would_be_replaced_count() {
        let dir = tempfile::tempdir().unwrap();
        let (part, root) = (dir.path().join("part"), dir.path().join("root"));
        for path in ["part/a/file", "part/b", "root/a/file", "root/a/other", "root/b/deep/file", "root/c"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let time_of = |path: &str| {
            let stat = rustix::fs::lstat(root.join(path)).unwrap();
            change_time(&stat)
        };
        let later = |(seconds, nanoseconds): ChangeTime| (seconds + 100, nanoseconds);
        assert_eq!(changed_since(&part, &root, later(time_of("c"))).unwrap(), None);
        let found = changed_since(&part, &root, time_of("a/file")).unwrap().unwrap();
        assert!(found == Path::new("a/file") || found == Path::new("b/deep/file"), "{found:?}");
        // `part` has no `c` and no `a/other`, and the folder `b` is replaced with all that it contains.
        fs::remove_file(part.join("a/file")).unwrap();
        assert_eq!(changed_since(&part, &root, (0, 0)).unwrap(), Some(PathBuf::from("b/deep/file")));
        fs::remove_file(part.join("b")).unwrap();
        assert_eq!(changed_since(&part, &root, (0, 0)).unwrap(), None);
    }
}

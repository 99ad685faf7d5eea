//! The mark in a volume which states that the restore folder holds the complete snapshot, and is durable.
//!
//! A mark is trusted only if it is a regular file with a single name, and has the owner and mode of files which this
//! process creates. Otherwise another user who can write to the volume could have a folder taken for a restored one, or
//! choose the owner of the volume's own folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::repository::FolderMetadata;

const MODE: u32 = 0o600;
/// The longest mark. The attributes of a folder have at most 64 KiB on any file system, and four thirds of that in the
/// mark. The paths come from an object of Kubernetes, which has at most 1.5 MiB.
const LONGEST: u64 = 4 << 20;

/// The content of the mark, as JSON.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::runner) struct Whole {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// The metadata which the filled folder gets in the end; `None` if only a part of a snapshot was restored.
    pub own: Option<FolderMetadata>,
    /// The path of the filled folder below the volume's root; empty for the root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// `None` if no present entry may be replaced, because the folder was empty. Otherwise the restored paths, or an
    /// empty list if everything was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Vec<PathBuf>>,
}

/// Creates the file of a mark, which must not exist.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Whether the file is a mark of Stowaway. `probe` is the path of a file for comparison, which is created and removed.
pub(super) fn is_own(path: &Path, probe: &Path) -> io::Result<bool> {
    let mark = fs::symlink_metadata(path)?;
    if !mark.is_file() || mark.nlink() != 1 {
        return Ok(false);
    }
    // The file system may assign files to another user than their creator (NFS), or have no modes (SMB).
    match fs::remove_file(probe) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let made = create(probe)?.metadata();
    fs::remove_file(probe)?;
    let made = made?;
    Ok((mark.uid(), mark.mode()) == (made.uid(), made.mode()))
}

/// Reads a mark.
pub(super) fn read(path: &Path) -> io::Result<Whole> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut json = Vec::new();
    file.take(LONGEST).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_file_as_this_process_makes_one_is_a_mark() {
        let directory = tempfile::tempdir().unwrap();
        let [mark, probe, other] = ["mark", "probe", "other"].map(|name| directory.path().join(name));
        create(&mark).unwrap();
        assert!(is_own(&mark, &probe).unwrap());
        fs::hard_link(&mark, &other).unwrap();
        assert!(!is_own(&mark, &probe).unwrap(), "a file that has another name");
        fs::remove_file(&other).unwrap();
        fs::set_permissions(&mark, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!is_own(&mark, &probe).unwrap(), "a file that others may write");
        fs::rename(&mark, &other).unwrap();
        symlink(&other, &mark).unwrap();
        assert!(!is_own(&mark, &probe).unwrap(), "a link");
        assert!(read(&mark).is_err(), "a link is not followed");
        assert!(!probe.exists());
    }

    #[test]
    fn mark_of_another_user_is_not_trusted() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: only root can make a file of another user");
        }
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("mark");
        create(&mark).unwrap();
        std::os::unix::fs::chown(&mark, Some(1000), None).unwrap();
        assert!(!is_own(&mark, &directory.path().join("probe")).unwrap());
    }
}

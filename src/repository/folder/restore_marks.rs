//! Whether a restore into a folder is under way or was broken off, by the entries that it leaves beside the data.
//!
//! It must not know how a restore works: only which entries are there until it has ended.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use crate::model::injected::{RESTORE_LOCK, RESTORE_MARKS};

/// The name of an entry which shows that what is in the folder may be half of a restore; none if it is not.
///
/// A restore removes all of them when it ends. A lock that is alone and not held is what is left of one that was killed
/// after its last entry had been moved, or before its first, and proves nothing.
pub(super) fn unfinished_restore(folder: &Path) -> io::Result<Option<&'static str>> {
    for mark in RESTORE_MARKS {
        match folder.join(mark).symlink_metadata() {
            Ok(_) => return Ok(Some(mark)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(is_held(&folder.join(RESTORE_LOCK))?.then_some(RESTORE_LOCK))
}

/// Whether another process holds the lock. One that cannot be opened may be held.
fn is_held(path: &Path) -> io::Result<bool> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(true),
            // A file system without such locks lets no restore begin.
            Ok(()) | Err(_) => Ok(false),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        // A link or another thing: no lock of a restore.
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_mark_shows_an_unfinished_restore_and_a_lock_only_while_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(unfinished_restore(folder.path()).unwrap(), None);
        fs::write(folder.path().join(".stowaway-restored-by-hand"), "the app's").unwrap();
        let lock = fs::File::create(folder.path().join(RESTORE_LOCK)).unwrap();
        assert_eq!(unfinished_restore(folder.path()).unwrap(), None, "left over");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(unfinished_restore(folder.path()).unwrap(), Some(RESTORE_LOCK));
        drop(lock);
        assert_eq!(unfinished_restore(folder.path()).unwrap(), None);
        for mark in RESTORE_MARKS {
            fs::create_dir(folder.path().join(mark)).unwrap();
            assert_eq!(unfinished_restore(folder.path()).unwrap(), Some(mark));
            fs::remove_dir(folder.path().join(mark)).unwrap();
        }
    }
}

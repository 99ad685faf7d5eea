//! Detects a restore into a folder which is running or was interrupted, by the entries which a restore keeps beside the
//! data until it ends.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

use stowaway_model::injected::{RESTORE_LOCK, RESTORE_MARKS};

/// Returns the name of an entry which shows that the folder may contain an incomplete restore, if there is such an
/// entry.
///
/// A restore removes all marks when it ends. A lock file which no process holds proves nothing, if no other mark
/// exists: it is left when a restore is killed before it moves its first entry, or after it has moved the last one.
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

/// Whether another process holds the lock. A lock which cannot be opened may be held, and counts as held.
fn is_held(path: &Path) -> io::Result<bool> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(true),
            // A restore does not start on a file system without flock.
            Ok(()) | Err(_) => Ok(false),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        // A link or another kind of entry is not the lock of a restore.
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

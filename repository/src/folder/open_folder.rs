//! An open folder which knows its own name, so that "deleted" can be distinguished from errors of the file system.
//!
//! Network file systems and drivers in user space report `ENOENT` and `ESTALE` for entries which exist, and a link count
//! of 0 for folders which exist. So an entry counts as deleted only if the folder above does not have it any more.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    hash::{DefaultHasher, Hash, Hasher},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, openat, statx},
    io::Errno,
};

use super::metadata;
use crate::directory::each_entry;

/// Identifies an entry as long as it exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub fn of(stat: &Statx) -> Self {
        Self { device: metadata::device_of(stat), inode: stat.stx_ino }
    }
}

/// What has the name of an entry now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Presence {
    /// The same entry.
    Same,
    /// Another entry.
    Replaced,
    /// No entry: the entry was deleted or renamed.
    Gone,
    /// The file system reports an error instead.
    Unknown,
}

impl Presence {
    /// Compares an entry with the result of another look at its name. `is_folder_gone` is called if the handle of the
    /// folder is stale.
    fn of(seen: Identity, found: rustix::io::Result<Identity>, is_folder_gone: impl FnOnce() -> bool) -> Self {
        match found {
            Ok(found) if found == seen => Self::Same,
            Ok(_) => Self::Replaced,
            Err(Errno::NOENT) => Self::Gone,
            Err(Errno::STALE) if is_folder_gone() => Self::Gone,
            Err(_) => Self::Unknown,
        }
    }

    /// Whether the entry itself does not exist any more under its name.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Gone | Self::Replaced)
    }
}

/// An open folder.
#[derive(Debug)]
pub(super) struct OpenFolder {
    handle: OwnedFd,
    identity: Identity,
    /// The folder above, and the name in it. The root has none.
    above: Option<(Arc<Self>, CString)>,
}

impl OpenFolder {
    /// The root of a walk.
    pub fn root(handle: OwnedFd, stat: &Statx) -> Self {
        Self { handle, identity: Identity::of(stat), above: None }
    }

    /// A folder which was opened by its name.
    pub fn below(above: &Arc<Self>, name: &CStr, handle: OwnedFd, stat: &Statx) -> Self {
        Self { handle, identity: Identity::of(stat), above: Some((Arc::clone(above), name.to_owned())) }
    }

    pub fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Looks again at the name of an entry of the folder.
    pub fn look_up(&self, name: &CStr, seen: Identity) -> Presence {
        Presence::of(seen, identity_at(&self.handle, name), || self.is_gone())
    }

    /// Whether a new listing of the folder has the name. A listing that fails is no proof that it does not.
    pub fn lists(&self, name: &CStr) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(handle) = openat(&self.handle, c".", flags, Mode::empty()) else { return true };
        let mut is_listed = false;
        let failure = each_entry::<Infallible>(&handle, |listed, _| {
            is_listed |= listed == name;
            Ok(())
        });
        is_listed || !matches!(failure, Ok(None))
    }

    /// A number which depends on all names in the folder for which `counts` is true, and not on their order. None if the
    /// folder cannot be listed to its end.
    pub fn names_digest(&self, counts: impl Fn(&CStr) -> bool) -> Option<u64> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = openat(&self.handle, c".", flags, Mode::empty()).ok()?;
        let mut digest = 0_u64;
        let failure = each_entry::<Infallible>(&handle, |name, _| {
            if counts(name) {
                let mut hasher = DefaultHasher::new();
                name.hash(&mut hasher);
                digest = digest.wrapping_add(hasher.finish());
            }
            Ok(())
        });
        matches!(failure, Ok(None)).then_some(digest)
    }

    /// Whether the folder was deleted, or replaced by another one. The root of a volume is never deleted: if its handle
    /// is stale, the volume cannot be read.
    pub fn is_gone(&self) -> bool {
        let mut folder = self;
        // A loop, because a folder may be deeper than the stack. If the folder above is stale, the decision is that of
        // the folder above.
        while let Some((above, name)) = &folder.above {
            let found = identity_at(&above.handle, name);
            if found != Err(Errno::STALE) {
                return Presence::of(folder.identity, found, || false).is_gone();
            }
            folder = above;
        }
        false
    }
}

impl AsFd for OpenFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Drops the folders above in a loop, because a folder may be deeper than the stack.
impl Drop for OpenFolder {
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some((folder, _)) = above {
            above = Arc::into_inner(folder).and_then(|mut folder| folder.above.take());
        }
    }
}

fn identity_at(folder: &OwnedFd, name: &CStr) -> rustix::io::Result<Identity> {
    // A client's cache may know a name for longer than its server.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    statx(folder, name, flags, StatxFlags::BASIC_STATS).map(|stat| Identity::of(&stat))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::opened::stat_of;

    #[test]
    fn entry_is_gone_only_if_its_folder_does_not_have_it() {
        let (seen, other) = (Identity { device: 1, inode: 2 }, Identity { device: 1, inode: 3 });
        for (found, is_folder_gone, expected) in [
            (Ok(seen), true, Presence::Same),
            (Ok(other), false, Presence::Replaced),
            (Err(Errno::NOENT), false, Presence::Gone),
            (Err(Errno::STALE), true, Presence::Gone),
            (Err(Errno::STALE), false, Presence::Unknown),
            (Err(Errno::IO), true, Presence::Unknown),
            (Err(Errno::ACCESS), true, Presence::Unknown),
        ] {
            assert_eq!(Presence::of(seen, found, || is_folder_gone), expected, "{found:?}");
        }
        assert!(!Presence::Unknown.is_gone() && !Presence::Same.is_gone());
    }

    #[test]
    fn folder_is_gone_once_it_is_deleted_renamed_or_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let open = |name: &str| OwnedFd::from(fs::File::open(path(name)).unwrap());
        let handle = open("");
        let root = Arc::new(OpenFolder::root(handle.try_clone().unwrap(), &stat_of(&handle).unwrap()));
        fs::create_dir(path("a")).unwrap();
        let handle = open("a");
        let stat = stat_of(&handle).unwrap();
        let folder = OpenFolder::below(&root, c"a", handle, &stat);
        assert!(!root.is_gone() && !folder.is_gone());
        assert_eq!(root.look_up(c"a", Identity::of(&stat)), Presence::Same);
        fs::rename(path("a"), path("b")).unwrap();
        assert!(folder.is_gone());
        fs::create_dir(path("a")).unwrap();
        assert!(folder.is_gone());
        assert_eq!(root.look_up(c"a", Identity::of(&stat)), Presence::Replaced);
        fs::remove_dir(path("a")).unwrap();
        fs::remove_dir(path("b")).unwrap();
        assert!(folder.is_gone() && !root.is_gone());
    }

    #[test]
    fn new_listing_shows_whether_a_folder_has_a_name_and_a_failed_one_shows_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("folder")).unwrap();
        for name in ["folder/kept", "folder/deleted"] {
            fs::write(path(name), "").unwrap();
        }
        let handle = OwnedFd::from(fs::File::open(path("folder")).unwrap());
        let stat = stat_of(&handle).unwrap();
        let folder = OpenFolder::root(handle, &stat);
        assert!(folder.lists(c"kept") && folder.lists(c"deleted") && !folder.lists(c"other"));
        fs::remove_file(path("folder/deleted")).unwrap();
        assert!(folder.lists(c"kept") && !folder.lists(c"deleted"));
        // The kernel refuses to list a deleted folder.
        fs::remove_dir_all(path("folder")).unwrap();
        assert!(folder.lists(c"kept") && folder.lists(c"deleted"));
    }
}

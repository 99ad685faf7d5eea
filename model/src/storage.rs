//! Entries which storage systems, not apps, put into the root of a volume, and which are not worth backing up. A
//! directory counts as the storage system's only by its name *and* its content, because an app may have a directory of
//! that name, too.

/// A directory of a storage system.
#[derive(Debug)]
pub struct StorageEntry {
    pub name: &'static str,
    /// The owner of the directory, for users.
    pub owner: &'static str,
    holds: Holds,
}

/// The possible content of the directory.
#[derive(Debug)]
enum Holds {
    Nothing,
    /// Snapshots of the volume, each a directory.
    Folders,
    /// Directories with these names.
    Named(&'static [&'static str]),
}

/// All known entries. `.snapshots`, `@Recycle` and similar names are not among them, because apps and users have such
/// directories, whose content belongs to them.
const ENTRIES: [StorageEntry; 4] = [
    // e2fsck(8) puts files without a name into it, and then it holds data.
    StorageEntry { name: "lost+found", owner: "the file system's, for lost files", holds: Holds::Nothing },
    // NetApp ONTAP, Azure NetApp Files, Dell PowerScale, Azure Files and Pure FlashBlade over NFS.
    StorageEntry { name: ".snapshot", owner: "a filer's snapshots of the volume", holds: Holds::Folders },
    // The same directory over SMB.
    StorageEntry { name: "~snapshot", owner: "a filer's snapshots of the volume", holds: Holds::Folders },
    // ZFS with `snapdir=visible`.
    StorageEntry { name: ".zfs", owner: "ZFS snapshots of the volume", holds: Holds::Named(&["snapshot", "shares"]) },
];

impl StorageEntry {
    /// The entry that a directory with that name in the root of a volume may be.
    pub fn named(name: &[u8]) -> Option<&'static Self> {
        ENTRIES.iter().find(|entry| entry.name.as_bytes() == name)
    }

    /// Whether the storage system's directory can contain an entry with that name.
    pub fn can_hold(&self, name: &[u8], is_folder: bool) -> bool {
        match self.holds {
            Holds::Nothing => false,
            Holds::Folders => is_folder,
            Holds::Named(names) => is_folder && names.iter().any(|known| known.as_bytes() == name),
        }
    }

    /// Whether the storage system's directory is always empty.
    pub fn is_empty(&self) -> bool {
        matches!(self.holds, Holds::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_apps_use_are_not_the_storage_systems() {
        for name in [".snapshots", "@Recycle", "snapshot", ".Snapshot", ".zfs2", "", "lost+found2"] {
            assert!(StorageEntry::named(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn folder_with_what_no_storage_system_puts_there_is_the_apps() {
        let can_hold = |name: &str, below: &str, is_folder| {
            StorageEntry::named(name.as_bytes()).unwrap().can_hold(below.as_bytes(), is_folder)
        };
        assert!(can_hold(".snapshot", "hourly.0", true) && can_hold(".zfs", "snapshot", true));
        assert!(!can_hold(".snapshot", "index.db", false) && !can_hold("~snapshot", "x", false));
        assert!(!can_hold(".zfs", "mine", true) && !can_hold(".zfs", "snapshot", false));
        assert!(!can_hold("lost+found", "#12", true));
    }
}

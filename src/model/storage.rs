//! Entries which storage systems, not apps, put into the root of a volume: neither data nor worth to be stored.
//!
//! Pure. It must not look into a volume: its input is what was found there. A folder is the storage system's only by its
//! name *and* by what is in it, because an app may have one of that name, too.

/// An entry of a storage system. It is a folder.
#[derive(Debug)]
pub struct StorageEntry {
    /// Its name.
    pub name: &'static str,
    /// Whose it is, for people.
    pub owner: &'static str,
    holds: Holds,
}

/// What can be in such a folder.
#[derive(Debug)]
enum Holds {
    Nothing,
    /// Snapshots of the volume, each a folder.
    Folders,
    /// Folders of these names.
    Named(&'static [&'static str]),
}

/// All of them. `.snapshots`, `@Recycle` and the like are not among them, because apps and people use such names, and what is
/// in those folders belongs to them.
const ENTRIES: [StorageEntry; 4] = [
    // e2fsck(8) puts files into it that have lost their names: then it holds data.
    StorageEntry { name: "lost+found", owner: "the file system's, for lost files", holds: Holds::Nothing },
    // NetApp ONTAP, Azure NetApp Files, Dell PowerScale, Azure Files and Pure FlashBlade over NFS.
    StorageEntry { name: ".snapshot", owner: "a filer's snapshots of the volume", holds: Holds::Folders },
    // The same over SMB.
    StorageEntry { name: "~snapshot", owner: "a filer's snapshots of the volume", holds: Holds::Folders },
    // ZFS with `snapdir=visible`.
    StorageEntry { name: ".zfs", owner: "ZFS snapshots of the volume", holds: Holds::Named(&["snapshot", "shares"]) },
];

impl StorageEntry {
    /// The entry that a folder of that name in the root of a volume may be.
    pub fn named(name: &[u8]) -> Option<&'static Self> {
        ENTRIES.iter().find(|entry| entry.name.as_bytes() == name)
    }

    /// Whether the storage system's folder can hold an entry of that name.
    pub fn can_hold(&self, name: &[u8], is_folder: bool) -> bool {
        match self.holds {
            Holds::Nothing => false,
            Holds::Folders => is_folder,
            Holds::Named(names) => is_folder && names.iter().any(|known| known.as_bytes() == name),
        }
    }

    /// Whether there is nothing in the storage system's folder.
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

//! Entries which storage systems, not apps, put into the root of a volume, and which are not worth backing up. A
//! directory counts as the storage system's only by the type of the volume's file system, its name *and* its content,
//! because an app may have a directory of that name, too. In doubt, a directory is the app's.

/// Types of file systems by the entries which they may put into the root of a volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileSystem {
    /// Creates a directory for files whose names were lost: ext2, ext3, ext4, OCFS2, bcachefs.
    WithLostAndFound,
    Zfs,
    Nfs,
    Smb,
    /// Creates nothing: XFS, Btrfs, tmpfs, ramfs, overlayfs, and `CephFS`, which never lists its `.snap`.
    Plain,
    /// All others. FUSE, virtiofs and 9P are among them. They may present a directory of any other file system.
    Unknown,
}

impl FileSystem {
    /// The file system with this `f_type` of statfs(2).
    pub fn of_type(f_type: i64) -> Self {
        // A 32-bit `f_type` may be sign-extended.
        match f_type & 0xffff_ffff {
            0xef53 | 0x7461_636f | 0xca45_1a4e => Self::WithLostAndFound,
            0x2fc1_2fc1 => Self::Zfs,
            0x6969 => Self::Nfs,
            0xff53_4d42 | 0xfe53_4d42 | 0x517b => Self::Smb,
            0x5846_5342 | 0x9123_683e | 0x0102_1994 | 0x8584_58f6 | 0x794c_7630 | 0x00c3_6400 => Self::Plain,
            _ => Self::Unknown,
        }
    }
}

/// A directory of a storage system.
#[derive(Debug)]
pub struct StorageEntry {
    pub name: &'static str,
    /// The owner of the directory, for users.
    pub owner: &'static str,
    /// The file systems which may have the directory.
    on: &'static [FileSystem],
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
    // e2fsck(8) puts files without a name into it, and then it holds data. A server may export the root of an ext4 file
    // system. Since nothing is lost with an empty directory, it is also skipped on an unknown file system, where it
    // would otherwise make a new volume look as if it had data.
    StorageEntry {
        name: "lost+found",
        owner: "the file system's, for lost files",
        on: &[FileSystem::WithLostAndFound, FileSystem::Nfs, FileSystem::Smb, FileSystem::Unknown],
        holds: Holds::Nothing,
    },
    // NetApp ONTAP, Azure NetApp Files, Dell PowerScale, Azure Files and Pure FlashBlade over NFS, and some over SMB.
    StorageEntry {
        name: ".snapshot",
        owner: "a filer's snapshots of the volume",
        on: &[FileSystem::Nfs, FileSystem::Smb],
        holds: Holds::Folders,
    },
    // The same directory of ONTAP over SMB.
    StorageEntry {
        name: "~snapshot",
        owner: "a filer's snapshots of the volume",
        on: &[FileSystem::Smb],
        holds: Holds::Folders,
    },
    // ZFS with `snapdir=visible`, also if a server, virtiofs or 9P exports it.
    StorageEntry {
        name: ".zfs",
        owner: "ZFS snapshots of the volume",
        on: &[FileSystem::Zfs, FileSystem::Nfs, FileSystem::Smb, FileSystem::Unknown],
        holds: Holds::Named(&["snapshot", "shares"]),
    },
];

impl StorageEntry {
    /// The entry that a directory with that name in the root of a volume on that file system may be.
    pub fn named(name: &[u8], file_system: FileSystem) -> Option<&'static Self> {
        ENTRIES.iter().find(|entry| entry.name.as_bytes() == name && entry.on.contains(&file_system))
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

    const ALL: [FileSystem; 6] = [
        FileSystem::WithLostAndFound,
        FileSystem::Zfs,
        FileSystem::Nfs,
        FileSystem::Smb,
        FileSystem::Plain,
        FileSystem::Unknown,
    ];

    #[test]
    fn names_that_apps_use_are_not_the_storage_systems() {
        for name in [".snapshots", "@Recycle", "snapshot", ".Snapshot", ".zfs2", "", "lost+found2", ".snap"] {
            for file_system in ALL {
                assert!(StorageEntry::named(name.as_bytes(), file_system).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn each_name_is_the_storage_systems_only_on_its_own_file_systems() {
        let names = |f_type: i64| -> Vec<&str> {
            let file_system = FileSystem::of_type(f_type);
            let all = ["lost+found", ".snapshot", "~snapshot", ".zfs"];
            all.into_iter().filter(|name| StorageEntry::named(name.as_bytes(), file_system).is_some()).collect()
        };
        assert_eq!(names(0xef53), ["lost+found"], "ext4");
        assert_eq!(names(0x2fc1_2fc1), [".zfs"], "ZFS");
        assert_eq!(names(0x6969), ["lost+found", ".snapshot", ".zfs"], "NFS");
        for smb in [0xff53_4d42, 0xfe53_4d42] {
            assert_eq!(names(smb), ["lost+found", ".snapshot", "~snapshot", ".zfs"], "SMB");
        }
        assert_eq!(names(0xff53_4d42 - (1 << 32)), names(0xff53_4d42), "sign-extended");
        let plain = [0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x00c3_6400];
        for (f_type, name) in plain.into_iter().zip(["XFS", "Btrfs", "tmpfs", "overlayfs", "CephFS"]) {
            assert!(names(f_type).is_empty(), "{name}");
        }
        for (f_type, name) in [(0x6573_5546, "FUSE, virtiofs"), (0x0102_1997, "9P"), (0x4750_4653, "GPFS"), (7, "-")] {
            assert_eq!(names(f_type), ["lost+found", ".zfs"], "{name}");
        }
    }

    #[test]
    fn folder_with_what_no_storage_system_puts_there_is_the_apps() {
        let can_hold = |name: &str, below: &str, is_folder| {
            let entry = StorageEntry::named(name.as_bytes(), FileSystem::Smb);
            entry.unwrap().can_hold(below.as_bytes(), is_folder)
        };
        assert!(can_hold(".snapshot", "hourly.0", true) && can_hold(".zfs", "snapshot", true));
        assert!(!can_hold(".snapshot", "index.db", false) && !can_hold("~snapshot", "x", false));
        assert!(!can_hold(".zfs", "mine", true) && !can_hold(".zfs", "snapshot", false));
        assert!(!can_hold("lost+found", "#12", true));
    }
}

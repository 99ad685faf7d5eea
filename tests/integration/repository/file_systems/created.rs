//! Directories that a file system creates by itself, and an app's own directories of the same names.

use super::*;

#[tokio::test]
async fn directories_that_another_file_system_creates_are_stored_and_come_back_on_ext4() {
    let directory = tempfile::tempdir().unwrap();
    let repository = new_repository(&directory.path().join("repository")).await;
    for kind in [Kind::Tmpfs, Kind::Overlay, Kind::Xfs, Kind::Btrfs, Kind::Ext4] {
        let Some(volume) = Volume::mount(kind) else {
            crate::skipped(&format!("{kind:?} cannot be mounted here"));
            continue;
        };
        for name in ["lost+found", ".snapshot/daily.0", ".zfs/snapshot/daily.0", "~snapshot/daily.0"] {
            fs::create_dir_all(volume.path().join(name)).unwrap();
        }
        fs::write(volume.path().join(".snapshot/daily.0/file"), "the app's").unwrap();
        let stored = store_folder(&repository, &volume.path()).await;
        assert_eq!((stored.passed_over.count, stored.unreadable.count), (0, 0), "{kind:?}: {stored:?}");
        let target = folder_in(directory.path(), &format!("{kind:?}"));
        restore_folder(&repository, &stored.snapshot, &target).await;
        assert_eq!(fs::read(target.join(".snapshot/daily.0/file")).unwrap(), b"the app's", "{kind:?}");
        for name in [".zfs/snapshot/daily.0", "~snapshot/daily.0"] {
            assert!(target.join(name).is_dir(), "{kind:?}: {name}");
        }
        // The target's own directory of this name is not in the restored one.
        assert_eq!(target.join("lost+found").is_dir(), kind != Kind::Ext4, "{kind:?}");
    }
}

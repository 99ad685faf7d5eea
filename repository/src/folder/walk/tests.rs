//! Folders which change during the walk, and entries of storage systems.

use std::{fs, os::unix::fs::symlink};

use jiff::SignedDuration;

use super::*;
use crate::{StoredFolder, folder::opened::stat_of};

/// Walks through a folder and calls `change` after the entry with a path was found. Returns the found paths and the
/// statistics.
fn walk(folder: &Path, after: &str, change: impl Fn()) -> (Vec<String>, StoredFolder) {
    walk_in(new_walk(folder, &[]), after, change)
}

fn new_walk(folder: &Path, excludes: &[String]) -> Walk {
    let rules = (Excludes::new(excludes).unwrap(), SignedDuration::ZERO);
    Walk::new(folder, "root".as_ref(), rules, Arc::default()).unwrap()
}

fn walk_in(walk: Walk, after: &str, change: impl Fn()) -> (Vec<String>, StoredFolder) {
    let stats = Arc::clone(&walk.stats);
    let mut found = Vec::new();
    for entry in walk.map(Result::unwrap) {
        found.push(entry.path.display().to_string());
        if entry.path.as_os_str() == after {
            change();
        }
    }
    (found, stats.take())
}

fn folder_with(paths: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in paths {
        match path.strip_suffix('/') {
            Some(folder) => fs::create_dir_all(directory.path().join(folder)).unwrap(),
            None => fs::write(directory.path().join(path), path).unwrap(),
        }
    }
    directory
}

fn open_folder(path: &Path) -> Arc<OpenFolder> {
    let handle = OwnedFd::from(File::open(path).unwrap());
    let stat = stat_of(&handle).unwrap();
    Arc::new(OpenFolder::root(handle, &stat))
}

/// Directories which storage systems create in the root of a volume, and similar ones.
const STORAGE_ENTRIES: [&str; 6] =
    [".snapshot/hourly.0/", ".zfs/snapshot/", "lost+found/", "below/.snapshot/hourly.0/", ".snapshots/mine/", "file"];

#[test]
fn deleted_folder_is_named_and_a_deleted_file_is_counted() {
    let directory = folder_with(&["a", "b/", "b/inside", "c", "d"]);
    let (found, collected) = walk(directory.path(), "a", || {
        fs::remove_dir_all(directory.path().join("b")).unwrap();
        fs::remove_file(directory.path().join("c")).unwrap();
    });
    assert_eq!(found, ["", "a", "d"]);
    assert_eq!(
        (collected.vanished, collected.vanished_folders.count, collected.unreadable.count),
        (2, 1, 0),
        "{collected:?}"
    );
    assert_eq!(collected.vanished_folders.first[0].path, "b");
}

#[test]
fn folder_that_is_deleted_while_the_walk_is_in_it_is_no_failure() {
    let directory = folder_with(&["b/", "b/1", "b/2", "b/3/", "c"]);
    let (found, collected) = walk(directory.path(), "b/1", || fs::remove_dir_all(directory.path().join("b")).unwrap());
    assert_eq!(found, ["", "b", "b/1", "c"]);
    assert_eq!(
        (collected.vanished, collected.vanished_folders.count, collected.unreadable.count),
        (2, 1, 0),
        "{collected:?}"
    );
}

#[test]
fn entry_that_becomes_another_kind_of_file_is_taken_as_what_it_is_now() {
    let directory = folder_with(&["a", "b/", "c"]);
    let (found, collected) = walk(directory.path(), "a", || {
        fs::remove_dir(directory.path().join("b")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
    });
    assert_eq!(found, ["", "a", "b", "c"]);
    assert_eq!((collected.vanished, collected.unreadable.count), (0, 0));
}

#[test]
fn storage_systems_entries_in_the_root_are_left_out_and_named() {
    let directory = folder_with(&STORAGE_ENTRIES);
    let on_nfs = Walk { file_system: FileSystem::Nfs, ..new_walk(directory.path(), &[]) };
    let (found, collected) = walk_in(on_nfs, "", || {});
    let expected =
        ["", ".snapshots", ".snapshots/mine", "below", "below/.snapshot", "below/.snapshot/hourly.0", "file"];
    assert_eq!(found, expected);
    let named: Vec<&str> = collected.passed_over.first.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        (named, collected.passed_over.count),
        (vec![".snapshot", ".zfs"], 2),
        "nothing is in an empty lost+found"
    );
}

#[test]
fn directories_that_the_file_system_does_not_create_are_stored() {
    let directory = folder_with(&STORAGE_ENTRIES);
    let found_on = |file_system| {
        let walk = Walk { file_system, ..new_walk(directory.path(), &[]) };
        let (found, collected) = walk_in(walk, "", || {});
        let found = |name: &str| found.iter().any(|path| path == name);
        let stored = [".snapshot/hourly.0", ".zfs/snapshot", "lost+found"].map(found);
        (stored, collected.passed_over.count, collected.unreadable.count)
    };
    assert_eq!(found_on(FileSystem::Plain), ([true, true, true], 0, 0));
    assert_eq!(found_on(FileSystem::WithLostAndFound), ([true, true, false], 0, 0));
    assert_eq!(found_on(FileSystem::Zfs), ([true, false, true], 1, 0));
    assert_eq!(found_on(FileSystem::Unknown), ([true, false, false], 1, 0));
}

#[test]
fn excluded_directory_is_left_out_whether_it_is_the_apps_or_not() {
    let directory = folder_with(&STORAGE_ENTRIES);
    for (file_system, left_out) in [(FileSystem::Plain, 1), (FileSystem::Nfs, 0)] {
        let walk = Walk { file_system, ..new_walk(directory.path(), &["/.snapshot".to_owned()]) };
        let (found, collected) = walk_in(walk, "", || {});
        assert!(!found.iter().any(|path| path.starts_with(".snapshot/")), "{found:?}");
        assert_eq!(collected.left_out, left_out, "{file_system:?}");
        assert!(collected.passed_over.first.iter().all(|one| one.path != ".snapshot"), "{collected:?}");
    }
}

#[test]
fn apps_own_entry_with_the_name_of_a_storage_systems_is_stored() {
    let directory = folder_with(&[
        ".snapshot/",
        ".snapshot/index.db",
        "~snapshot",
        ".zfs/",
        ".zfs/mine/",
        "lost+found/",
        "lost+found/#12",
    ]);
    let on_smb = Walk { file_system: FileSystem::Smb, ..new_walk(directory.path(), &[]) };
    let (found, collected) = walk_in(on_smb, "", || {});
    assert_eq!(
        found,
        ["", ".snapshot", ".snapshot/index.db", ".zfs", ".zfs/mine", "lost+found", "lost+found/#12", "~snapshot"]
    );
    assert_eq!(collected.passed_over.count, 0);
}

#[test]
fn file_whose_folder_is_deleted_cannot_be_opened_again() {
    let directory = folder_with(&["b/", "b/file"]);
    let opened = Opened::open(&open_folder(&directory.path().join("b")), c"file").unwrap();
    assert!(!opened.is_gone());
    fs::remove_dir_all(directory.path().join("b")).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NOENT);
    assert!(opened.is_gone());
}

#[test]
fn file_that_is_replaced_by_a_pipe_is_not_waited_for() {
    let directory = folder_with(&["file"]);
    let folder = open_folder(directory.path());
    let opened = Opened::open(&folder, c"file").unwrap();
    fs::remove_file(directory.path().join("file")).unwrap();
    rustix::fs::mknodat(&*folder, "file", FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NXIO);
}

#[test]
fn folder_that_gets_an_entry_after_it_was_listed_is_named() {
    let directory = folder_with(&["a/", "a/1", "b/", "b/2026"]);
    let path = |name: &str| directory.path().join(name);
    // The clock of a file system is coarse, so that the time of the folder must differ by more than its resolution.
    let make_old = || File::open(path("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    make_old();
    let (_, collected) = walk(directory.path(), "", || {});
    assert_eq!(collected.changed_folders.count, 0, "reading changes nothing: {collected:?}");
    let (found, collected) = walk(directory.path(), "a/1", || fs::rename(path("b/2026"), path("a/2026")).unwrap());
    assert_eq!(found, ["", "a", "a/1", "b"]);
    assert_eq!((collected.changed_folders.count, collected.vanished), (1, 0), "{collected:?}");
    assert_eq!(collected.changed_folders.first[0].path, "a");
}

#[test]
fn restore_entries_in_the_root_are_no_change_of_it() {
    let directory = folder_with(&["a"]);
    let changed = |name: &str| {
        File::open(directory.path()).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        walk(directory.path(), "a", || fs::write(directory.path().join(name), "").unwrap()).1.changed_folders.count
    };
    assert_eq!((changed(RESTORE_LOCK), changed("z")), (0, 1));
}

//! Folders which change during the walk, and entries of storage systems.

use std::{fs, os::unix::fs::symlink};

use jiff::SignedDuration;

use super::*;
use crate::StoredFolder;

/// Walks through a folder and calls `change` after the entry with a path was found. Returns the found paths and the
/// statistics.
fn walk(folder: &Path, after: &str, change: impl Fn()) -> (Vec<String>, StoredFolder) {
    let stats = Arc::new(BackupStats::default());
    let walk =
        Walk::new(folder, "root".as_ref(), (Excludes::default(), SignedDuration::ZERO), Arc::clone(&stats)).unwrap();
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
    let directory = folder_with(&[
        ".snapshot/hourly.0/",
        ".zfs/snapshot/",
        "lost+found/",
        "below/.snapshot/hourly.0/",
        ".snapshots/mine/",
        "file",
    ]);
    let (found, collected) = walk(directory.path(), "", || {});
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
    let (found, collected) = walk(directory.path(), "", || {});
    assert_eq!(
        found,
        ["", ".snapshot", ".snapshot/index.db", ".zfs", ".zfs/mine", "lost+found", "lost+found/#12", "~snapshot"]
    );
    assert_eq!(collected.passed_over.count, 0);
}

#[test]
fn file_whose_folder_is_deleted_cannot_be_opened_again() {
    let directory = folder_with(&["b/", "b/file"]);
    let folder = Arc::new(OwnedFd::from(File::open(directory.path().join("b")).unwrap()));
    let opened = Opened::open(&folder, c"file").unwrap();
    assert!(!opened.is_folder_deleted());
    fs::remove_dir_all(directory.path().join("b")).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NOENT);
    assert!(opened.is_folder_deleted());
}

#[test]
fn file_that_is_replaced_by_a_pipe_is_not_waited_for() {
    let directory = folder_with(&["file"]);
    let folder = Arc::new(OwnedFd::from(File::open(directory.path()).unwrap()));
    let opened = Opened::open(&folder, c"file").unwrap();
    fs::remove_file(directory.path().join("file")).unwrap();
    rustix::fs::mknodat(&*folder, "file", FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NXIO);
}

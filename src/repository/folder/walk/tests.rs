//! A folder that changes under the walk, step by step, and what storage systems put into it.

use std::{fs, os::unix::fs::symlink};

use jiff::SignedDuration;

use super::*;
use crate::repository::StoredFolder;

/// Walks through a folder, does something after the entry of a name was found, and gives what was found and noted.
fn walk(folder: &Path, after: &str, change: impl Fn()) -> (Vec<String>, StoredFolder) {
    let ledger = Arc::new(Ledger::default());
    let walk =
        Walk::new(folder, "root".as_ref(), (Excludes::default(), SignedDuration::ZERO), Arc::clone(&ledger)).unwrap();
    let mut found = Vec::new();
    for entry in walk.map(Result::unwrap) {
        found.push(entry.path.display().to_string());
        if entry.path.as_os_str() == after {
            change();
        }
    }
    (found, ledger.take())
}

fn folder_with(paths: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for path in paths {
        match path.strip_suffix('/') {
            Some(folder) => fs::create_dir_all(place.path().join(folder)).unwrap(),
            None => fs::write(place.path().join(path), path).unwrap(),
        }
    }
    place
}

#[test]
fn folder_that_is_gone_is_named_and_a_file_that_is_gone_is_counted() {
    let place = folder_with(&["a", "b/", "b/inside", "c", "d"]);
    let (found, noted) = walk(place.path(), "a", || {
        fs::remove_dir_all(place.path().join("b")).unwrap();
        fs::remove_file(place.path().join("c")).unwrap();
    });
    assert_eq!(found, ["", "a", "d"]);
    assert_eq!((noted.vanished, noted.vanished_folders.count, noted.unreadable.count), (2, 1, 0), "{noted:?}");
    assert_eq!(noted.vanished_folders.first[0].path, "b");
}

#[test]
fn folder_that_goes_away_while_the_walk_is_in_it_is_no_failure() {
    let place = folder_with(&["b/", "b/1", "b/2", "b/3/", "c"]);
    let (found, noted) = walk(place.path(), "b/1", || fs::remove_dir_all(place.path().join("b")).unwrap());
    assert_eq!(found, ["", "b", "b/1", "c"]);
    assert_eq!((noted.vanished, noted.vanished_folders.count, noted.unreadable.count), (2, 1, 0), "{noted:?}");
}

#[test]
fn entry_that_becomes_another_kind_of_file_is_taken_as_what_it_is_now() {
    let place = folder_with(&["a", "b/", "c"]);
    let (found, noted) = walk(place.path(), "a", || {
        fs::remove_dir(place.path().join("b")).unwrap();
        symlink("a", place.path().join("b")).unwrap();
    });
    assert_eq!(found, ["", "a", "b", "c"]);
    assert_eq!((noted.vanished, noted.unreadable.count), (0, 0));
}

#[test]
fn what_a_storage_system_put_into_the_root_is_passed_over_and_named() {
    let place = folder_with(&[
        ".snapshot/hourly.0/",
        ".zfs/snapshot/",
        "lost+found/",
        "below/.snapshot/hourly.0/",
        ".snapshots/mine/",
        "file",
    ]);
    let (found, noted) = walk(place.path(), "", || {});
    let expected =
        ["", ".snapshots", ".snapshots/mine", "below", "below/.snapshot", "below/.snapshot/hourly.0", "file"];
    assert_eq!(found, expected);
    let named: Vec<&str> = noted.passed_over.first.iter().map(|one| one.path.as_str()).collect();
    assert_eq!((named, noted.passed_over.count), (vec![".snapshot", ".zfs"], 2), "nothing is in an empty lost+found");
}

#[test]
fn apps_own_entry_with_the_name_of_a_storage_systems_is_stored() {
    let place = folder_with(&[
        ".snapshot/",
        ".snapshot/index.db",
        "~snapshot",
        ".zfs/",
        ".zfs/mine/",
        "lost+found/",
        "lost+found/#12",
    ]);
    let (found, noted) = walk(place.path(), "", || {});
    assert_eq!(
        found,
        ["", ".snapshot", ".snapshot/index.db", ".zfs", ".zfs/mine", "lost+found", "lost+found/#12", "~snapshot"]
    );
    assert_eq!(noted.passed_over.count, 0);
}

#[test]
fn file_whose_folder_is_gone_cannot_be_opened_again() {
    let place = folder_with(&["b/", "b/file"]);
    let folder = Arc::new(OwnedFd::from(File::open(place.path().join("b")).unwrap()));
    let opened = Opened::open(&folder, c"file").unwrap();
    assert!(!opened.has_lost_its_folder());
    fs::remove_dir_all(place.path().join("b")).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NOENT);
    assert!(opened.has_lost_its_folder());
}

#[test]
fn file_that_is_replaced_by_a_pipe_is_not_waited_for() {
    let place = folder_with(&["file"]);
    let folder = Arc::new(OwnedFd::from(File::open(place.path()).unwrap()));
    let opened = Opened::open(&folder, c"file").unwrap();
    fs::remove_file(place.path().join("file")).unwrap();
    rustix::fs::mknodat(&*folder, "file", FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(opened.open_again().unwrap_err(), Errno::NXIO);
}

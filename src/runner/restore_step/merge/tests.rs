//! Restored entries replace present ones, other entries stay, and no link is followed out of the target.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::merge;

/// Two folders, of which the first is moved over the second, and a folder outside which must stay unchanged.
fn folders() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let [part, root, outside] = ["part", "root", "outside"].map(|name| directory.path().join(name));
    for folder in [&part, &root, &outside] {
        fs::create_dir(folder).unwrap();
    }
    (directory, part, root, outside)
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn restored_entries_replace_present_ones_and_the_rest_stays() {
    let (_directory, part, root, _) = folders();
    for (path, content) in [("a/b/new", "new"), ("a/same", "restored"), ("file", "restored"), ("was-folder", "file")] {
        write(part.join(path), content);
    }
    write(part.join("was-file/inside"), "restored");
    for (path, content) in [("a/b/old", "old"), ("a/same", "old"), ("file", "old"), ("was-folder/x/y", "old")] {
        write(root.join(path), content);
    }
    write(root.join("was-file"), "old");
    assert_eq!(merge(&part, &root, &[]).unwrap(), Vec::<String>::new());
    for (path, content) in [
        ("a/b/new", "new"),
        ("a/b/old", "old"),
        ("a/same", "restored"),
        ("file", "restored"),
        ("was-folder", "file"),
        ("was-file/inside", "restored"),
    ] {
        assert_eq!(text(root.join(path)), content, "{path}");
    }
    assert!(is_empty(&part));
}

#[test]
fn links_of_a_hostile_volume_are_replaced_and_never_followed() {
    let (_directory, part, root, outside) = folders();
    write(outside.join("inside/file"), "foreign");
    write(part.join("folder/file"), "restored");
    write(part.join("file"), "restored");
    write(part.join("deep/folder/file"), "restored");
    symlink(outside.join("inside"), root.join("folder")).unwrap();
    symlink(outside.join("inside/file"), root.join("file")).unwrap();
    fs::create_dir(root.join("deep")).unwrap();
    symlink("../../outside/inside", root.join("deep/folder")).unwrap();
    // A folder which is removed as a whole may contain links, too.
    write(part.join("tree"), "restored");
    fs::create_dir(root.join("tree")).unwrap();
    symlink(&outside, root.join("tree/out")).unwrap();
    merge(&part, &root, &[]).unwrap();
    assert_eq!(text(outside.join("inside/file")), "foreign");
    assert_eq!(fs::read_dir(outside.join("inside")).unwrap().count(), 1);
    for path in ["folder/file", "file", "deep/folder/file", "tree"] {
        assert_eq!(text(root.join(path)), "restored", "{path}");
    }
    assert!(fs::symlink_metadata(root.join("folder")).unwrap().is_dir());
}

#[test]
fn present_folders_get_the_restored_metadata_unless_they_are_only_parents() {
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    for (only, expected) in [(vec![], [0o750, 0o700]), (vec![PathBuf::from("a/b")], [0o755, 0o700])] {
        let (_directory, part, root, _) = folders();
        write(part.join("a/b/file"), "restored");
        write(root.join("a/b/file"), "old");
        for (folder, bits) in [("a", 0o750), ("a/b", 0o700)] {
            fs::set_permissions(part.join(folder), fs::Permissions::from_mode(bits)).unwrap();
            fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(part.join("a/b")).unwrap().set_modified(time).unwrap();
        merge(&part, &root, &only).unwrap();
        assert_eq!([mode(&root.join("a")), mode(&root.join("a/b"))], expected, "{only:?}");
        assert_eq!(fs::metadata(root.join("a/b")).unwrap().modified().unwrap(), time);
    }
}

#[test]
fn names_of_one_file_stay_one_file() {
    let (_directory, part, root, _) = folders();
    write(part.join("a/first"), "restored");
    fs::hard_link(part.join("a/first"), part.join("second")).unwrap();
    // In the target they are two names of another file.
    write(root.join("a/first"), "old");
    fs::hard_link(root.join("a/first"), root.join("second")).unwrap();
    fs::hard_link(root.join("a/first"), root.join("third")).unwrap();
    merge(&part, &root, &[]).unwrap();
    let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
    assert_eq!(inode("a/first"), inode("second"));
    assert_eq!((text(root.join("second")).as_str(), text(root.join("third")).as_str()), ("restored", "old"));
}

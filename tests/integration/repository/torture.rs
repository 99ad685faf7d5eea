//! A folder with everything which a file system can hold, and its description by other tools.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, chownat, makedev, mknodat, utimensat};

use super::noise;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Creates the folder which ext4 has in a new volume, if this is ext4. Returns whether it is.
pub fn make_lost_and_found(root: &Path) -> bool {
    let is_ext4 = rustix::fs::statfs(root).unwrap().f_type == 0xef53;
    if is_ext4 {
        fs::create_dir(root.join("lost+found")).unwrap();
    }
    is_ext4
}

/// Fills a folder. Root creates foreign owners and devices as well.
pub fn fill(root: &Path) {
    names(root);
    many(root);
    deep(root, 35);
    contents(root);
    kinds(root);
    attributes(root);
    if is_root() {
        owned(root);
    }
    // Last, because everything above changes the folders' times.
    times(root);
}

/// Every byte which a name can contain, alone and between other bytes.
fn names(root: &Path) {
    let folder = root.join("names");
    fs::create_dir(&folder).unwrap();
    for byte in (1..=255_u8).filter(|byte| *byte != b'/') {
        let name = [b"x".as_slice(), &[byte], b"y"].concat();
        fs::write(folder.join(OsStr::from_bytes(&name)), [byte]).unwrap();
        if byte != b'.' {
            fs::create_dir(folder.join(OsStr::from_bytes(&[byte]))).unwrap();
        }
    }
    for name in ["...", "-rf", " ", "ü\u{301}", "a\\x41", "\\", "\"", "\u{feff}", "%s%n", "日本語"] {
        fs::write(folder.join(format!("{name}!")), name).unwrap();
    }
    fs::write(folder.join("n".repeat(255)), "long").unwrap();
}

fn many(root: &Path) {
    let folder = root.join("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..10_000 {
        fs::write(folder.join(format!("file-{number}")), format!("content {number}")).unwrap();
    }
}

/// Nested folders. With more than 46 levels the path is longer than `PATH_MAX`.
fn deep(root: &Path, levels: usize) {
    let mut folder = rustix::fs::open(root, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for level in 0..levels {
        let name = format!("level-{level}-{}", "d".repeat(80));
        rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o755)).unwrap();
        folder = rustix::fs::openat(&folder, &name, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&folder, "bottom", flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all(b"bottom").unwrap();
}

fn contents(root: &Path) {
    let folder = root.join("contents");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("one"), "1").unwrap();
    fs::write(folder.join("large"), noise(20 << 20, 1)).unwrap();
    fs::write(folder.join("zeros"), vec![0; 3 << 20]).unwrap();
    let mut sparse = File::create(folder.join("sparse")).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
    sparse.write_all(b"middle").unwrap();
    sparse.set_len((100 << 20) + 1).unwrap();
    File::create(folder.join("hole")).unwrap().set_len(10 << 20).unwrap();
}

fn kinds(root: &Path) {
    let folder = root.join("kinds");
    fs::create_dir(&folder).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("first"), "linked").unwrap();
    fs::hard_link(folder.join("first"), folder.join("second")).unwrap();
    fs::hard_link(folder.join("first"), root.join("third")).unwrap();
    symlink("first", folder.join("link")).unwrap();
    symlink("/nowhere/at all", folder.join("broken")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    mknodat(CWD, folder.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    for mode in [0o000, 0o400, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o6711] {
        let path = folder.join(format!("mode-{mode:o}"));
        fs::write(&path, "m").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if mode & 0o700 == 0o700 {
            let path = folder.join(format!("folder-{mode:o}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Entries which restic does not restore: a socket, a link target which old versions do not keep, and a path longer
/// than `PATH_MAX`.
pub fn add_what_only_we_restore(root: &Path) {
    let folder = root.join("only");
    fs::create_dir(&folder).unwrap();
    deep(&folder, 60);
    mknodat(CWD, folder.join("socket"), FileType::Socket, Mode::from_raw_mode(0o755), 0).unwrap();
    symlink(OsStr::from_bytes(b"t\xff\xfe"), folder.join("bytes")).unwrap();
    times(root);
}

fn attributes(root: &Path) {
    let path = root.join("attributes");
    fs::create_dir(&path).unwrap();
    xattr::set(&path, "user.folder", b"of a folder").unwrap();
    let file = path.join("file");
    fs::write(&file, "a").unwrap();
    xattr::set(&file, "user.empty", b"").unwrap();
    xattr::set(&file, "user.bytes", &(0..=255).collect::<Vec<u8>>()).unwrap();
    // A file which its owner cannot write has attributes as well.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    let listed = path.join("access-list");
    fs::write(&listed, "l").unwrap();
    xattr::set(&listed, "system.posix_acl_access", &access_list()).unwrap();
    let inherits = path.join("inherits");
    fs::create_dir(&inherits).unwrap();
    xattr::set(&inherits, "system.posix_acl_default", &access_list()).unwrap();
}

/// `user::rw-,user:1234:r--,group::r--,mask::r--,other::---` in the kernel's form (acl(5), `posix_acl_xattr.h`).
fn access_list() -> Vec<u8> {
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    list
}

fn owned(root: &Path) {
    let folder = root.join("owned");
    fs::create_dir(&folder).unwrap();
    let own = |path: &Path, user, group| {
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        chownat(CWD, path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), flags).unwrap();
    };
    let program = folder.join("program");
    fs::write(&program, "p").unwrap();
    own(&program, 999, 998);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    // A capability: cap_net_bind_service=ep, revision 2 (linux/capability.h).
    let capable = folder.join("capable");
    fs::write(&capable, "c").unwrap();
    own(&capable, 65_532, 65_532);
    let capability = [&0x0200_0001_u32.to_le_bytes()[..], &(1_u32 << 10).to_le_bytes(), &[0; 12]].concat();
    xattr::set(&capable, "security.capability", &capability).unwrap();
    symlink("program", folder.join("link")).unwrap();
    own(&folder.join("link"), 7, 8);
    mknodat(CWD, folder.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, folder.join("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o660), makedev(259, 300)).unwrap();
    own(&folder, 1000, 1001);
    own(root, 1002, 1003);
}

/// Times before 1970, after 2038, and with nanoseconds.
fn times(root: &Path) {
    let set = |path: &Path, seconds, nanoseconds| {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    set(&root.join("contents/one"), 1_000_000_000, 1);
    set(&root.join("contents/empty"), 4_000_000_000, 999_999_999);
    set(&root.join("contents/zeros"), -1_000_000, 500);
    set(&root.join("kinds/link"), 1_500_000_000, 7);
    set(&root.join("kinds/pipe"), 1_500_000_001, 0);
    set(&root.join("kinds"), 1_400_000_000, 3);
    set(root, 1_300_000_000, 5);
}

/// A folder as tar and find report it: names, kinds, modes, owners, times, links, attributes, lengths and contents.
pub fn seen(root: &Path) -> (Vec<u8>, Vec<u8>) {
    let listing = Command::new("find")
        .arg(root)
        .args(["-printf", r"%P %y %m %U %G %s %T@ %n %l\0"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let mut entries: Vec<String> = listing
        .stdout
        .split(|byte| *byte == 0)
        .map(|entry| entry.escape_ascii().to_string())
        // The length of a folder depends on the file system.
        .map(|entry| match entry.split(' ').collect::<Vec<_>>().as_slice() {
            [name @ .., "d", mode, user, group, _, time, _, _] => {
                [name.join(" "), "d".to_owned(), [*mode, user, group, time].join(" ")].join(" ")
            }
            _ => entry,
        })
        .collect();
    entries.sort();
    let archive = Command::new("tar")
        .args(["--create", "--sort=name", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--format=posix"])
        .args(["--pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f", "--warning=no-file-ignored", "--directory"])
        .arg(root)
        .arg(".")
        .output()
        .unwrap();
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    (entries.join("\n").into_bytes(), archive.stdout)
}

/// Asserts that other tools see the same in both folders.
pub fn assert_same(one: &Path, other: &Path) {
    let ((one_list, one_archive), (other_list, other_archive)) = (seen(one), seen(other));
    if one_list != other_list {
        let lines =
            |list: &[u8]| String::from_utf8(list.to_vec()).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        let (one, other) = (lines(&one_list), lines(&other_list));
        let only = |here: &[String], there: &[String]| {
            here.iter().filter(|line| !there.contains(line)).take(5).cloned().collect::<Vec<_>>()
        };
        panic!("only in the first: {:#?}\nonly in the second: {:#?}", only(&one, &other), only(&other, &one));
    }
    if one_archive != other_archive {
        let at = one_archive.iter().zip(&other_archive).position(|(one, other)| one != other);
        panic!("the archives of {} and {} differ at {at:?}", one.display(), other.display());
    }
}

/// Compares the entries below both folders, for a snapshot without the metadata of the root folder.
pub fn assert_same_below(one: &Path, other: &Path) {
    assert_eq!(names_in(one), names_in(other));
    for name in names_in(one) {
        let (one, other) = (one.join(&name), other.join(&name));
        if one.is_dir() {
            assert_same(&one, &other);
        } else {
            assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap());
        }
    }
}

/// The bytes which a file occupies on disk.
pub fn allocated(file: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512
}

/// Creates a folder.
pub fn folder_in(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

/// A file system mounted on a folder, by root; unmounted on drop.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn tmpfs(folder: &Path, options: &str) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status().unwrap();
        assert!(mounted.success());
        Self(folder.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The names in a folder, sorted.
pub fn names_in(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

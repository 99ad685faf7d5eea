//! Every property of a file, on every file system which can be mounted here. Stored files are restored unchanged onto
//! the same kind of file system. On any other kind, a property which the file system cannot hold is named.
//!
//! File systems for which the machine has no program or kernel module are reported as SKIPPED.

mod created;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use stowaway::repository::RestoredFolder;

use super::{
    folders::{restore_folder, store_folder},
    restic::newest,
    torture::{folder_in, is_root},
    *,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    /// In memory, without attributes.
    Ramfs,
    Overlay,
    Vfat,
    /// Mounted by FUSE.
    Exfat,
}

/// A mounted file system of this kind, until it is dropped.
pub struct Volume {
    dir: tempfile::TempDir,
    /// The loop device, if FUSE needs one.
    device: Option<String>,
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

impl Volume {
    /// Mounts a new file system, or returns `None` if the machine cannot.
    pub fn mount(kind: Kind) -> Option<Self> {
        assert!(is_root(), "this test mounts, and needs root");
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("mounted"));
        fs::create_dir(&at).unwrap();
        let mut volume = Self { dir, device: None };
        let make = match kind {
            Kind::Ext4 => Some((48, vec!["mkfs.ext4", "-q", "-F"])),
            Kind::Xfs => Some((320, vec!["mkfs.xfs", "-q"])),
            Kind::Btrfs => Some((128, vec!["mkfs.btrfs", "-q"])),
            Kind::Vfat => Some((48, vec!["mkfs.vfat"])),
            Kind::Exfat => Some((48, vec!["mkfs.exfat"])),
            Kind::Tmpfs | Kind::Ramfs | Kind::Overlay => None,
        };
        if let Some((size, command)) = make {
            File::create(&image).unwrap().set_len(size << 20).unwrap();
            if !succeeds(Command::new(command[0]).args(&command[1..]).arg(&image)) {
                return None;
            }
        }
        let mounted = match kind {
            Kind::Tmpfs => succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&at)),
            Kind::Ramfs => succeeds(Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(&at)),
            Kind::Overlay => {
                let [lower, upper, work] = ["lower", "upper", "work"].map(|name| folder_in(volume.dir.path(), name));
                let folders =
                    format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
                succeeds(Command::new("mount").args(["-t", "overlay", "-o", &folders, "overlay"]).arg(&at))
            }
            Kind::Exfat => {
                let attached = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().ok()?;
                let device = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
                let mounted = succeeds(Command::new("mount.exfat-fuse").arg(&device).arg(&at));
                volume.device = Some(device);
                mounted
            }
            _ => succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at)),
        };
        mounted.then_some(volume)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

/// A property of a file. `make` creates a file with it in a folder, and fails if the file system does not support it;
/// `look` describes the property there.
struct Property {
    name: &'static str,
    make: fn(&Path) -> std::io::Result<()>,
    look: fn(&Path) -> String,
    /// The text by which the restore names the property if the target cannot hold it. `None` for properties of the name
    /// or the content.
    named: Option<&'static str>,
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)?;
    let found = fs::symlink_metadata(path)?;
    // The file system cannot represent this time.
    if (found.mtime(), found.mtime_nsec()) == (seconds, nanoseconds) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn times(path: &Path) -> String {
    fs::symlink_metadata(path)
        .map_or_else(|_| "-".into(), |found| format!("{}.{:09}", found.mtime(), found.mtime_nsec()))
}

fn file(folder: &Path, name: &str) -> std::io::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, name)?;
    Ok(path)
}

fn make_named(folder: &Path, name: &[u8]) -> std::io::Result<()> {
    fs::write(folder.join(OsStr::from_bytes(name)), name)
}

fn look_named(folder: &Path, name: &[u8]) -> String {
    fs::read(folder.join(OsStr::from_bytes(name)))
        .map_or_else(|error| error.to_string(), |read| read.escape_ascii().to_string())
}

fn attribute(folder: &Path, name: &str, value: &[u8]) -> std::io::Result<()> {
    xattr::set(file(folder, "file")?, name, value)
}

fn look_attribute(folder: &Path, name: &str) -> String {
    xattr::get(folder.join("file"), name).map_or_else(|_| "-".into(), |value| format!("{value:?}"))
}

fn with_mode(folder: &Path, mode: u32) -> std::io::Result<()> {
    let path = file(folder, "file")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    if fs::metadata(path)?.mode() & 0o7777 == mode { Ok(()) } else { Err(std::io::ErrorKind::Unsupported.into()) }
}

fn mode(folder: &Path) -> String {
    fs::metadata(folder.join("file")).map_or_else(|_| "-".into(), |found| format!("{:o}", found.mode()))
}

fn node(folder: &Path, kind: FileType, device: u64) -> std::io::Result<()> {
    Ok(mknodat(CWD, folder.join("node"), kind, Mode::from_raw_mode(0o640), device)?)
}

fn look_node(folder: &Path) -> String {
    let found = fs::symlink_metadata(folder.join("node"));
    found.map_or_else(|_| "-".into(), |found| format!("{:o} {}", found.mode(), found.rdev()))
}

fn access_list() -> Vec<u8> {
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    list
}

const PROPERTIES: &[Property] = &[
    Property {
        name: "time before 1970",
        make: |at| set_times(&file(at, "file")?, -1_000_000, 500),
        look: |at| times(&at.join("file")),
        named: Some("its times"),
    },
    Property {
        name: "time of a nanosecond",
        make: |at| set_times(&file(at, "file")?, 1_000_000_000, 1),
        look: |at| times(&at.join("file")),
        named: Some("rounded"),
    },
    Property {
        name: "time after 2038",
        make: |at| set_times(&file(at, "file")?, 4_000_000_000, 999_999_999),
        look: |at| times(&at.join("file")),
        named: Some("its times"),
    },
    Property {
        name: "time in the year 2400",
        make: |at| set_times(&file(at, "file")?, 13_600_000_000, 0),
        look: |at| times(&at.join("file")),
        named: Some("its times"),
    },
    Property {
        name: "time of a folder",
        make: |at| {
            fs::create_dir(at.join("folder"))?;
            set_times(&at.join("folder"), 1_000_000_000, 0)
        },
        look: |at| times(&at.join("folder")),
        named: Some("its times"),
    },
    Property {
        name: "name with a line feed",
        make: |at| make_named(at, b"a\nb"),
        look: |at| look_named(at, b"a\nb"),
        named: None,
    },
    Property {
        name: "name that is no UTF-8",
        make: |at| make_named(at, b"caf\xe9"),
        look: |at| look_named(at, b"caf\xe9"),
        named: None,
    },
    Property {
        name: "name of 255 bytes",
        make: |at| make_named(at, &[b'n'; 255]),
        look: |at| look_named(at, &[b'n'; 255]),
        named: None,
    },
    Property {
        name: "name with a leading dash",
        make: |at| make_named(at, b"-rf"),
        look: |at| look_named(at, b"-rf"),
        named: None,
    },
    Property {
        name: "name with a backslash",
        make: |at| make_named(at, b"a\\x41\\"),
        look: |at| look_named(at, b"a\\x41\\"),
        named: None,
    },
    Property { name: "setuid", make: |at| with_mode(at, 0o4755), look: mode, named: Some("its mode") },
    Property { name: "setgid", make: |at| with_mode(at, 0o2755), look: mode, named: Some("its mode") },
    Property { name: "sticky", make: |at| with_mode(at, 0o1644), look: mode, named: Some("its mode") },
    Property { name: "no mode at all", make: |at| with_mode(at, 0), look: mode, named: Some("its mode") },
    Property {
        name: "setgid on a folder of another group",
        make: |at| {
            fs::create_dir(at.join("file"))?;
            chown(at.join("file"), Some(7), Some(33))?;
            fs::set_permissions(at.join("file"), fs::Permissions::from_mode(0o2775))
        },
        look: mode,
        named: Some("its "),
    },
    Property {
        name: "owner",
        make: |at| chown(file(at, "file")?, Some(1000), Some(1001)),
        look: |at| {
            fs::metadata(at.join("file"))
                .map_or_else(|_| "-".into(), |found| format!("{}:{}", found.uid(), found.gid()))
        },
        named: Some("its owner"),
    },
    Property {
        name: "owner with a high number",
        make: |at| chown(file(at, "file")?, Some(4_000_000_000), Some(4_000_000_001)),
        look: |at| {
            fs::metadata(at.join("file"))
                .map_or_else(|_| "-".into(), |found| format!("{}:{}", found.uid(), found.gid()))
        },
        named: Some("its owner"),
    },
    Property {
        name: "dangling link",
        make: |at| symlink("/nowhere/at all", at.join("link")),
        look: |at| format!("{:?}", fs::read_link(at.join("link")).ok()),
        named: Some("the symbolic link"),
    },
    Property {
        name: "long link",
        make: |at| symlink("t".repeat(1000), at.join("link")),
        look: |at| format!("{:?}", fs::read_link(at.join("link")).ok()),
        named: Some("the symbolic link"),
    },
    Property {
        name: "link of another owner",
        make: |at| {
            symlink("x", at.join("link"))?;
            std::os::unix::fs::lchown(at.join("link"), Some(7), Some(8))
        },
        look: |at| {
            fs::symlink_metadata(at.join("link"))
                .map_or_else(|_| "-".into(), |found| format!("{}:{}", found.uid(), found.gid()))
        },
        named: Some("link"),
    },
    Property {
        name: "hard link",
        make: |at| fs::hard_link(file(at, "file")?, at.join("other")),
        look: |at| {
            let inode = |name: &str| fs::metadata(at.join(name)).map(|found| found.ino()).ok();
            format!("{:?} {}", fs::read(at.join("other")).ok(), inode("file") == inode("other"))
        },
        named: Some("the hard link"),
    },
    Property {
        name: "hole",
        make: |at| {
            let mut sparse = File::create(at.join("sparse"))?;
            sparse.write_all(b"begin")?;
            sparse.set_len(9 << 20)
        },
        look: |at| {
            let read = fs::read(at.join("sparse")).unwrap_or_default();
            format!("{} {}", read.len(), read.starts_with(b"begin\0") && read[5..].iter().all(|byte| *byte == 0))
        },
        named: None,
    },
    Property {
        name: "user attribute",
        make: |at| attribute(at, "user.mark", &(0..=255).collect::<Vec<u8>>()),
        look: |at| look_attribute(at, "user.mark"),
        named: Some("its attribute user.mark"),
    },
    Property {
        name: "attribute without a value",
        make: |at| attribute(at, "user.empty", b""),
        look: |at| look_attribute(at, "user.empty"),
        named: Some("its attribute user.empty"),
    },
    Property {
        name: "attribute of 30,000 bytes",
        make: |at| attribute(at, "user.big", &[7; 30_000]),
        look: |at| look_attribute(at, "user.big"),
        named: Some("its attribute user.big"),
    },
    Property {
        name: "trusted attribute",
        make: |at| attribute(at, "trusted.mark", b"t"),
        look: |at| look_attribute(at, "trusted.mark"),
        named: Some("its attribute trusted.mark"),
    },
    Property {
        name: "capability",
        make: |at| {
            let capability = [&0x0200_0001_u32.to_le_bytes()[..], &(1_u32 << 10).to_le_bytes(), &[0; 12]].concat();
            attribute(at, "security.capability", &capability)
        },
        look: |at| look_attribute(at, "security.capability"),
        named: Some("its attribute security.capability"),
    },
    Property {
        name: "access list",
        make: |at| attribute(at, "system.posix_acl_access", &access_list()),
        look: |at| look_attribute(at, "system.posix_acl_access"),
        named: Some("its attribute system.posix_acl_access"),
    },
    Property { name: "pipe", make: |at| node(at, FileType::Fifo, 0), look: look_node, named: Some("the pipe") },
    Property { name: "socket", make: |at| node(at, FileType::Socket, 0), look: look_node, named: Some("the socket") },
    Property {
        name: "device",
        make: |at| node(at, FileType::CharacterDevice, makedev(1, 3)),
        look: look_node,
        named: Some("the device"),
    },
    Property {
        name: "empty folder",
        make: |at| fs::create_dir(at.join("empty")),
        look: |at| at.join("empty").is_dir().to_string(),
        named: None,
    },
    Property {
        name: "empty file",
        make: |at| fs::write(at.join("nothing"), ""),
        look: |at| format!("{:?}", fs::read(at.join("nothing")).ok()),
        named: None,
    },
];

/// Creates a folder for each property which the file system supports, named by the property's index.
fn fill(root: &Path, kind: Kind) -> Vec<usize> {
    let mut made = Vec::new();
    for (number, property) in PROPERTIES.iter().enumerate() {
        let folder = folder_in(root, &number.to_string());
        match (property.make)(&folder) {
            Ok(()) => made.push(number),
            Err(error) => {
                eprintln!("{kind:?} has no {}: {error}", property.name);
                fs::remove_dir_all(folder).unwrap();
            }
        }
    }
    made
}

/// Asserts that each property is unchanged, or is named by the restore.
fn compare(source: &Path, target: &Path, made: &[usize], restored: &RestoredFolder, pair: (Kind, Kind)) {
    for number in made {
        let property = &PROPERTIES[*number];
        let look = |root: &Path| (property.look)(&root.join(number.to_string()));
        let (was, is) = (look(source), look(target));
        if was == is {
            continue;
        }
        let is_named = property.named.is_some_and(|named| {
            let of_folder = format!("{number}/");
            named == "rounded" && restored.rounded_times > 0
                || restored
                    .not_kept
                    .first
                    .iter()
                    .any(|one| one.path.starts_with(&of_folder) && one.reason.contains(named))
                || restored.not_kept.count > restored.not_kept.first.len() as u64
                || named == "its times" && restored.rounded_times > 0 && is.split('.').next() == was.split('.').next()
        });
        assert!(is_named, "{pair:?}: {}: {was} became {is}: {restored:?}", property.name);
        assert_ne!(pair.0, pair.1, "a file system holds what it held: {}: {was} became {is}", property.name);
    }
}

const ALL: [Kind; 7] = [Kind::Tmpfs, Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Ramfs, Kind::Overlay, Kind::Exfat];

#[tokio::test]
async fn whatever_a_file_system_holds_comes_back_or_is_named() {
    for from in ALL {
        let Some(volume) = Volume::mount(from) else {
            crate::skipped(&format!("{from:?} cannot be made here"));
            continue;
        };
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(&dir.path().join("repository")).await;
        let source = folder_in(&volume.path(), "source");
        let made = fill(&source, from);
        let stored = store_folder(&repository, &source).await;
        assert_eq!((stored.unreadable.count, stored.mounts.count), (0, 0), "{from:?}: {stored:?}");
        assert_eq!((stored.without_attributes.count, stored.vanished), (0, 0), "{from:?}: {stored:?}");
        for to in ALL {
            let Some(volume) = Volume::mount(to) else { continue };
            // exfat by FUSE is restored only from exfat, because a name which it cannot hold fails the restore.
            if to == Kind::Exfat && from != Kind::Exfat {
                continue;
            }
            let target = folder_in(&volume.path(), "target");
            let restored = restore_folder(&repository, &stored.snapshot, &target).await;
            compare(&source, &target, &made, &restored, (from, to));
        }
        repository.close().await;
    }
}

#[tokio::test]
async fn whatever_restic_stored_of_a_file_system_comes_back_or_is_named() {
    let volume = Volume::mount(Kind::Ext4).expect("this test mounts ext4");
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(&volume.path(), "source");
    let mut made = fill(&source, Kind::Ext4);
    // restic stores no sockets.
    made.retain(|number| PROPERTIES[*number].name != "socket");
    newest().ok(&at, &["backup", "--host", "shop", source.to_str().unwrap()]);
    let snapshot = repository.snapshots().await.unwrap()[0].id.clone();
    for to in [Kind::Ext4, Kind::Tmpfs, Kind::Ramfs] {
        let Some(volume) = Volume::mount(to) else {
            crate::skipped(&format!("{to:?} cannot be made here"));
            continue;
        };
        let target = folder_in(&volume.path(), "target");
        let path = source.to_str().unwrap();
        let restored = repository.restore_folder(&snapshot, path, &target, std::sync::Arc::default()).await.unwrap();
        compare(&source, &target, &made, &restored, (Kind::Ext4, to));
    }
    // The reverse direction: restic restores what Stowaway stored.
    let rules = super::folders::at("2026-05-04T03:02:01Z");
    let stored = repository.store_folder(&super::folders::claim(), &rules, &source, Arc::default()).await.unwrap();
    repository.close().await;
    newest().check(&at);
    let target = folder_in(dir.path(), "by-restic");
    newest().ok(&at, &["restore", &stored.snapshot, "--target", target.to_str().unwrap(), "--exclude", "*/node"]);
    assert_eq!(fs::read(target.join("data/claim/6/").join(OsStr::from_bytes(b"caf\xe9"))).unwrap(), b"caf\xe9");
}

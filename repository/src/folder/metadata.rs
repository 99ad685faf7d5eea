//! Converts the metadata of a file from stat(2) to restic's tree nodes and back. The format is specified in restic's
//! design document, section "Trees and Data". Modes are those of Go's `fs.FileMode`.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt};

use jiff::{SignedDuration, Timestamp};
use rustix::{
    fs::{FileType, Mode, Statx, StatxTimestamp, Timespec, Timestamps, makedev},
    io::Errno,
};

use crate::format::{Binary, ExtendedAttribute, Metadata, Node, NodeType};
use stowaway_model::escape_name;

const DIRECTORY: u32 = 1 << 31;
const SYMBOLIC_LINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_USER: u32 = 1 << 23;
const SET_GROUP: u32 = 1 << 22;
const CHARACTER_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
/// Pairs of a Unix mode bit and Go's bit. The permission bits are the same in both.
const SPECIAL_BITS: [(u32, u32); 3] = [(0o4000, SET_USER), (0o2000, SET_GROUP), (0o1000, STICKY)];

/// A label which is valid only on its machine and for one pod, and which is set again wherever a volume is mounted.
const SELINUX_LABEL: &str = "security.selinux";

pub(super) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// The type of a node; none for a type which a tree cannot contain. A symbolic link needs its target, so it is not
/// handled here.
pub(super) fn node_type(stat: &Statx) -> Option<NodeType> {
    let device = || makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    match file_type(stat) {
        FileType::RegularFile => Some(NodeType::File),
        FileType::Directory => Some(NodeType::Dir),
        FileType::BlockDevice => Some(NodeType::Dev { device: device() }),
        FileType::CharacterDevice => Some(NodeType::Chardev { device: device() }),
        FileType::Fifo => Some(NodeType::Fifo),
        FileType::Socket => Some(NodeType::Socket),
        _ => None,
    }
}

/// When the metadata of an entry was read, and how old its ctime must then be to rule out a later change with the same
/// ctime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    pub now: Timestamp,
    pub settle: SignedDuration,
}

/// The node of an entry, without content. `attributes` are those which the function [`attributes`] found.
pub(super) fn node(name: &OsStr, stat: &Statx, node_type: NodeType, attributes: Metadata, observed: Observed) -> Node {
    let Observed { now, settle } = observed;
    let is_folder = matches!(node_type, NodeType::Dir);
    let is_linked = stat.stx_nlink > 1 && !is_folder;
    let modified = timestamp(&stat.stx_mtime);
    let changed = timestamp(&stat.stx_ctime);
    // A file which may still change without a new ctime gets a ctime which no file has and no other run uses, so that
    // the next run reads the file again.
    let is_settled = is_folder || changed < now.saturating_sub(settle).unwrap_or(Timestamp::MIN);
    let metadata = Metadata {
        mode: Some(mode_of(stat)),
        mtime: Some(modified),
        // As in restic: reading a file must not change the tree of its folder.
        atime: Some(modified),
        ctime: Some(if is_settled { changed } else { impossible_ctime(now) }),
        uid: Some(stat.stx_uid),
        gid: Some(stat.stx_gid),
        inode: stat.stx_ino,
        device_id: if is_linked { device_of(stat) } else { 0 },
        size: if matches!(node_type, NodeType::File) { stat.stx_size } else { 0 },
        links: if is_folder { 0 } else { stat.stx_nlink.into() },
        ..attributes
    };
    Node::new_node(name, node_type, metadata)
}

/// Sets the node of a file which changed while it was read to the stored length, and to the times which belong to the
/// stored content. Whatever the file's times are then, the next run reads it again.
pub(super) fn set_changed(metadata: &mut Metadata, stat: &Statx, size: u64, now: Timestamp) {
    let modified = timestamp(&stat.stx_mtime);
    metadata.size = size;
    metadata.inode = stat.stx_ino;
    metadata.mtime = Some(modified);
    metadata.atime = Some(modified);
    metadata.ctime = Some(impossible_ctime(now));
}

/// A time as long before 1970 as `now` is after it.
fn impossible_ctime(now: Timestamp) -> Timestamp {
    Timestamp::from_nanosecond(-now.as_nanosecond()).unwrap_or(Timestamp::MIN)
}

/// The device number of a file's file system.
pub(super) fn device_of(stat: &Statx) -> u64 {
    makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn mode_of(stat: &Statx) -> u32 {
    let mode = u32::from(stat.stx_mode);
    let kind = match file_type(stat) {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => SYMBOLIC_LINK,
        FileType::BlockDevice => DEVICE,
        FileType::CharacterDevice => DEVICE | CHARACTER_DEVICE,
        FileType::Fifo => PIPE,
        FileType::Socket => SOCKET,
        _ => 0,
    };
    let special = SPECIAL_BITS.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | mode & 0o777
}

/// The permissions and special bits of a node's mode.
pub(crate) fn permissions(mode: u32) -> Mode {
    let special = SPECIAL_BITS.iter().filter(|(_, go)| mode & go != 0).map(|(bit, _)| bit).sum::<u32>();
    Mode::from_raw_mode(special | mode & 0o777)
}

/// Converts a time. As in restic, a time after the year 9999 becomes the latest possible one.
fn timestamp(time: &StatxTimestamp) -> Timestamp {
    let nanoseconds = i32::try_from(time.tv_nsec).unwrap_or_default();
    let limit = if time.tv_sec < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(time.tv_sec, nanoseconds).unwrap_or(limit)
}

/// The times of a node for `utimensat`. If no access time is stored, it is the modification time.
pub(super) fn times(metadata: &Metadata) -> Option<Timestamps> {
    let modified = metadata.mtime?;
    Some(Timestamps {
        last_access: timespec(metadata.atime.unwrap_or(modified)),
        last_modification: timespec(modified),
    })
}

fn timespec(time: Timestamp) -> Timespec {
    // The nanoseconds of a `timespec` are never negative, not even before 1970.
    let nanoseconds = time.subsec_nanosecond();
    let (seconds, nanoseconds) = if nanoseconds < 0 {
        (time.as_second() - 1, nanoseconds + 1_000_000_000)
    } else {
        (time.as_second(), nanoseconds)
    };
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
}

/// The extended attributes of an entry.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// The attributes which could be read; all other fields have their defaults.
    pub found: Metadata,
    /// The names of the attributes which could not be read, with the errors.
    pub failed: Vec<(String, io::Error)>,
}

/// Reads all extended attributes except `security.selinux`. Returns none if the file system has no attributes, and an
/// error if they cannot be listed.
pub(super) fn attributes(
    names: io::Result<xattr::XAttrs>,
    value: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Option<Attributes>> {
    let names = match names {
        Err(error) if has_no_attributes(&error) => return Ok(None),
        names => names?,
    };
    let mut attributes = Attributes::default();
    let mut found = Vec::new();
    for name in names.filter(|name| name != SELINUX_LABEL) {
        let Some(text) = name.to_str() else {
            let error = io::Error::other("its name is not UTF-8");
            attributes.failed.push((escape_name(name.as_encoded_bytes()), error));
            continue;
        };
        match value(&name) {
            Ok(Some(value)) => found.push(ExtendedAttribute { name: text.to_owned(), value: Some(Binary(value)) }),
            // Removed since the listing.
            Ok(None) => {}
            // Some file systems list an attribute for all files, even if it is not set (access lists on NFS).
            Err(error) if has_no_attributes(&error) => {}
            Err(error) => attributes.failed.push((escape_name(text.as_bytes()), error)),
        }
    }
    // The order must not depend on the file system.
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    attributes.found.extended_attributes = found;
    Ok(Some(attributes))
}

/// Whether the error means that the entry or its file system has no attributes.
fn has_no_attributes(error: &io::Error) -> bool {
    let none = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NODATA];
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|error| none.contains(&Errno::from_raw_os_error(error)))
}

/// The attributes of a node which are valid on other machines.
pub(super) fn portable(metadata: &Metadata) -> impl Iterator<Item = (&str, &[u8])> {
    let all = metadata.extended_attributes.iter();
    all.filter(|attribute| attribute.name != SELINUX_LABEL)
        .map(|attribute| (attribute.name.as_str(), attribute.value.as_ref().map_or(&[][..], |value| &value.0)))
}

/// Whether an attribute is a POSIX access list. The mode of a file is a part of its access list.
pub(super) fn is_access_list(attribute: &str) -> bool {
    attribute.starts_with("system.posix_acl_")
}

/// Whether a name is a valid name of a single entry.
pub(super) fn is_plain(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/') && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in ["", ".", "..", "/", "a/b", "../x", "/etc", "a\0b"] {
            assert!(!is_plain(OsStr::new(name)), "{name:?}");
        }
        for name in ["a", "...", "..a", " ", "\n", "\\"] {
            assert!(is_plain(OsStr::new(name)), "{name:?}");
        }
    }

    #[test]
    fn modes_of_restic_are_understood() {
        // The values which `restic ls --json` prints for setuid, setgid, sticky, and no special bit.
        for (go, unix) in [
            (SET_USER | 0o755, 0o4755),
            (SET_GROUP | DIRECTORY | 0o770, 0o2770),
            (STICKY | DIRECTORY | 0o777, 0o1777),
            (DEVICE | CHARACTER_DEVICE | 0o600, 0o600),
        ] {
            assert_eq!(permissions(go).as_raw_mode(), unix, "{go:o}");
        }
    }

    #[test]
    fn times_before_1970_are_kept() {
        let time: Timestamp = "1969-12-31T23:59:58.25Z".parse().unwrap();
        let spec = timespec(time);
        assert_eq!((spec.tv_sec, spec.tv_nsec), (-2, 250_000_000));
    }
}

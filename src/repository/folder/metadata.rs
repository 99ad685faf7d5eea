//! What the system says of a file, in the form that restic's trees have, and back.
//!
//! Formats: restic's design document, section "Trees and Data"; modes are those of Go's `fs.FileMode`. It must not know
//! where the file is.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::{
    fs::{FileType, Mode, Statx, StatxTimestamp, Timespec, Timestamps, makedev},
    io::Errno,
};
use serde_json::{Value, json};

use crate::model::escape_name;

const DIRECTORY: u32 = 1 << 31;
const SYMBOLIC_LINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_USER: u32 = 1 << 23;
const SET_GROUP: u32 = 1 << 22;
const CHARACTER_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
/// Pairs of the system's bit and Go's; the permissions are the same in both.
const SPECIAL_BITS: [(u32, u32); 3] = [(0o4000, SET_USER), (0o2000, SET_GROUP), (0o1000, STICKY)];

/// A label of the machine that it was set on, and of one pod: it means nothing elsewhere, and is made anew there.
const MACHINES_OWN: &str = "security.selinux";

/// What kind of file it is.
pub(super) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// The type of a node that is neither folder nor link, or none for what no tree can hold.
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

/// When an entry was looked at, and how long before that its last change must be to be the last one for sure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub now: Timestamp,
    pub settle: SignedDuration,
}

/// The node of a file, without content. `attributes` is what [`attributes`] found.
pub(super) fn node(name: &OsStr, stat: &Statx, node_type: NodeType, attributes: Metadata, look: Look) -> Node {
    let Look { now, settle } = look;
    let is_folder = matches!(node_type, NodeType::Dir);
    let is_linked = stat.stx_nlink > 1 && !is_folder;
    let modified = timestamp(&stat.stx_mtime);
    let changed = timestamp(&stat.stx_ctime);
    // What may yet change unseen gets a time that no file has, and no other run gives, so that the next one reads it again.
    let is_sure = is_folder || changed < now.saturating_sub(settle).unwrap_or(Timestamp::MIN);
    let metadata = Metadata {
        mode: Some(mode_of(stat)),
        mtime: Some(modified),
        // As restic does: reading a file must not change its folder's tree.
        atime: Some(modified),
        ctime: Some(if is_sure { changed } else { never(now) }),
        uid: Some(stat.stx_uid),
        gid: Some(stat.stx_gid),
        user: None,
        group: None,
        inode: stat.stx_ino,
        device_id: if is_linked { device_of(stat) } else { 0 },
        size: if matches!(node_type, NodeType::File) { stat.stx_size } else { 0 },
        links: if is_folder { 0 } else { stat.stx_nlink.into() },
        ..attributes
    };
    Node::new_node(name, node_type, metadata)
}

/// Gives the node of a file that changed while it was read the length of what is stored and the times that belong to it. The
/// next run reads the file again, whatever its times are then.
pub(super) fn set_changed(metadata: &mut Metadata, stat: &Statx, size: u64, now: Timestamp) {
    let modified = timestamp(&stat.stx_mtime);
    metadata.size = size;
    metadata.inode = stat.stx_ino;
    metadata.mtime = Some(modified);
    metadata.atime = Some(modified);
    metadata.ctime = Some(never(now));
}

/// As long before 1970 as `now` is after it.
fn never(now: Timestamp) -> Timestamp {
    Timestamp::from_nanosecond(-now.as_nanosecond()).unwrap_or(Timestamp::MIN)
}

/// The file system that a file is on.
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
pub(in crate::repository) fn permissions(mode: u32) -> Mode {
    let special = SPECIAL_BITS.iter().filter(|(_, go)| mode & go != 0).map(|(bit, _)| bit).sum::<u32>();
    Mode::from_raw_mode(special | mode & 0o777)
}

/// A time; one beyond the year 9999 is the last that there is, as with restic.
fn timestamp(time: &StatxTimestamp) -> Timestamp {
    let nanoseconds = i32::try_from(time.tv_nsec).unwrap_or_default();
    let limit = if time.tv_sec < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(time.tv_sec, nanoseconds).unwrap_or(limit)
}

/// Both times of a node for the system; the access time is the modification's where none was stored.
pub(super) fn times(metadata: &Metadata) -> Option<Timestamps> {
    let modified = metadata.mtime?;
    Some(Timestamps {
        last_access: timespec(metadata.atime.unwrap_or(modified)),
        last_modification: timespec(modified),
    })
}

fn timespec(time: Timestamp) -> Timespec {
    // The system wants nanoseconds that count forwards, before 1970, too.
    let nanoseconds = time.subsec_nanosecond();
    let (seconds, nanoseconds) = if nanoseconds < 0 {
        (time.as_second() - 1, nanoseconds + 1_000_000_000)
    } else {
        (time.as_second(), nanoseconds)
    };
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
}

/// The attributes of an entry.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// Those that were read, and nothing else.
    pub found: Metadata,
    /// Names of others, and why those could not be read.
    pub failed: Vec<(String, io::Error)>,
}

/// Reads all attributes but what is the machine's own; none if the file system has none. An error if they cannot be listed.
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
    for name in names.filter(|name| name != MACHINES_OWN) {
        let Some(text) = name.to_str() else {
            let error = io::Error::other("its name is no UTF-8");
            attributes.failed.push((escape_name(name.as_encoded_bytes()), error));
            continue;
        };
        match value(&name) {
            Ok(Some(value)) => found.push((text.to_owned(), STANDARD.encode(value))),
            // Gone since the listing.
            Ok(None) => {}
            // Listed of all files, whether they have it or not (access lists of NFS).
            Err(error) if has_no_attributes(&error) => {}
            Err(error) => attributes.failed.push((escape_name(text.as_bytes()), error)),
        }
    }
    if found.is_empty() {
        return Ok(Some(attributes));
    }
    // In an order that does not depend on the file system.
    found.sort_unstable();
    let found: Vec<Value> = found.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    // The engine's type for one has no name outside of it.
    attributes.found = serde_json::from_value(json!({ "extended_attributes": found }))?;
    Ok(Some(attributes))
}

/// Whether an error of a listing means that there are no attributes.
fn has_no_attributes(error: &io::Error) -> bool {
    let none = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NODATA];
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|error| none.contains(&Errno::from_raw_os_error(error)))
}

/// The attributes of a snapshot's node that are for this machine, too.
pub(super) fn portable(metadata: &Metadata) -> impl Iterator<Item = (&str, &[u8])> {
    let all = metadata.extended_attributes.iter();
    all.filter(|attribute| attribute.name != MACHINES_OWN)
        .map(|attribute| (attribute.name.as_str(), attribute.value.as_deref().unwrap_or_default()))
}

/// Whether an attribute is an access list, which a file's mode is a part of.
pub(super) fn is_access_list(attribute: &str) -> bool {
    attribute.starts_with("system.posix_acl_")
}

/// Whether a name is one of a single entry, and can be one.
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
        // `restic ls --json` says so of these: setuid, setgid, sticky, none.
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

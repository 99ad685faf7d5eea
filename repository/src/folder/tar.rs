//! Writes the steps of a restore as members of a tar: names, contents, links, owners, modes, attributes and times.
//!
//! The format is POSIX.1-2001 ("pax"). Values which do not fit into the ustar header are in extended records before it.
//! Extended attributes are `SCHILY.xattr.*` records, as in GNU tar and libarchive.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use jiff::Timestamp;
use rustix::fs::{major, minor};
use tar::{Builder, EntryType, Header};

use super::{
    metadata::{permissions, portable},
    report::Troubles,
    tree_reader::Step,
    write::Parts,
};
use crate::{
    Progress, RepositoryError,
    format::{Metadata, Node, NodeType},
};

/// The limits of the ustar header; see `tar.h`.
const NAME_BYTES: usize = 100;
const LARGEST_SIZE: u64 = 0o777_7777_7777;
const LARGEST_OWNER: u32 = 0o777_7777;
const BLOCK: usize = 512;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TarContent {
    /// Entries other than folders.
    pub files: u64,
    /// Bytes of all files. A file with several names counts once.
    pub bytes: u64,
    /// Entries which a tar cannot contain: sockets.
    pub left_out: Troubles,
}

pub(super) struct TarWriter<W: Write> {
    tar: Builder<W>,
    /// The current folder.
    path: PathBuf,
    /// How many bytes of the current file are still to come, and its size.
    file: Option<(u64, u64)>,
    /// Omitted sockets to which hard links may follow.
    left_out: HashSet<PathBuf>,
    content: TarContent,
}

impl<W: Write> TarWriter<W> {
    /// Starts the tar, with a member for the folder itself if its node is given.
    pub fn new(output: W, own: Option<&Node>) -> Result<Self, RepositoryError> {
        let mut writer = Self {
            tar: Builder::new(output),
            path: PathBuf::new(),
            file: None,
            left_out: HashSet::new(),
            content: TarContent::default(),
        };
        if let Some(node) = own {
            writer
                .member(&Member::new(EntryType::Directory, b"./", &node.meta))
                .map_err(|error| writer.failed(error))?;
        }
        Ok(writer)
    }

    pub fn carry_out(&mut self, step: Step, parts: &Parts, progress: &Progress) -> Result<(), RepositoryError> {
        let done = match step {
            Step::Enter(name, node) => {
                self.path.push(name);
                let name = [self.path.as_os_str().as_bytes(), b"/"].concat();
                self.member(&Member::new(EntryType::Directory, &name, &node.meta))
            }
            Step::Leave(_) => {
                self.path.pop();
                Ok(())
            }
            Step::Begin(name, node) => {
                let size = node.meta.size;
                self.file = Some((size, size));
                let path = self.path.join(name);
                let name = path.as_os_str().as_bytes();
                self.member(&Member { size, ..Member::new(EntryType::Regular, name, &node.meta) })
            }
            Step::Part(id) => {
                let content = parts.get(&id).ok_or_else(|| io::Error::other("a blob was not fetched"));
                content.and_then(|content| {
                    progress.read.fetch_add(content.len() as u64, Ordering::Relaxed);
                    self.append(content)
                })
            }
            Step::End(_) => self.end(),
            Step::Make(name, node) => self.make(&name, &node),
            Step::Link(name, first, node) => self.link(&name, &first, &node),
        };
        done.map_err(|error| self.failed(error))
    }

    /// Ends the tar, and returns its content and the output.
    pub fn finish(mut self) -> Result<(TarContent, W), RepositoryError> {
        let content = std::mem::take(&mut self.content);
        let path = self.path.clone();
        Ok((content, self.tar.into_inner().map_err(|error| unwritable(&path, error))?))
    }

    fn append(&mut self, content: &[u8]) -> io::Result<()> {
        let left = self.file.as_mut().and_then(|(left, _)| {
            *left = left.checked_sub(content.len() as u64)?;
            Some(())
        });
        left.ok_or_else(|| io::Error::other("a file has more bytes than were announced"))?;
        self.tar.get_mut().write_all(content)
    }

    fn end(&mut self) -> io::Result<()> {
        let Some((0, size)) = self.file.take() else {
            return Err(io::Error::other("a file has fewer bytes than were announced"));
        };
        let into_block = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        if into_block > 0 {
            self.tar.get_mut().write_all(&[0; BLOCK][into_block..])?;
        }
        self.content.files += 1;
        self.content.bytes += size;
        Ok(())
    }

    fn make(&mut self, name: &OsStr, node: &Node) -> io::Result<()> {
        let path = self.path.join(name);
        let (kind, device) = match node.kind {
            NodeType::Symlink(_) => (EntryType::Symlink, None),
            NodeType::Dev { device } => (EntryType::Block, Some(device)),
            NodeType::Chardev { device } => (EntryType::Char, Some(device)),
            NodeType::Fifo => (EntryType::Fifo, None),
            NodeType::Socket => {
                self.content.left_out.add(&path, "a socket, which no tar can hold");
                if node.meta.links > 1 {
                    self.left_out.insert(path);
                }
                return Ok(());
            }
            NodeType::File | NodeType::Dir => return Err(io::Error::other("a file without content, or a folder")),
        };
        let link = match &node.kind {
            NodeType::Symlink(target) => Some(target.path().as_os_str().as_bytes()),
            _ => None,
        };
        self.member(&Member { link, device, ..Member::new(kind, path.as_os_str().as_bytes(), &node.meta) })?;
        self.content.files += 1;
        Ok(())
    }

    fn link(&mut self, name: &OsStr, first: &Path, node: &Node) -> io::Result<()> {
        let path = self.path.join(name);
        if self.left_out.contains(first) {
            self.content.left_out.add(&path, "a socket, which no tar can hold");
            return Ok(());
        }
        let link = Some(first.as_os_str().as_bytes());
        self.member(&Member { link, ..Member::new(EntryType::Link, path.as_os_str().as_bytes(), &node.meta) })?;
        self.content.files += 1;
        Ok(())
    }

    fn member(&mut self, member: &Member<'_>) -> io::Result<()> {
        let records = member.records();
        self.tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        self.tar.get_mut().write_all(member.header()?.as_bytes())
    }

    fn failed(&self, source: io::Error) -> RepositoryError {
        unwritable(&self.path, source)
    }
}

fn unwritable(path: &Path, source: io::Error) -> RepositoryError {
    RepositoryError::Unwritable { action: "archive the content of", path: format!("{:?}", path.display()), source }
}

struct Member<'a> {
    kind: EntryType,
    /// A relative path. The path of a folder ends with a slash.
    name: &'a [u8],
    /// The target of a link.
    link: Option<&'a [u8]>,
    metadata: &'a Metadata,
    size: u64,
    device: Option<u64>,
}

impl<'a> Member<'a> {
    fn new(kind: EntryType, name: &'a [u8], metadata: &'a Metadata) -> Self {
        Self { kind, name, link: None, metadata, size: 0, device: None }
    }

    fn owner(&self) -> (u32, u32) {
        (self.metadata.uid.unwrap_or_default(), self.metadata.gid.unwrap_or_default())
    }

    fn modified(&self) -> Timestamp {
        self.metadata.mtime.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn header(&self) -> io::Result<Header> {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        // restic omits a mode of 0.
        header.set_mode(permissions(self.metadata.mode.unwrap_or_default()).as_raw_mode());
        let (user, group) = self.owner();
        header.set_uid(user.into());
        header.set_gid(group.into());
        header.set_size(self.size);
        header.set_mtime(u64::try_from(self.modified().as_second()).unwrap_or_default());
        if let Some(device) = self.device {
            header.set_device_major(major(device))?;
            header.set_device_minor(minor(device))?;
        }
        if let Some(ustar) = header.as_ustar_mut() {
            fill(&mut ustar.name, self.name);
            fill(&mut ustar.linkname, self.link.unwrap_or_default());
        }
        header.set_cksum();
        Ok(header)
    }

    /// The records before the header: values which do not fit into the header, and attributes.
    fn records(&self) -> Vec<(String, Vec<u8>)> {
        let mut records = Vec::new();
        let texts = [("path", Some(self.name)), ("linkpath", self.link)];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, text?)));
        // A name which is not UTF-8 stays in the header, which stores bytes, unless it is too long for the header.
        let wants_record =
            |text: &[u8]| text.len() > NAME_BYTES || !text.is_ascii() && std::str::from_utf8(text).is_ok();
        let texts: Vec<_> = texts.filter(|(_, text)| wants_record(text)).collect();
        if texts.iter().any(|(_, text)| std::str::from_utf8(text).is_err()) {
            records.push(("hdrcharset".to_owned(), b"BINARY".to_vec()));
        }
        records.extend(texts.into_iter().map(|(key, text)| (key.to_owned(), text.to_vec())));
        let mut number = |key: &str, number: u64| records.push((key.to_owned(), number.to_string().into_bytes()));
        if self.size > LARGEST_SIZE {
            number("size", self.size);
        }
        let (user, group) = self.owner();
        for (key, id) in [("uid", user), ("gid", group)] {
            if id > LARGEST_OWNER {
                number(key, id.into());
            }
        }
        let modified = self.modified();
        let has_room = u64::try_from(modified.as_second()).is_ok_and(|seconds| seconds <= LARGEST_SIZE);
        if modified.subsec_nanosecond() != 0 || !has_room {
            records.push(("mtime".to_owned(), seconds(modified).into_bytes()));
        }
        // An = would end the name. GNU tar escapes it in this manner.
        let escaped = |name: &str| name.replace('%', "%25").replace('=', "%3D");
        let attributes = portable(self.metadata);
        records.extend(attributes.map(|(name, value)| (format!("SCHILY.xattr.{}", escaped(name)), value.to_vec())));
        records
    }
}

/// Copies as many bytes as the field can hold.
fn fill(field: &mut [u8], text: &[u8]) {
    for (target, byte) in field.iter_mut().zip(text) {
        *target = *byte;
    }
}

/// Seconds since 1970, as a decimal number.
fn seconds(time: Timestamp) -> String {
    let nanoseconds = time.as_nanosecond();
    let (sign, nanoseconds) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(name: &[u8], metadata: &Metadata, size: u64) -> Vec<(String, String)> {
        let member = Member { size, ..Member::new(EntryType::Regular, name, metadata) };
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        member.records().into_iter().map(|(key, value)| (key, text(value))).collect()
    }

    fn record(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn metadata_that_fits_into_the_header_has_no_record() {
        let metadata = Metadata {
            mtime: Some("2026-05-04T03:02:01Z".parse().unwrap()),
            uid: Some(LARGEST_OWNER),
            ..Metadata::default()
        };
        assert_eq!(records(&[b'a'; NAME_BYTES], &metadata, LARGEST_SIZE), []);
        // A name which is not UTF-8.
        assert_eq!(records(b"\xff\xfe", &metadata, 0), []);
    }

    #[test]
    fn metadata_that_does_not_fit_into_the_header_is_in_a_record() {
        let metadata = Metadata {
            mtime: Some("1969-12-31T23:59:58.25Z".parse().unwrap()),
            gid: Some(u32::MAX),
            ..Metadata::default()
        };
        let name = "a".repeat(NAME_BYTES + 1);
        let expected = [
            record("path", &name),
            record("size", "8589934592"),
            record("gid", "4294967295"),
            record("mtime", "-1.75"),
        ];
        assert_eq!(records(name.as_bytes(), &metadata, LARGEST_SIZE + 1), expected);
        assert_eq!(records("ü".as_bytes(), &Metadata::default(), 0), [record("path", "ü")]);
        let bytes = [b"\xff".as_slice(), name.as_bytes()].concat();
        assert_eq!(records(&bytes, &Metadata::default(), 0)[0], record("hdrcharset", "BINARY"));
    }

    #[test]
    fn times_are_decimal_numbers() {
        for (time, expected) in [
            ("2001-09-09T01:46:40.000000001Z", "1000000000.000000001"),
            ("1970-01-01T00:00:00Z", "0"),
            ("1969-12-20T10:13:20.0000005Z", "-999999.9999995"),
            ("2096-10-02T07:06:40.5Z", "4000000000.5"),
        ] {
            assert_eq!(seconds(time.parse().unwrap()), expected);
        }
    }

    #[test]
    fn file_of_another_length_than_announced_is_an_error() {
        let mut tar = TarWriter::new(Vec::new(), None).unwrap();
        tar.file = Some((3, 3));
        assert!(tar.append(b"four").is_err());
        tar.file = Some((3, 3));
        tar.append(b"xy").unwrap();
        assert!(tar.end().is_err());
    }
}

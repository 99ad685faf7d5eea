//! Creates a folder step by step: files, holes, links, owners, modes, attributes and times.
//!
//! Entries are created relative to the handle of their folder, and only new ones. So nothing in a snapshot can lead out
//! of the target, and no existing entry is overwritten.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use bytes::Bytes;
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, chmod, fchmod, ftruncate, linkat, mkdirat, mknodat, open, openat, statat,
        symlinkat, syncfs, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use super::{
    owner::{Applied, Failed, Loss, MetadataTarget, Severity},
    refusal::is_refusal_of_entry,
    report::{FolderMetadata, RestoredFolder, Troubles},
    tree_reader::Step,
    walk::raise_limit_of_handles,
};
use crate::{
    Progress, RepositoryError,
    format::{Id, Node, NodeType},
};
use stowaway_model::escape_name;

/// The blobs of a batch by their ids.
pub(super) type Parts = HashMap<Id, Bytes>;

/// A block of this size which contains only zeros becomes a hole, because a new file is zero wherever nothing was
/// written.
const HOLE_BYTES: usize = 64 * 1024;
/// For comparison: comparing slices is many times faster than a loop over the bytes.
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Only the user of this process may access a folder or file before it is complete.
const CLOSED_FOLDER: Mode = Mode::RWXU;
const CLOSED_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file which is being written.
struct Writing {
    name: OsString,
    file: File,
    length: u64,
    /// The end of the last block which was written. What follows it is a hole.
    written: u64,
}

/// Restores one folder.
pub(super) struct Writer {
    target: PathBuf,
    /// The target, and the open folders below it down to the current one.
    levels: Vec<OwnedFd>,
    path: PathBuf,
    file: Option<Writing>,
    /// The owners of the entries below the target in the snapshot; no more than two are kept.
    owners: BTreeSet<(Option<u32>, Option<u32>)>,
    /// Entries whose owner could not be set.
    wrong_owner: Troubles,
    restored: RestoredFolder,
}

impl Writer {
    /// Opens the target, which must be empty.
    pub fn new(target: &Path) -> Result<Self, RepositoryError> {
        raise_limit_of_handles();
        let mut writer = Self {
            target: target.to_owned(),
            levels: Vec::new(),
            path: PathBuf::new(),
            file: None,
            owners: BTreeSet::new(),
            wrong_owner: Troubles::default(),
            restored: RestoredFolder::default(),
        };
        let handle = open(target, FOLDER, Mode::empty()).map_err(|error| writer.failed("open", None, error))?;
        let is_empty = Dir::read_from(&handle).and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
                .try_fold(true, |empty, name| name.map(|name| empty && matches!(name.to_bytes(), b"." | b"..")))
        });
        match is_empty {
            Ok(true) => {}
            Ok(false) => return Err(writer.failed("restore into", None, Errno::NOTEMPTY)),
            Err(error) => return Err(writer.failed("list", None, error)),
        }
        writer.levels.push(handle);
        Ok(writer)
    }

    pub fn carry_out(&mut self, step: Step, parts: &Parts, progress: &Progress) -> Result<(), RepositoryError> {
        match step {
            Step::Enter(name, _) => {
                let failed = |error| self.failed("make the folder", Some(&name), error);
                mkdirat(self.level()?, &name, CLOSED_FOLDER).map_err(failed)?;
                let handle = openat(self.level()?, &name, FOLDER, Mode::empty()).map_err(failed)?;
                self.levels.push(handle);
                self.path.push(name);
                Ok(())
            }
            Step::Leave(node) => self.leave(node.as_deref()),
            Step::Begin(name, _) => {
                let failed = |error| self.failed("make the file", Some(&name), error);
                let file = openat(self.level()?, &name, NEW_FILE, CLOSED_FILE).map_err(failed)?;
                self.file = Some(Writing { name, file: file.into(), length: 0, written: 0 });
                Ok(())
            }
            Step::Part(id) => {
                let Some(content) = parts.get(&id) else {
                    return Err(self.failed("write", None, io::Error::other("a blob was not fetched")));
                };
                progress.read.fetch_add(content.len() as u64, Ordering::Relaxed);
                self.append(content)
            }
            Step::End(node) => self.end(&node),
            Step::Make(name, node) => self.make(&name, &node),
            Step::Link(name, first, node) => self.link(&name, &first, &node),
        }
    }

    /// Flushes everything to disk.
    pub fn finish(mut self) -> Result<RestoredFolder, RepositoryError> {
        // The last step closed the target, so it is opened again.
        let handle = open(&self.target, FOLDER, Mode::empty());
        handle.and_then(syncfs).map_err(|error| self.failed("make durable", None, error))?;
        // If each namespace has its own user (OpenShift), the files of one former user become those of another user.
        let is_mapped = self.owners.len() == 1 && !geteuid().is_root();
        if !is_mapped {
            self.restored.essential.extend(self.wrong_owner);
        }
        Ok(self.restored)
    }

    fn leave(&mut self, node: Option<&Node>) -> Result<(), RepositoryError> {
        let Some(handle) = self.levels.pop() else { return Err(self.failed("leave", None, Errno::BADF)) };
        if let Some(node) = node {
            let handle = File::from(handle);
            let applied = MetadataTarget::Open(&handle).apply(&node.meta, &node.kind);
            let path = self.path.clone();
            self.record_applied(&path, node, applied)?;
            if self.levels.is_empty() {
                self.restored.own = Some(FolderMetadata(node.meta.clone()));
            }
        }
        self.path.pop();
        Ok(())
    }

    fn append(&mut self, content: &[u8]) -> Result<(), RepositoryError> {
        let Some(writing) = &mut self.file else { return Err(self.failed("write", None, Errno::BADF)) };
        let mut rest = content;
        while !rest.is_empty() {
            // Up to the next multiple of the block size.
            let into_block = usize::try_from(writing.length % HOLE_BYTES as u64).unwrap_or_default();
            let (block, after) = rest.split_at(rest.len().min(HOLE_BYTES - into_block));
            if *block != ZEROS[..block.len()] {
                if let Err(error) = writing.file.write_all_at(block, writing.length) {
                    let name = writing.name.clone();
                    return Err(self.failed("write", Some(&name), error));
                }
                writing.written = writing.length + block.len() as u64;
            }
            writing.length += block.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn end(&mut self, node: &Node) -> Result<(), RepositoryError> {
        let Some(writing) = self.file.take() else { return Err(self.failed("end", None, Errno::BADF)) };
        let Writing { name, file, length, written } = writing;
        if written < length {
            ftruncate(&file, length).map_err(|error| self.failed("set the length of", Some(&name), error))?;
        }
        // Programs which back up streams may record 0.
        if node.meta.size != 0 && node.meta.size != length {
            let text = format!("its blobs have {length} bytes, but its recorded size is {}", node.meta.size);
            return Err(self.failed("restore", Some(&name), io::Error::other(text)));
        }
        let applied = MetadataTarget::Open(&file).apply(&node.meta, &node.kind);
        self.record_applied(&self.path.join(&name), node, applied)?;
        self.restored.files += 1;
        self.restored.bytes += length;
        Ok(())
    }

    fn make(&mut self, name: &OsStr, node: &Node) -> Result<(), RepositoryError> {
        let level = self.level()?;
        let made = match &node.kind {
            NodeType::Symlink(target) => symlinkat(target.path(), level, name),
            NodeType::Dev { device } => mknodat(level, name, FileType::BlockDevice, CLOSED_FILE, *device),
            NodeType::Chardev { device } => mknodat(level, name, FileType::CharacterDevice, CLOSED_FILE, *device),
            NodeType::Fifo => mknodat(level, name, FileType::Fifo, CLOSED_FILE, 0),
            NodeType::Socket => mknodat(level, name, FileType::Socket, CLOSED_FILE, 0),
            NodeType::File | NodeType::Dir => Err(Errno::INVAL),
        };
        let path = self.path.join(name);
        match made {
            Ok(()) => {
                let applied = MetadataTarget::Named(level.as_fd(), name).apply(&node.meta, &node.kind);
                self.record_applied(&path, node, applied)?;
                self.restored.files += 1;
            }
            // The entry has no content, so a refusal loses no data.
            Err(error) if is_refusal_of_entry(error) => {
                // Some drivers return an error, but leave a file which is not the stored entry.
                let _ = unlinkat(level, name, AtFlags::empty());
                self.record_loss(&path, entry_loss(&node.kind, error));
            }
            Err(error) => return Err(self.failed("make", Some(name), error)),
        }
        Ok(())
    }

    /// Creates another name of an entry which exists already. If the target does not support that, a copy is created.
    fn link(&mut self, name: &OsStr, first: &Path, node: &Node) -> Result<(), RepositoryError> {
        let failed = |error| self.failed("link", Some(name), error);
        let mut folder = None;
        let names: Vec<&OsStr> = first.iter().collect();
        let Some((last, folders)) = names.split_last() else { return Err(failed(Errno::INVAL)) };
        for below in folders {
            let from = folder.as_ref().or(self.levels.first()).ok_or_else(|| failed(Errno::BADF))?;
            folder = Some(openat(from, *below, FOLDER, Mode::empty()).map_err(failed)?);
        }
        let from = folder.as_ref().or(self.levels.first()).ok_or_else(|| failed(Errno::BADF))?;
        match linkat(from, *last, self.level()?, name, AtFlags::empty()) {
            Ok(()) => {
                self.restored.files += 1;
                Ok(())
            }
            Err(error) if node.is_file() && is_refusal_of_entry(error) => {
                let source = open_to_read(from.as_fd(), last).map_err(failed)?;
                self.copy(&source, name, node)?;
                let (first, error) = (display_path(first), io::Error::from(error));
                let what = format!("the hard link to {first}, of which it is a copy ({error})");
                self.record_loss(&self.path.join(name), Loss::minor(what));
                Ok(())
            }
            // The first name may have been refused, too.
            Err(error) if !node.is_file() && (is_refusal_of_entry(error) || error == Errno::NOENT) => {
                self.make(name, node)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn copy(&mut self, mut source: &File, name: &OsStr, node: &Node) -> Result<(), RepositoryError> {
        let failed = |error: io::Error| self.failed("copy", Some(name), error);
        let file = openat(self.level()?, name, NEW_FILE, CLOSED_FILE).map_err(|error| failed(error.into()))?;
        self.file = Some(Writing { name: name.to_owned(), file: file.into(), length: 0, written: 0 });
        let mut buffer = vec![0; HOLE_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return self.end(node),
                Ok(length) => self.append(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("copy", Some(name), error)),
            }
        }
    }

    fn level(&self) -> Result<&OwnedFd, RepositoryError> {
        self.levels.last().ok_or_else(|| self.failed("write into", None, Errno::BADF))
    }

    fn record_applied(
        &mut self,
        path: &Path,
        node: &Node,
        applied: Result<Applied, Failed>,
    ) -> Result<(), RepositoryError> {
        if !path.as_os_str().is_empty() && self.owners.len() < 2 {
            self.owners.insert((node.meta.uid, node.meta.gid));
        }
        match applied {
            Ok(Applied { losses, is_rounded }) => {
                self.restored.rounded_times += u64::from(is_rounded);
                for loss in losses {
                    self.record_loss(path, loss);
                }
                Ok(())
            }
            Err((action, source)) => {
                let path = if path.as_os_str().is_empty() { &self.target } else { path };
                Err(RepositoryError::Unwritable { action, path: display_path(path), source })
            }
        }
    }

    fn record_loss(&mut self, path: &Path, Loss { what, severity }: Loss) {
        // The storage system creates the root folder of a volume, so an app does not depend on its metadata.
        if !path.as_os_str().is_empty() {
            match severity {
                Severity::Minor => {}
                Severity::Owner => self.wrong_owner.add(path, what.clone()),
                Severity::Essential => self.restored.essential.add(path, what.clone()),
            }
        }
        self.restored.not_kept.add(path, what);
    }

    fn failed(&self, action: &'static str, name: Option<&OsStr>, source: impl Into<io::Error>) -> RepositoryError {
        let path = name.map_or_else(|| self.target.clone(), |name| self.path.join(name));
        RepositoryError::Unwritable { action, path: display_path(&path), source: source.into() }
    }
}

fn display_path(path: &Path) -> String {
    escape_name(path.as_os_str().as_encoded_bytes())
}

fn entry_loss(kind: &NodeType, error: Errno) -> Loss {
    let error = io::Error::from(error);
    match kind {
        // An app which listens on a socket creates the socket itself.
        NodeType::Socket => Loss::minor(format!("the socket, which cannot be made here ({error})")),
        NodeType::Symlink(_) => Loss::essential(format!("the symbolic link, which cannot be made here ({error})")),
        NodeType::Fifo => Loss::essential(format!("the pipe, which cannot be made here ({error})")),
        _ => Loss::essential(format!("the device, which cannot be made without the right to (CAP_MKNOD; {error})")),
    }
}

/// Opens a file which was just restored. Its mode may not permit its owner to read it.
fn open_to_read(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
            let own = openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            chmod(format!("/proc/self/fd/{}", own.as_raw_fd()), CLOSED_FILE)?;
            let opened = openat(folder, name, flags, Mode::empty())?;
            fchmod(&opened, mode)?;
            Ok(opened.into())
        }
        opened => opened.map(Into::into),
    }
}

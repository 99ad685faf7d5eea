//! Goes through a folder, depth first and in order of the names' bytes, as restic's trees are.
//!
//! By handles of folders alone, never by a path that leads through names: whoever writes into the folder while it is read
//! cannot lead us out of it. It must not know the repository.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, readlinkat, statx},
    io::Errno,
};
use xattr::FileExt;

use super::{
    ledger::Ledger,
    metadata::{self, Look, attributes},
};
use crate::model::{Excludes, injected::RESTORE_PREFIX};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A pipe that took a file's place must not hold us up.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// How often an entry may turn into one of another kind while it is looked at.
const LOOKS: usize = 3;

/// One entry of the folder.
pub(super) struct Found {
    /// Relative to the folder; empty for itself.
    pub path: PathBuf,
    /// What it is, without content.
    pub node: Node,
    /// Open, if it is a file.
    pub file: Option<File>,
}

/// A folder of which some entries are still to be looked at.
struct Level {
    handle: OwnedFd,
    /// Sorted.
    names: std::vec::IntoIter<CString>,
}

/// The walk. Its first entry is the folder itself, under the name that it is given.
pub(super) struct Walk {
    levels: Vec<Level>,
    path: PathBuf,
    /// The file system of the folder.
    device: u64,
    ledger: Arc<Ledger>,
    excludes: Excludes,
    /// See [`super::FolderRules::settle`].
    settle: SignedDuration,
    root: Option<Node>,
}

/// Why there is nothing to hand over.
enum Skipped {
    /// It is gone.
    Vanished,
    /// It is another kind of thing by now.
    Changed,
    Failed(&'static str, io::Error),
}

impl Skipped {
    fn of(action: &'static str) -> impl Fn(Errno) -> Self {
        move |error| match error {
            Errno::NOENT => Self::Vanished,
            // A link or another thing took the place of what was seen there.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Changed,
            error => Self::Failed(action, error.into()),
        }
    }
}

impl Walk {
    /// Opens the folder; nothing can be stored of one that cannot be read itself.
    pub fn new(
        folder: &Path,
        name: &OsStr,
        (excludes, settle): (Excludes, SignedDuration),
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        raise_limit_of_handles();
        // Where the folder itself is may be told by a link.
        let handle = rustix::fs::open(folder, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
        let stat = stat_of(&handle)?;
        let device = metadata::device_of(&stat);
        let mut walk = Self { levels: Vec::new(), path: PathBuf::new(), device, ledger, excludes, settle, root: None };
        let (names, failure) = names_in(&handle);
        if let Some(error) = failure {
            return Err(error);
        }
        let handle = File::from(handle);
        let attributes = walk.attributes_of_open(&PathBuf::new(), &handle);
        walk.root = Some(metadata::node(name, &stat, NodeType::Dir, attributes, walk.seen()));
        let handle = OwnedFd::from(handle);
        let names: Vec<CString> = names.into_iter().filter(|name| !is_left_out(&handle, name)).collect();
        walk.levels.push(Level { handle, names: names.into_iter() });
        Ok(walk)
    }

    fn seen(&self) -> Look {
        Look { now: Timestamp::now(), settle: self.settle }
    }

    /// Looks at one entry, and says what is to be handed over.
    fn look(&mut self, name: &CStr) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let path = self.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = statx(&level.handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            .map_err(Skipped::of("look at"))?;
        match metadata::file_type(&stat) {
            FileType::Directory => self.enter(name, path, &stat),
            FileType::RegularFile => self.open(name, path),
            FileType::Symlink => {
                let target = readlinkat(&level.handle, name, Vec::new()).map_err(Skipped::of("read the link"))?;
                let kind = NodeType::from_link(Path::new(OsStr::from_bytes(target.as_bytes())));
                Ok(self.without_content(name, path, &stat, kind))
            }
            _ => {
                let kind = metadata::node_type(&stat).ok_or_else(|| {
                    Skipped::Failed("store", io::Error::other("it is of a kind that no tree can hold"))
                })?;
                Ok(self.without_content(name, path, &stat, kind))
            }
        }
    }

    fn enter(&mut self, name: &CStr, path: PathBuf, seen: &Statx) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let handle = match openat(&level.handle, name, FOLDER, Mode::empty()).map_err(Skipped::of("open the folder")) {
            Ok(handle) => handle,
            Err(Skipped::Failed(action, error)) => {
                // What is known of it is kept; that its entries are missing is told.
                self.ledger.unreadable(&path, format!("failed to {action}: {error}"));
                return Ok(self.without_content(name, path, seen, NodeType::Dir));
            }
            Err(skipped) => return Err(skipped),
        };
        let stat = stat_of(&handle).map_err(Skipped::of("look at"))?;
        let names = if self.is_mounted(&stat) {
            let folder = path.display();
            tracing::info!(%folder, "another file system is mounted at {folder}; what is in it is not stored");
            Vec::new()
        } else {
            let (names, failure) = names_in(&handle);
            if let Some(error) = failure {
                self.ledger.unreadable(&path, format!("failed to list the folder: {error}"));
            }
            names
        };
        let handle = File::from(handle);
        let attributes = self.attributes_of_open(&path, &handle);
        let node = metadata::node(os(name), &stat, NodeType::Dir, attributes, self.seen());
        self.levels.push(Level { handle: handle.into(), names: names.into_iter() });
        self.path.clone_from(&path);
        Ok(Found { path, node, file: None })
    }

    fn open(&self, name: &CStr, path: PathBuf) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        // Only its owner, and root, may leave the time of the last access alone.
        let handle = match openat(&level.handle, name, FILE | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(&level.handle, name, FILE, Mode::empty()),
            handle => handle,
        };
        let handle = handle.map_err(Skipped::of("open"))?;
        let stat = stat_of(&handle).map_err(Skipped::of("look at"))?;
        if metadata::file_type(&stat) != FileType::RegularFile {
            return Err(Skipped::Changed);
        }
        let file = File::from(handle);
        let attributes = self.attributes_of_open(&path, &file);
        let node = metadata::node(os(name), &stat, NodeType::File, attributes, self.seen());
        Ok(Found { path, node, file: Some(file) })
    }

    /// Links, devices, pipes and sockets, and folders that cannot be opened. They are not opened for their attributes.
    fn without_content(&self, name: &CStr, path: PathBuf, stat: &Statx, kind: NodeType) -> Found {
        let found = self.levels.last().map_or(Ok(Metadata::default()), |level| {
            // The system's own name of the handle leads to the folder itself, whatever became of its path.
            let own = PathBuf::from(format!("/proc/self/fd/{}", level.handle.as_raw_fd())).join(os(name));
            attributes(xattr::list(&own), |name| xattr::get(&own, name))
        });
        let attributes = self.kept(&path, found);
        let node = metadata::node(os(name), stat, kind, attributes, self.seen());
        Found { path, node, file: None }
    }

    fn attributes_of_open(&self, path: &Path, file: &File) -> Metadata {
        self.kept(path, attributes(file.list_xattr(), |name| file.get_xattr(name)))
    }

    fn kept(&self, path: &Path, found: io::Result<Metadata>) -> Metadata {
        match found {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Metadata::default(),
            Err(error) => {
                self.ledger.unreadable(path, format!("failed to read its attributes: {error}"));
                Metadata::default()
            }
        }
    }

    fn is_mounted(&self, stat: &Statx) -> bool {
        if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        }
        metadata::device_of(stat) != self.device
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(node) = self.root.take() {
            return Some(Found { path: PathBuf::new(), node, file: None });
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.next() else {
                self.levels.pop();
                self.path.pop();
                continue;
            };
            let path = self.path.join(os(&name));
            if self.excludes.leave_out(&path) {
                self.ledger.left_out();
                continue;
            }
            let mut looks = 0;
            let skipped = loop {
                looks += 1;
                match self.look(&name) {
                    Ok(found) => return Some(found),
                    Err(Skipped::Changed) if looks < LOOKS => {}
                    Err(skipped) => break skipped,
                }
            };
            match skipped {
                Skipped::Vanished => self.ledger.vanished(),
                Skipped::Changed => self.ledger.unreadable(&path, "it becomes another kind of file again and again"),
                Skipped::Failed(action, error) => self.ledger.unreadable(&path, format!("failed to {action}: {error}")),
            }
        }
    }
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

fn stat_of(handle: impl AsFd) -> rustix::io::Result<Statx> {
    statx(handle, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// The sorted names in a folder, and what ended the listing before its end.
fn names_in(handle: &OwnedFd) -> (Vec<CString>, Option<io::Error>) {
    let mut names = Vec::new();
    // Not opened once more, which would take the right to enter it.
    let failure = handle.try_clone().and_then(|own| Ok(Dir::new(own)?)).and_then(|entries| {
        for entry in entries {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(())
    });
    names.sort_unstable();
    (names, failure.err())
}

/// What is not the folder's own: the restore step's entries, and what file systems put into an empty volume.
fn is_left_out(root: &OwnedFd, name: &CStr) -> bool {
    let name_bytes = name.to_bytes();
    name_bytes.starts_with(RESTORE_PREFIX.as_bytes()) || name_bytes == LOST_AND_FOUND && is_file_systems_own(root, name)
}

const LOST_AND_FOUND: &[u8] = b"lost+found";

/// A `lost+found` that is empty; or is closed to us, and so to the app, as whose user we run: it is root's then.
fn is_file_systems_own(root: &OwnedFd, name: &CStr) -> bool {
    match openat(root, name, FOLDER, Mode::empty()) {
        Ok(handle) => {
            let (names, failure) = names_in(&handle);
            names.is_empty() && failure.is_none()
        }
        Err(error) => error == Errno::ACCESS,
    }
}

/// A deep folder takes a handle a level, and many systems give a process 1024 unless it asks for more. One that gets no
/// more lists what it could not reach.
pub(super) fn raise_limit_of_handles() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

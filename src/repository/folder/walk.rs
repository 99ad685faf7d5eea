//! Goes through a folder, depth first and in order of the names' bytes, as restic's trees are.
//!
//! By handles of folders alone, never by a path that leads through names: whoever writes into the folder while it is read
//! cannot lead us out of it. It must not know the repository.

use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, readlinkat, statx},
    io::Errno,
};
use xattr::FileExt;

use super::{
    ledger::{EntryClass, Ledger},
    listing::{Listed, Listing},
    metadata::{self, Attributes, Look, attributes},
    opened::{Opened, is_gone, stat_of},
    storage,
};
use crate::{
    model::{
        Excludes,
        injected::{RESTORE_LOCK, RESTORE_MARKS},
    },
    repository::RepositoryError,
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often an entry may turn into one of another kind while it is looked at.
const LOOKS: usize = 3;

/// One entry of the folder.
pub(super) struct Found {
    /// Relative to the folder; empty for itself.
    pub path: PathBuf,
    /// What it is, without content.
    pub node: Node,
    /// Open, if it is a file.
    pub file: Option<Opened>,
}

/// A folder of which some entries are still to be looked at.
struct Level {
    handle: Arc<OwnedFd>,
    names: Listing,
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
    /// Its handle leads nowhere any more: another client of the file system deleted or replaced it.
    Stale,
    Failed(&'static str, io::Error),
    /// The run cannot go on.
    Run(RepositoryError),
}

impl Skipped {
    fn of(action: &'static str) -> impl Fn(Errno) -> Self {
        move |error| match error {
            Errno::NOENT => Self::Vanished,
            // A link or another thing took the place of what was seen there.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Changed,
            Errno::STALE => Self::Stale,
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
    ) -> Result<Self, RepositoryError> {
        let unreadable = |source: io::Error| RepositoryError::Unreadable { path: folder.display().to_string(), source };
        raise_limit_of_handles();
        // Where the folder itself is may be told by a link.
        let handle = rustix::fs::open(folder, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
        let handle = handle.map_err(|error| unreadable(error.into()))?;
        let stat = stat_of(&handle).map_err(|error| unreadable(error.into()))?;
        let device = metadata::device_of(&stat);
        let mut walk = Self { levels: Vec::new(), path: PathBuf::new(), device, ledger, excludes, settle, root: None };
        let (names, failure) = Listing::of(&handle)?;
        if let Some(error) = failure {
            return Err(unreadable(error));
        }
        let handle = File::from(handle);
        let attributes = walk.attributes_of_open(&PathBuf::new(), &handle, EntryClass::Folder);
        walk.root = Some(metadata::node(name, &stat, NodeType::Dir, attributes, walk.seen()));
        walk.levels.push(Level { handle: Arc::new(handle.into()), names });
        Ok(walk)
    }

    fn seen(&self) -> Look {
        Look { now: Timestamp::now(), settle: self.settle }
    }

    /// Whether an entry of the folder itself is the storage system's own. It is reported, unless nothing can be in it.
    fn is_passed_over(&self, root: &OwnedFd, name: &CStr) -> bool {
        let Some(entry) = storage::is_systems_own(root, os(name)) else { return false };
        if !entry.is_empty() && !self.excludes.leave_out(Path::new(os(name))) {
            self.ledger.passed_over(Path::new(os(name)), entry.owner);
        }
        true
    }

    /// Looks at one entry, and says what is to be handed over.
    fn look(&mut self, name: &CStr) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let path = self.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = statx(&*level.handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            .map_err(Skipped::of("look at"))?;
        match metadata::file_type(&stat) {
            FileType::Directory => self.enter(name, path, &stat),
            FileType::RegularFile => self.open(name, path),
            FileType::Symlink => {
                let target = readlinkat(&*level.handle, name, Vec::new()).map_err(Skipped::of("read the link"))?;
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
        let handle = match openat(&*level.handle, name, FOLDER, Mode::empty()).map_err(Skipped::of("open the folder")) {
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
            self.ledger.mounted(&path);
            Listing::default()
        } else {
            match Listing::of(&handle).map_err(Skipped::Run)? {
                (names, None) => names,
                // Deleted since it was opened.
                (_, Some(_)) if is_gone(&handle) => return Err(Skipped::Vanished),
                (names, Some(error)) => {
                    self.ledger.unreadable(&path, format!("failed to list the folder: {error}"));
                    names
                }
            }
        };
        let handle = File::from(handle);
        let attributes = self.attributes_of_open(&path, &handle, EntryClass::Folder);
        let node = metadata::node(os(name), &stat, NodeType::Dir, attributes, self.seen());
        self.levels.push(Level { handle: Arc::new(handle.into()), names });
        self.path.clone_from(&path);
        Ok(Found { path, node, file: None })
    }

    fn open(&self, name: &CStr, path: PathBuf) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let opened = Opened::open(&level.handle, name).map_err(Skipped::of("open"))?;
        let attributes = self.attributes_of_open(&path, &opened.file, EntryClass::File);
        let node = metadata::node(os(name), &opened.stat, NodeType::File, attributes, self.seen());
        Ok(Found { path, node, file: Some(opened) })
    }

    /// Links, devices, pipes and sockets, and folders that cannot be opened. They are not opened for their attributes.
    fn without_content(&self, name: &CStr, path: PathBuf, stat: &Statx, kind: NodeType) -> Found {
        let found = self.levels.last().map_or(Ok(None), |level| {
            // The system's own name of the handle leads to the folder itself, whatever became of its path.
            let own = PathBuf::from(format!("/proc/self/fd/{}", level.handle.as_raw_fd())).join(os(name));
            attributes(xattr::list(&own), |name| xattr::get(&own, name))
        });
        let class = if matches!(kind, NodeType::Dir) { EntryClass::Folder } else { EntryClass::Other };
        let attributes = self.kept(&path, class, found);
        let node = metadata::node(os(name), stat, kind, attributes, self.seen());
        Found { path, node, file: None }
    }

    fn attributes_of_open(&self, path: &Path, file: &File, class: EntryClass) -> Metadata {
        self.kept(path, class, attributes(file.list_xattr(), |name| file.get_xattr(name)))
    }

    fn kept(&self, path: &Path, class: EntryClass, read: io::Result<Option<Attributes>>) -> Metadata {
        match read {
            Ok(Some(Attributes { found, failed })) => {
                self.ledger.attributes_listed(class);
                for (name, error) in failed {
                    self.ledger.attribute_unreadable(path, &name, &error);
                }
                found
            }
            Ok(None) => Metadata::default(),
            // It is gone by now, which its reading or listing shows.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::StaleNetworkFileHandle].contains(&error.kind()) => {
                Metadata::default()
            }
            Err(error) => {
                self.ledger.attributes_unlisted(path, class, &error);
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
    type Item = Result<Found, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(node) = self.root.take() {
            return Some(Ok(Found { path: PathBuf::new(), node, file: None }));
        }
        loop {
            let is_root = self.levels.len() == 1;
            let level = self.levels.last_mut()?;
            let Listed { name, is_folder } = match level.names.next() {
                Ok(Some(listed)) => listed,
                Ok(None) => {
                    self.levels.pop();
                    self.path.pop();
                    continue;
                }
                Err(error) => return Some(Err(error)),
            };
            let handle = Arc::clone(&level.handle);
            if is_root && (is_left_out(&name) || self.is_passed_over(&handle, &name)) {
                continue;
            }
            let path = self.path.join(os(&name));
            if self.excludes.leave_out(&path) {
                self.ledger.left_out();
                continue;
            }
            let mut looks = 0;
            let skipped = loop {
                looks += 1;
                match self.look(&name) {
                    Ok(found) => return Some(Ok(found)),
                    Err(Skipped::Run(error)) => return Some(Err(error)),
                    Err(Skipped::Changed | Skipped::Stale) if looks < LOOKS => {}
                    Err(skipped) => break skipped,
                }
            };
            match skipped {
                Skipped::Vanished => self.ledger.vanished(&path, is_folder),
                // Nothing is found by its name in a folder that is gone.
                Skipped::Stale if self.levels.last().is_none_or(|level| is_gone(&level.handle)) => {
                    self.ledger.vanished(&path, is_folder);
                }
                Skipped::Stale => self.ledger.unreadable(&path, "its handle becomes stale again and again"),
                Skipped::Changed => self.ledger.unreadable(&path, "it becomes another kind of file again and again"),
                Skipped::Failed(action, error) => self.ledger.unreadable(&path, format!("failed to {action}: {error}")),
                Skipped::Run(error) => return Some(Err(error)),
            }
        }
    }
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// The restore step's entries are not the folder's own.
fn is_left_out(name: &CStr) -> bool {
    RESTORE_MARKS.iter().chain([&RESTORE_LOCK]).any(|own| own.as_bytes() == name.to_bytes())
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

#[cfg(test)]
mod tests;

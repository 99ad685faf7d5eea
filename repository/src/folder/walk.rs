//! Walks through a folder, depth first and in the order of the names' bytes, which is the order of restic's trees.
//!
//! Entries are opened relative to the handle of their folder, never by a path. So a process which changes the folder
//! during the walk cannot lead the walk out of it.

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
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, StatxFlags, openat, readlinkat, statx},
    io::Errno,
};
use xattr::FileExt;

use super::{
    backup_stats::{BackupStats, EntryClass},
    listing::{Listed, Listing},
    metadata::{self, Attributes, Observed, attributes},
    open_folder::{Identity, OpenFolder, Presence},
    opened::{Opened, current_stat_of},
    storage::{file_system_of, is_systems_own},
};
use crate::{
    RepositoryError,
    format::{LinkTarget, Metadata, Node, NodeType},
};
use stowaway_model::{
    Excludes, FileSystem,
    injected::{RESTORE_LOCK, RESTORE_MARKS},
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often an entry is read, if it is replaced or seems to be deleted each time.
const MAX_ATTEMPTS: usize = 3;

pub(super) struct Found {
    /// Relative to the folder; empty for the folder itself.
    pub path: PathBuf,
    /// The entry's node, without content.
    pub node: Node,
    /// The open file, if the entry is a regular file.
    pub file: Option<Opened>,
}

/// A folder with entries which the walk has not visited yet.
struct Level {
    folder: Arc<OpenFolder>,
    names: Listing,
    /// The folder's metadata before it was listed.
    stat: Statx,
    /// For the root: a digest of its names without Stowaway's own, which a restore step creates and deletes there.
    digest: Option<u64>,
}

/// The walk. Its first entry is the folder itself, with the given name.
pub(super) struct Walk {
    levels: Vec<Level>,
    path: PathBuf,
    /// The device number of the folder's file system.
    device: u64,
    file_system: FileSystem,
    stats: Arc<BackupStats>,
    excludes: Excludes,
    /// See [`super::FolderRules::settle`].
    settle: SignedDuration,
    root: Option<Node>,
}

/// Why an entry is skipped.
enum Skipped {
    /// The entry was deleted: its folder does not have it any more.
    Vanished,
    /// The action failed as if the entry did not exist, although it was there a moment before. Another look at its name
    /// decides.
    Missing(&'static str),
    /// The entry was replaced by another one.
    Replaced,
    /// The handle is stale: another client of the file system deleted or replaced the entry.
    Stale,
    Failed(&'static str, io::Error),
    /// The run cannot continue.
    Run(RepositoryError),
}

impl Skipped {
    fn of(action: &'static str) -> impl Fn(Errno) -> Self {
        move |error| match error {
            Errno::NOENT => Self::Missing(action),
            // A link or another kind of entry has replaced the one which was seen.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Replaced,
            Errno::STALE => Self::Stale,
            error => Self::Failed(action, error.into()),
        }
    }
}

impl Walk {
    /// Opens the folder. Returns an error if the folder itself cannot be read, because then nothing can be stored.
    pub fn new(
        folder: &Path,
        name: &OsStr,
        (excludes, settle): (Excludes, SignedDuration),
        stats: Arc<BackupStats>,
    ) -> Result<Self, RepositoryError> {
        let unreadable = |source: io::Error| RepositoryError::Unreadable { path: folder.display().to_string(), source };
        raise_limit_of_handles();
        // The path of the folder itself may be a link.
        let handle = rustix::fs::open(folder, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty());
        let handle = handle.map_err(|error| unreadable(error.into()))?;
        let stat = current_stat_of(&handle).map_err(|error| unreadable(error.into()))?;
        let device = metadata::device_of(&stat);
        let file_system = file_system_of(&handle);
        let (levels, path) = (Vec::new(), PathBuf::new());
        let mut walk = Self { levels, path, device, file_system, stats, excludes, settle, root: None };
        let (names, failure) = Listing::of(&handle)?;
        if let Some(error) = failure {
            return Err(unreadable(error));
        }
        let handle = File::from(handle);
        let attributes = walk.attributes_of_open(&PathBuf::new(), &handle, EntryClass::Folder, || true);
        walk.root = Some(metadata::node(name, &stat, NodeType::Dir, attributes, walk.observed()));
        let folder = Arc::new(OpenFolder::root(handle.into(), &stat));
        let digest = folder.names_digest(|name| !is_restore_entry(name));
        walk.levels.push(Level { folder, names, stat, digest });
        Ok(walk)
    }

    fn observed(&self) -> Observed {
        Observed { now: Timestamp::now(), settle: self.settle }
    }

    /// Whether an entry in the root belongs to the storage system. Such an entry is recorded, unless it is always
    /// empty.
    fn is_storage_entry(&self, root: &OwnedFd, name: &CStr) -> bool {
        let Some(entry) = is_systems_own(root, self.file_system, os_str(name)) else { return false };
        if !entry.is_empty() && !self.excludes.leave_out(Path::new(os_str(name))) {
            self.stats.storage_entry(Path::new(os_str(name)), entry.owner);
        }
        true
    }

    /// Reads one entry; opens it if it is a file, and enters it if it is a folder.
    fn visit(&mut self, name: &CStr) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let path = self.path.join(OsStr::from_bytes(name.to_bytes()));
        let stat = match statx(&*level.folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(Skipped::Vanished),
            Err(error) => return Err(Skipped::of("read its metadata")(error)),
        };
        match metadata::file_type(&stat) {
            FileType::Directory => self.enter(name, path, &stat),
            FileType::RegularFile => self.open(name, path),
            FileType::Symlink => {
                let target = readlinkat(&*level.folder, name, Vec::new()).map_err(Skipped::of("read the link"))?;
                let kind = NodeType::Symlink(LinkTarget::new(Path::new(OsStr::from_bytes(target.as_bytes()))));
                Ok(self.without_content(name, path, &stat, kind))
            }
            _ => {
                let kind = metadata::node_type(&stat).ok_or_else(|| {
                    Skipped::Failed("store", io::Error::other("a snapshot cannot contain this kind of entry"))
                })?;
                Ok(self.without_content(name, path, &stat, kind))
            }
        }
    }

    fn enter(&mut self, name: &CStr, path: PathBuf, entry_stat: &Statx) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let above = Arc::clone(&level.folder);
        let handle = match openat(&*above, name, FOLDER, Mode::empty()).map_err(Skipped::of("open the folder")) {
            Ok(handle) => handle,
            Err(Skipped::Failed(action, error)) => {
                // The folder itself is stored, and the missing content is recorded.
                self.stats.unreadable(&path, format!("failed to {action}: {error}"));
                return Ok(self.without_content(name, path, entry_stat, NodeType::Dir));
            }
            Err(skipped) => return Err(skipped),
        };
        let stat = current_stat_of(&handle).map_err(Skipped::of("read its metadata"))?;
        let presence = || above.look_up(name, Identity::of(&stat));
        let names = if self.is_mounted(&stat) {
            self.stats.mounted(&path);
            Listing::default()
        } else {
            match Listing::of(&handle).map_err(Skipped::Run)? {
                (names, None) => names,
                (names, Some(error)) => match presence() {
                    // The folder was deleted after it was opened.
                    Presence::Gone => return Err(Skipped::Vanished),
                    Presence::Replaced => return Err(Skipped::Replaced),
                    Presence::Same | Presence::Unknown if !above.lists(name) => return Err(Skipped::Vanished),
                    Presence::Same | Presence::Unknown => {
                        self.stats.unreadable(&path, format!("failed to list the folder to its end: {error}"));
                        names
                    }
                },
            }
        };
        let handle = File::from(handle);
        let is_there = || !presence().is_gone();
        let attributes = self.attributes_of_open(&path, &handle, EntryClass::Folder, is_there);
        let node = metadata::node(os_str(name), &stat, NodeType::Dir, attributes, self.observed());
        let folder = OpenFolder::below(&above, name, handle.into(), &stat);
        self.levels.push(Level { folder: Arc::new(folder), names, stat, digest: None });
        self.path.clone_from(&path);
        Ok(Found { path, node, file: None })
    }

    /// Leaves the innermost folder, and records whether it changed since it was listed.
    fn leave(&mut self) {
        let Some(Level { folder, stat, digest, .. }) = self.levels.pop() else { return };
        let path = if self.path.as_os_str().is_empty() { Path::new(".") } else { self.path.as_path() };
        match current_stat_of(folder.handle()) {
            Ok(now) if times_of(&now) == times_of(&stat) => {}
            Ok(_) if digest.is_some() && digest == folder.names_digest(|name| !is_restore_entry(name)) => {}
            Ok(_) => self.stats.folder_changed(path, "entries may have been added, moved or deleted"),
            Err(error) => self.stats.folder_changed(path, format!("failed to look at it again: {error}")),
        }
        self.path.pop();
    }

    fn open(&self, name: &CStr, path: PathBuf) -> Result<Found, Skipped> {
        let Some(level) = self.levels.last() else { return Err(Skipped::Vanished) };
        let opened = Opened::open(&level.folder, name).map_err(Skipped::of("open"))?;
        let is_there = || !level.folder.look_up(name, Identity::of(&opened.stat)).is_gone();
        let attributes = self.attributes_of_open(&path, &opened.file, EntryClass::File, is_there);
        let node = metadata::node(os_str(name), &opened.stat, NodeType::File, attributes, self.observed());
        Ok(Found { path, node, file: Some(opened) })
    }

    /// The entry of a link, device, pipe or socket, or of a folder which cannot be opened. The entry itself is not
    /// opened to read its attributes.
    fn without_content(&self, name: &CStr, path: PathBuf, stat: &Statx, kind: NodeType) -> Found {
        let level = self.levels.last();
        let found = level.map_or(Ok(None), |level| {
            // A path in /proc which refers to the open folder itself, even if the folder was renamed.
            let own = format!("/proc/self/fd/{}", level.folder.handle().as_raw_fd());
            let own = PathBuf::from(own).join(os_str(name));
            attributes(xattr::list(&own), |name| xattr::get(&own, name))
        });
        let class = if matches!(kind, NodeType::Dir) { EntryClass::Folder } else { EntryClass::Other };
        let is_there = || level.is_some_and(|level| !level.folder.look_up(name, Identity::of(stat)).is_gone());
        let attributes = self.record_attributes(&path, class, found, is_there);
        let node = metadata::node(os_str(name), stat, kind, attributes, self.observed());
        Found { path, node, file: None }
    }

    fn attributes_of_open(
        &self,
        path: &Path,
        file: &File,
        class: EntryClass,
        is_there: impl FnOnce() -> bool,
    ) -> Metadata {
        self.record_attributes(path, class, attributes(file.list_xattr(), |name| file.get_xattr(name)), is_there)
    }

    /// Records which attributes could not be read. `is_there` returns whether the entry still exists; it is called only
    /// if an error suggests that the entry was deleted.
    fn record_attributes(
        &self,
        path: &Path,
        class: EntryClass,
        read: io::Result<Option<Attributes>>,
        is_there: impl FnOnce() -> bool,
    ) -> Metadata {
        match read {
            Ok(Some(Attributes { found, failed })) => {
                self.stats.attributes_listed(class);
                for (name, error) in failed {
                    self.stats.attribute_unreadable(path, &name, &error);
                }
                found
            }
            Ok(None) => Metadata::default(),
            // The entry was deleted meanwhile.
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::StaleNetworkFileHandle].contains(&error.kind())
                    && !is_there() =>
            {
                Metadata::default()
            }
            Err(error) => {
                self.stats.attributes_unlisted(path, class, &error);
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
            let Listed { name, is_folder } = match level.names.next_entry() {
                Ok(Some(listed)) => listed,
                Ok(None) => {
                    self.leave();
                    continue;
                }
                Err(error) => return Some(Err(error)),
            };
            let folder = Arc::clone(&level.folder);
            if is_root && (is_restore_entry(&name) || self.is_storage_entry(folder.handle(), &name)) {
                continue;
            }
            let path = self.path.join(os_str(&name));
            if self.excludes.leave_out(&path) {
                self.stats.excluded();
                continue;
            }
            let mut attempts = 0;
            let skipped = loop {
                attempts += 1;
                match self.visit(&name) {
                    Ok(found) => return Some(Ok(found)),
                    Err(Skipped::Run(error)) => return Some(Err(error)),
                    Err(Skipped::Missing(_) | Skipped::Replaced | Skipped::Stale) if attempts < MAX_ATTEMPTS => {}
                    Err(skipped) => break skipped,
                }
            };
            match skipped {
                Skipped::Vanished => self.stats.vanished(&path, is_folder),
                // In a deleted folder, no entry can be found by its name.
                Skipped::Stale if folder.is_gone() => self.stats.vanished(&path, is_folder),
                Skipped::Stale => self.stats.unreadable(&path, "its handle becomes stale again and again"),
                Skipped::Replaced => self.stats.unreadable(&path, "it is replaced again and again"),
                // Another client deleted it, and the cache of this one still knew its name.
                Skipped::Missing(_) if !folder.lists(&name) => self.stats.vanished(&path, is_folder),
                Skipped::Missing(action) => {
                    let why = "the file system reports that it does not exist, although its folder has it";
                    self.stats.unreadable(&path, format!("failed to {action}: {why}"));
                }
                Skipped::Failed(action, error) => self.stats.unreadable(&path, format!("failed to {action}: {error}")),
                Skipped::Run(error) => return Some(Err(error)),
            }
        }
    }
}

fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// The times of the last change of a folder's entries, and of its metadata. Reading changes neither.
fn times_of(stat: &Statx) -> [(i64, u32); 2] {
    [&stat.stx_mtime, &stat.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec))
}

/// Whether an entry belongs to a restore step.
fn is_restore_entry(name: &CStr) -> bool {
    RESTORE_MARKS.iter().chain([&RESTORE_LOCK]).any(|own| own.as_bytes() == name.to_bytes())
}

/// Raises the limit of open files to its maximum, because the walk keeps one handle open for each level of a deep
/// folder, and the usual limit is 1024. If the maximum does not suffice, the entries which could not be opened are
/// recorded.
pub(super) fn raise_limit_of_handles() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

#[cfg(test)]
mod tests;

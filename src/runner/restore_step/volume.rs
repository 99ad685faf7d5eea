//! One volume on its disk: its content, its lock, and how restored data is moved into it so that a kill at any moment
//! leaves either nothing which counts as restored, or all of it.
//!
//! Files of Stowaway, all with the prefix [`RESTORE_PREFIX`] and in the volume's root, also if only a folder below it is
//! filled, so that backups and restore steps find them:
//!
//! - `.lock`: locked by flock(2) while a process works on the volume.
//! - `.part`: the restore folder.
//! - `.whole`: the mark that the restore folder is complete and durable. It is written under a temporary name first.
//!   After it exists, entries are moved.
//! - `.probe`: created and removed at once, to find out whether a mark is Stowaway's.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, renameat_with, syncfs},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use super::{
    super::target_folder::TargetFolder,
    changed::{self, ChangeTime},
    decide::Observed,
    mark::{self, Whole},
    merge,
};
use crate::{
    model::{Failure, Reason, escape_name, injected::RESTORE_PREFIX},
    repository::{each_entry, file_system_of, is_refusal, is_systems_own, names},
};

/// The interval of attempts to lock a volume which another pod has locked.
const LOCK_EVERY: Duration = Duration::from_millis(200);
/// The mode of a restore folder while its entries are moved.
const OPEN_FOLDER: u32 = 0o700;
const LOST_AND_FOUND: &str = "lost+found";

/// A volume of the pod.
#[derive(Debug)]
pub(in crate::runner) struct Volume {
    root: PathBuf,
    /// The folder that is filled, and its path below the root; `None` for the root.
    below: Option<(String, TargetFolder)>,
}

/// The lock on a volume; released when dropped.
#[derive(Debug)]
pub(in crate::runner) struct VolumeLock(#[expect(dead_code, reason = "locked as long as it is open")] File);

impl Volume {
    pub fn new(root: PathBuf) -> Self {
        Self { root, below: None }
    }

    /// A volume of which only the folder at this path is filled, which is created if it does not exist.
    pub fn with_folder(root: &Path, folder: &str) -> Result<Self, Failure> {
        let names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
        let folder = names.join("/");
        let below = if names.is_empty() { None } else { Some((folder.clone(), TargetFolder::open(root, &folder)?)) };
        Ok(Self { root: root.to_owned(), below })
    }

    /// The path of the filled folder below the volume's root; empty for the root.
    pub fn folder(&self) -> &str {
        self.below.as_ref().map_or("", |(folder, _)| folder)
    }

    /// The restore folder.
    pub fn part(&self) -> PathBuf {
        self.own(".part")
    }

    fn own(&self, suffix: &str) -> PathBuf {
        self.root.join(format!("{RESTORE_PREFIX}{suffix}"))
    }

    /// The content of the volume.
    pub fn observe(&self) -> Result<Observed, Failure> {
        let mut observed = Observed::default();
        let root = File::open(&self.root).map_err(|error| self.failed("open", &self.root, &error))?.into();
        let file_system = file_system_of(&root);
        let failure = each_entry::<Failure>(&root, |name, _| {
            match name.to_string_lossy().strip_prefix(RESTORE_PREFIX) {
                // If there is a restore folder, even a mark of another user counts, so that the folder is not removed:
                // see [`Volume::move_into_volume`].
                Some(".whole") if self.part().symlink_metadata().is_ok() || self.has_own_mark()? => {
                    observed.whole = true;
                }
                // A mark under its temporary name does not count.
                Some(".part" | ".lock" | ".whole" | ".whole.new" | ".probe") => observed.leftover = true,
                _ if self.below.is_none() => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    observed.data |= is_systems_own(&root, file_system, name).is_none();
                }
                _ => {}
            }
            Ok(())
        })?;
        // A volume of which a part is not listed could look empty.
        if let Some(error) = failure {
            return Err(self.failed("list", &self.root, &error));
        }
        if let Some((folder, target)) = &self.below {
            let shown = self.root.join(folder);
            observed.data = !names(&target.path()).map_err(|error| self.failed("list", &shown, &error))?.is_empty();
        }
        Ok(observed)
    }

    /// Fails if a folder which was empty when its restore began has data now. The restored entries must not be mixed
    /// with those of an app that has started meanwhile.
    pub fn check_still_empty(&self) -> Result<(), Failure> {
        if !self.observe()?.data {
            return Ok(());
        }
        let message = "the target was empty when the restore began, and another process has written into it meanwhile: \
                       nothing was moved into it; stop the pods that mount it (spec.scaleDown stops a workload), and \
                       empty it, or allow overwriting it";
        Err(Failure::new(Reason::TargetNotEmpty, message))
    }

    /// The mark of an earlier restore which was interrupted while its entries were moved.
    pub fn interrupted(&self) -> Result<Option<Whole>, Failure> {
        if !self.has_own_mark()? {
            return Ok(None);
        }
        let path = self.own(".whole");
        mark::read(&path).map(Some).map_err(|error| self.failed("read", &path, &error))
    }

    /// The present time by the clock of the volume's file system, which may be that of a server.
    pub fn time(&self) -> Result<ChangeTime, Failure> {
        let (probe, before) = (self.own(".probe"), self.modified());
        let timed = || {
            match fs::remove_file(&probe) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let made = mark::create(&probe).and_then(|file| Ok(fstat(&file)?));
            fs::remove_file(&probe)?;
            Ok(changed::change_time(&made?))
        };
        let time = timed();
        self.set_modified(before);
        time.map_err(|error| self.failed("create", &probe, &error))
    }

    /// The path of an entry which the complete restore folder would replace, and which changed at or after this time.
    pub fn changed_since(&self, time: ChangeTime) -> Result<Option<PathBuf>, Failure> {
        let to = self.below.as_ref().map_or_else(|| self.root.clone(), |(_, target)| target.path());
        changed::changed_since(&self.part(), &to, time).map_err(|refused| {
            let path = self.root.join(self.folder()).join(&refused.path);
            self.failed(refused.action, &path, &refused.error)
        })
    }

    /// The modification time of the volume's root.
    pub fn modified(&self) -> Option<SystemTime> {
        fs::metadata(&self.root).and_then(|metadata| metadata.modified()).ok()
    }

    /// Resets the modification time of the volume's root, if this process may do so, so that a folder which was not
    /// changed looks unchanged.
    pub fn set_modified(&self, time: Option<SystemTime>) {
        if let Some(time) = time
            && let Ok(folder) = File::open(&self.root)
        {
            let _ = folder.set_modified(time);
        }
    }

    fn has_own_mark(&self) -> Result<bool, Failure> {
        let mark = self.own(".whole");
        match mark::is_own(&mark, &self.own(".probe")) {
            // Another pod has just finished and removed the mark.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            own => own.map_err(|error| self.failed("read the metadata of", &mark, &error)),
        }
    }

    /// Waits until no other process works on the volume. The previous holder may remove the lock file, so that a lock
    /// counts only if it is on the file which is present at the path.
    pub async fn lock(&self, patience: Duration) -> Result<VolumeLock, Failure> {
        let path = self.own(".lock");
        let deadline = Instant::now() + patience;
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            // Follows no link, and does not wait for the reader of a pipe.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = options.custom_flags(flags.bits().cast_signed()).open(&path);
            let file = file.map_err(|error| self.failed("lock", &path, &error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, &path) => return Ok(VolumeLock(file)),
                Ok(()) | Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(self.failed("lock", &path, &error.into())),
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "another pod has been restoring into this volume for at least {} s; this step is retried",
                    patience.as_secs()
                );
                return Err(Failure::new(Reason::TargetUnwritable, message));
            }
            sleep(LOCK_EVERY).await;
        }
    }

    /// Creates an empty restore folder. Remains of an earlier attempt are removed.
    pub fn begin(&self) -> Result<PathBuf, Failure> {
        let part = self.part();
        self.forget()?;
        fs::create_dir(&part).map_err(|error| self.failed("create", &part, &error))?;
        Ok(part)
    }

    /// Marks the restore folder, which is durable by now, as complete.
    pub fn mark(&self, whole: &Whole) -> Result<(), Failure> {
        let (path, new) = (self.own(".whole"), self.own(".whole.new"));
        let marked = serde_json::to_vec(whole).map_err(io::Error::from).and_then(|json| {
            let _ = fs::remove_file(&new);
            let mut file = mark::create(&new)?;
            io::Write::write_all(&mut file, &json)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync()
        });
        marked.map_err(|error| self.failed("mark", &path, &error))
    }

    /// Moves the complete restore folder into the folder that its mark names, and continues a move which was
    /// interrupted. Present entries are an error unless the mark states that they may be replaced. Returns the metadata
    /// of the filled folder and of present folders which could not be set.
    pub fn move_into_volume(&self) -> Result<Vec<String>, Failure> {
        self.move_restored(false)
    }

    /// Does the same as [`Volume::move_into_volume`], and replaces present entries in any case.
    pub fn move_over_volume(&self) -> Result<Vec<String>, Failure> {
        self.move_restored(true)
    }

    fn move_restored(&self, replaces_any: bool) -> Result<Vec<String>, Failure> {
        let (path, part) = (self.own(".whole"), self.part());
        if !self.has_own_mark()? {
            let message = format!(
                "the volume contains {RESTORE_PREFIX}.whole, which this step did not write, and \
                 {RESTORE_PREFIX}.part: nothing is changed, because either may be of a restore as another user; \
                 inspect them, and remove both manually"
            );
            return Err(Failure::new(Reason::TargetUnwritable, message));
        }
        let whole = mark::read(&path).map_err(|error| self.failed("read", &path, &error))?;
        let target = TargetFolder::open(&self.root, &whole.folder)?;
        let (to, shown) = (target.path(), self.root.join(&whole.folder));
        let mut not_kept = Vec::new();
        match open_for_owner(&part) {
            // All entries were moved already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => {
                opened.map_err(|error| self.failed("open", &part, &error))?;
                match whole.over.as_deref().or(replaces_any.then_some(&[])) {
                    None => while self.move_entries(&part, &to, &shown)? {},
                    Some(only) => {
                        not_kept = merge::merge(&part, &to, only).map_err(|refused| {
                            self.failed(refused.action, &shown.join(&refused.path), &refused.error)
                        })?;
                    }
                }
                self.sync().map_err(|error| self.failed("make durable", &self.root, &error))?;
                // Fails if anything is left in the folder.
                fs::remove_dir(&part).map_err(|error| self.failed("remove", &part, &error))?;
            }
        }
        // Before the mark is removed, because it contains this metadata.
        if let Some(own) = &whole.own {
            not_kept.extend(own.apply_to(&to)?);
        }
        self.remove(&path)?;
        // Removing the mark has changed the folder's time.
        if let Some(own) = &whole.own {
            own.apply_to(&to)?;
        }
        Ok(not_kept)
    }

    /// Moves the present entries into the folder `target`, whose path is `shown` in messages. Returns false once there
    /// is none. Several passes are needed, because a listing of a folder whose entries are moved meanwhile may be
    /// incomplete on some file systems.
    fn move_entries(&self, part: &Path, target: &Path, shown: &Path) -> Result<bool, Failure> {
        let mut moved = false;
        for name in names(part).map_err(|error| self.failed("read", part, &error))? {
            let (from, to) = (part.join(&name), target.join(&name));
            if name == LOST_AND_FOUND {
                // The volume has its own `lost+found`, which does not count as data.
                let _ = fs::remove_dir(&to);
            }
            let moving = move_entry(&from, &to);
            moving.map_err(|error| self.failed("move what was restored to", &shown.join(&name), &error))?;
            moved = true;
        }
        Ok(moved)
    }

    /// Removes the incomplete remains of an attempt. None of them is the app's data.
    fn clear(&self) -> Result<(), Failure> {
        self.remove(&self.own(".whole.new"))?;
        self.remove(&self.own(".probe"))?;
        self.remove_part()
    }

    /// Removes the remains of an attempt even if they are complete.
    pub fn forget(&self) -> Result<(), Failure> {
        self.remove(&self.own(".whole"))?;
        self.clear()
    }

    /// Removes the remains of a failed attempt, unless they are complete: then the next attempt continues with them.
    pub fn discard_half(&self) -> Result<(), Failure> {
        if self.own(".whole").symlink_metadata().is_ok() { Ok(()) } else { self.clear() }
    }

    /// Removes the lock file, and releases the lock.
    pub fn unlock(&self, lock: VolumeLock) -> Result<(), Failure> {
        let before = self.modified();
        self.remove(&self.own(".lock"))?;
        drop(lock);
        self.set_modified(before);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), Failure> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", path, &error)),
            _ => Ok(()),
        }
    }

    fn remove_part(&self) -> Result<(), Failure> {
        let part = self.part();
        let removed = remove_tree(&part);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &part, &error)),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(syncfs(File::open(&self.root)?)?)
    }

    fn failed(&self, action: &str, path: &Path, error: &io::Error) -> Failure {
        let shown = path.strip_prefix(&self.root).ok().filter(|path| !path.as_os_str().is_empty());
        let shown = shown
            .map_or_else(|| "the volume's folder".to_owned(), |path| escape_name(path.as_os_str().as_encoded_bytes()));
        Failure::new(Reason::TargetUnwritable, format!("failed to {action} {shown}: {error}"))
    }
}

/// Whether the file at the path is this file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata().map(identity), fs::symlink_metadata(path).map(identity)) {
        (Ok(held), Ok(found)) => held == found,
        _ => false,
    }
}

/// Makes a folder of Stowaway accessible to its owner; follows no link. A file system without modes needs no change.
fn open_for_owner(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A folder which its owner may not read can still be opened by its path, and then be made readable.
    let handle = rustix::fs::open(folder, flags | OFlags::PATH, Mode::empty())?;
    let own = format!("/proc/self/fd/{}", handle.as_raw_fd());
    match fs::set_permissions(own, Permissions::from_mode(OPEN_FOLDER)) {
        Err(error) if is_refusal(&error) => Ok(()),
        opened => opened,
    }
}

/// Moves an entry without replacing another one.
fn move_entry(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without RENAME_NOREPLACE (NFS). The check before the rename suffices, because this process holds
        // the lock.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        moved => Ok(moved?),
    }
}

/// Removes a folder of Stowaway, in which folders may be inaccessible even to their owner.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_folders(folder)?;
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn open_folders(folder: &Path) -> io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        open_for_owner(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

//! One volume on its disk: what is in it, the lock on it, and how what was restored gets to its place so that a kill at any
//! moment leaves either nothing that counts, or all of it.
//!
//! An edge; it decides nothing. In the volume, all below [`RESTORE_PREFIX`]:
//!
//! - `.lock`: locked by flock(2) as long as somebody works on the volume;
//! - `.part`: the folder that is restored into;
//! - `.whole`: says that all is in that folder, and durable; written beside its name first. From then on entries are moved.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with, syncfs},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{decide::Observed, merge};
use crate::{
    model::{Failure, Reason, injected::RESTORE_PREFIX},
    repository::FolderMetadata,
};

/// How often a lock that another pod holds is tried again.
const LOCK_EVERY: Duration = Duration::from_millis(200);
/// Beneath its only user, a folder is open to it while its entries are moved.
const OPEN_FOLDER: u32 = 0o700;
const LOST_AND_FOUND: &str = "lost+found";

/// What the mark says, as JSON.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::runner) struct Whole {
    /// Id of the snapshot, 64 hex digits.
    pub snapshot: String,
    /// What the volume's own folder gets in the end; nothing where only some of a snapshot was restored.
    pub own: Option<FolderMetadata>,
}

/// A volume of the pod.
#[derive(Clone, Debug)]
pub(in crate::runner) struct Volume {
    root: PathBuf,
}

/// The lock on a volume; let go when dropped.
#[derive(Debug)]
pub(in crate::runner) struct VolumeLock(#[expect(dead_code, reason = "locked as long as it is open")] File);

impl Volume {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder that is restored into.
    pub fn part(&self) -> PathBuf {
        self.own(".part")
    }

    fn own(&self, suffix: &str) -> PathBuf {
        self.root.join(format!("{RESTORE_PREFIX}{suffix}"))
    }

    /// What is in it.
    pub fn observe(&self) -> Result<Observed, Failure> {
        let mut observed = Observed::default();
        for entry in fs::read_dir(&self.root).map_err(|error| self.failed("read", &self.root, &error))? {
            let entry = entry.map_err(|error| self.failed("read", &self.root, &error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            match name.strip_prefix(RESTORE_PREFIX) {
                Some(".whole") => observed.whole = true,
                // A mark that was about to be made is none.
                Some(".part" | ".lock" | ".whole.new") => observed.leftover = true,
                _ => observed.data |= name != LOST_AND_FOUND || holds_something(&entry.path()),
            }
        }
        Ok(observed)
    }

    /// Waits until nobody else works on it. The file of the lock may be removed by whoever held it, so that a lock counts
    /// only on the file that is there.
    pub async fn lock(&self, patience: Duration) -> Result<VolumeLock, Failure> {
        let path = self.own(".lock");
        let deadline = Instant::now() + patience;
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            // Neither to where a link leads, nor to wait for whoever would read from a pipe.
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
                    "another pod has been restoring into this volume for {} s and more; this is tried again",
                    patience.as_secs()
                );
                return Err(Failure::new(Reason::TargetUnwritable, message));
            }
            sleep(LOCK_EVERY).await;
        }
    }

    /// An empty folder to restore into. What an attempt left in it is removed.
    pub fn begin(&self) -> Result<PathBuf, Failure> {
        let part = self.part();
        self.remove_part()?;
        fs::create_dir(&part).map_err(|error| self.failed("make", &part, &error))?;
        Ok(part)
    }

    /// Marks what was restored, which is durable by now, as whole.
    pub fn mark(&self, whole: &Whole) -> Result<(), Failure> {
        let (path, new) = (self.own(".whole"), self.own(".whole.new"));
        let marked = serde_json::to_vec(whole).map_err(io::Error::from).and_then(|json| {
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            io::Write::write_all(&mut file, &json)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync()
        });
        marked.map_err(|error| self.failed("mark", &path, &error))
    }

    /// Moves all that is whole to its place; goes on where it was interrupted. What is there is in the way, unless it may be
    /// replaced: `over` then names the paths that were restored, or none of them for all. Gives what could not be kept of
    /// the folder's own metadata, and of folders that were there.
    pub fn move_to_place(&self, over: Option<&[PathBuf]>) -> Result<Vec<String>, Failure> {
        let (path, part) = (self.own(".whole"), self.part());
        let read = fs::read(&path).and_then(|json| Ok(serde_json::from_slice::<Whole>(&json)?));
        let whole = read.map_err(|error| self.failed("read", &path, &error))?;
        let mut not_kept = Vec::new();
        match open_to_us(&part) {
            // All was moved already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => {
                opened.map_err(|error| self.failed("open", &part, &error))?;
                match over {
                    None => while self.move_entries(&part)? {},
                    Some(only) => {
                        not_kept = merge::merge(&part, &self.root, only).map_err(|refused| {
                            self.failed(refused.action, &self.root.join(&refused.path), &refused.error)
                        })?;
                    }
                }
                self.sync().map_err(|error| self.failed("make durable", &self.root, &error))?;
                // Fails if anything is left in it.
                fs::remove_dir(&part).map_err(|error| self.failed("remove", &part, &error))?;
            }
        }
        // Before the mark goes, since it tells what to give.
        if let Some(own) = &whole.own {
            not_kept.extend(own.apply_to(&self.root)?);
        }
        self.remove(&path)?;
        // What was removed changed the time once more.
        if let Some(own) = &whole.own {
            own.apply_to(&self.root)?;
        }
        Ok(not_kept)
    }

    /// Moves what is there; false once nothing is. What a listing gives while entries go away is not the same everywhere.
    fn move_entries(&self, part: &Path) -> Result<bool, Failure> {
        let mut moved = false;
        for entry in fs::read_dir(part).map_err(|error| self.failed("read", part, &error))? {
            let entry = entry.map_err(|error| self.failed("read", part, &error))?;
            let (from, to) = (entry.path(), self.root.join(entry.file_name()));
            if entry.file_name() == LOST_AND_FOUND {
                // The volume has its own, which counted as nothing.
                let _ = fs::remove_dir(&to);
            }
            move_entry(&from, &to).map_err(|error| self.failed("move what was restored to", &to, &error))?;
            moved = true;
        }
        Ok(moved)
    }

    /// Removes what an attempt left, of which nothing is the app's.
    pub fn clear(&self) -> Result<(), Failure> {
        self.remove(&self.own(".whole.new"))?;
        self.remove_part()
    }

    /// Removes what an attempt left even if it is whole: what is restored next takes its place.
    pub fn forget(&self) -> Result<(), Failure> {
        self.remove(&self.own(".whole"))?;
        self.clear()
    }

    /// Removes what a failed attempt left, unless it is whole by now: then the next one goes on with it.
    pub fn discard_half(&self) -> Result<(), Failure> {
        if self.own(".whole").symlink_metadata().is_ok() { Ok(()) } else { self.clear() }
    }

    /// Takes the lock's file away and lets the lock go.
    pub fn unlock(&self, lock: VolumeLock) -> Result<(), Failure> {
        let before = fs::metadata(&self.root).and_then(|metadata| metadata.modified());
        self.remove(&self.own(".lock"))?;
        drop(lock);
        // The app's own folder is to look as if nobody had been there; who does not own it cannot see to that.
        if let Ok(before) = before
            && let Ok(root) = File::open(&self.root)
        {
            let _ = root.set_modified(before);
        }
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
        let shown = shown.map_or_else(|| "the volume's folder".to_owned(), |path| path.display().to_string());
        Failure::new(Reason::TargetUnwritable, format!("failed to {action} {shown}: {error}"))
    }
}

/// Whether something is in a `lost+found`. One that is closed to us is closed to the app, as whose user we run.
fn holds_something(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::PermissionDenied,
    }
}

/// Whether the file of that name is this one.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata().map(identity), fs::symlink_metadata(path).map(identity)) {
        (Ok(ours), Ok(there)) => ours == there,
        _ => false,
    }
}

/// Opens a folder of ours to its owner, and never what a link leads to.
fn open_to_us(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One that its owner may not read can be named, and then opened up.
    let handle = rustix::fs::open(folder, flags | OFlags::PATH, Mode::empty())?;
    fs::set_permissions(format!("/proc/self/fd/{}", handle.as_raw_fd()), Permissions::from_mode(OPEN_FOLDER))
}

/// Moves an entry, and never over another one.
fn move_entry(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that know no such thing (NFS): we hold the lock, and have looked.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        moved => Ok(moved?),
    }
}

/// Removes a folder of ours, of which folders may be closed even to their owner.
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
        open_to_us(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

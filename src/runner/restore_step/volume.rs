//! One volume on its disk: what is in it, the lock on it, and how what was restored gets to its place so that a kill at any
//! moment leaves either nothing that counts, or all of it.
//!
//! An edge; it decides nothing. In the volume, all below [`RESTORE_PREFIX`]:
//!
//! - `.lock`: locked by flock(2) as long as somebody works on the volume;
//! - `.part`: the folder that is restored into;
//! - `.whole`: says that all is in that folder, and durable; written beside its name first. From then on entries are moved;
//! - `.probe`: made and removed at once, to see whether a mark is Stowaway's.

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
use tokio::time::{Instant, sleep};

use super::{
    decide::Observed,
    mark::{self, Whole},
    merge,
};
use crate::{
    model::{Failure, Reason, escape_name, injected::RESTORE_PREFIX},
    repository::{is_refusal, is_systems_own},
};

/// How often a lock that another pod holds is tried again.
const LOCK_EVERY: Duration = Duration::from_millis(200);
/// Beneath its only user, a folder is open to it while its entries are moved.
const OPEN_FOLDER: u32 = 0o700;
const LOST_AND_FOUND: &str = "lost+found";

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
        let root = File::open(&self.root).map_err(|error| self.failed("open", &self.root, &error))?.into();
        for entry in fs::read_dir(&self.root).map_err(|error| self.failed("read", &self.root, &error))? {
            let entry = entry.map_err(|error| self.failed("read", &self.root, &error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            match name.strip_prefix(RESTORE_PREFIX) {
                // Beside a folder that is restored into, a mark of somebody else's is no reason to remove that: see
                // [`Volume::move_to_place`].
                Some(".whole") if self.part().symlink_metadata().is_ok() || self.has_own_mark()? => {
                    observed.whole = true;
                }
                // A mark that was about to be made is none.
                Some(".part" | ".lock" | ".whole" | ".whole.new" | ".probe") => observed.leftover = true,
                _ => observed.data |= is_systems_own(&root, &entry.file_name()).is_none(),
            }
        }
        Ok(observed)
    }

    fn has_own_mark(&self) -> Result<bool, Failure> {
        let mark = self.own(".whole");
        match mark::is_own(&mark, &self.own(".probe")) {
            // Another pod has just come to its end.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            own => own.map_err(|error| self.failed("look at", &mark, &error)),
        }
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
        self.forget()?;
        fs::create_dir(&part).map_err(|error| self.failed("make", &part, &error))?;
        Ok(part)
    }

    /// Marks what was restored, which is durable by now, as whole.
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

    /// Moves all that is whole to its place; goes on where it was interrupted. What is there is in the way, unless it may be
    /// replaced: `over` then names the paths that were restored, or none of them for all. Gives what could not be kept of
    /// the folder's own metadata, and of folders that were there.
    pub fn move_to_place(&self, over: Option<&[PathBuf]>) -> Result<Vec<String>, Failure> {
        let (path, part) = (self.own(".whole"), self.part());
        if !self.has_own_mark()? {
            let message = format!(
                "the volume holds {RESTORE_PREFIX}.whole, which this step did not write, beside {RESTORE_PREFIX}.part: nothing is \
                 touched, because either may be of a restore as another user; look what is in them, and remove both by hand"
            );
            return Err(Failure::new(Reason::TargetUnwritable, message));
        }
        let whole = mark::read(&path).map_err(|error| self.failed("read", &path, &error))?;
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
    fn clear(&self) -> Result<(), Failure> {
        self.remove(&self.own(".whole.new"))?;
        self.remove(&self.own(".probe"))?;
        self.remove_part()
    }

    /// Removes what an attempt left even if it is whole: what is restored next takes its place, or nothing does.
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
        let shown = shown
            .map_or_else(|| "the volume's folder".to_owned(), |path| escape_name(path.as_os_str().as_encoded_bytes()));
        Failure::new(Reason::TargetUnwritable, format!("failed to {action} {shown}: {error}"))
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

/// Opens a folder of Stowaway's to its owner, and never what a link leads to. A file system without modes closes none.
fn open_to_us(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One that its owner may not read can be named, and then opened up.
    let handle = rustix::fs::open(folder, flags | OFlags::PATH, Mode::empty())?;
    let own = format!("/proc/self/fd/{}", handle.as_raw_fd());
    match fs::set_permissions(own, Permissions::from_mode(OPEN_FOLDER)) {
        Err(error) if is_refusal(&error) => Ok(()),
        opened => opened,
    }
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

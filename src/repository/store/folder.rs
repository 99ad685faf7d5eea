//! A repository's files in a folder, in restic's layout.
//!
//! It must not know what the files mean. The library's own folder service is not used: it takes a missing folder for an
//! empty one, its "only if absent" is a check followed by a rename, and it does not make the folder's entry durable.

mod leftovers;

use std::{
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;

pub(super) use self::leftovers::Leftovers;
use super::{Write as Mode, upload::partial_of};

/// The root of a repository.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Others go on with it: files are readable by all (they are encrypted), and folders writable by the group. Else both
    /// are the owner's, as restic has them.
    shared: bool,
}

impl Folder {
    pub fn new(root: &str, shared: bool) -> Self {
        Self { root: PathBuf::from(root), shared }
    }

    pub fn stat(&self, path: &str) -> io::Result<u64> {
        let metadata = fs::metadata(self.root.join(path))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::Error::other(format!("{path} is no file"))) }
    }

    pub fn modified(&self, path: &str) -> io::Result<Option<Timestamp>> {
        let metadata = fs::metadata(self.root.join(path))?;
        Ok(metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok()))
    }

    pub fn read(&self, path: &str) -> io::Result<Bytes> {
        fs::read(self.root.join(path)).map(Bytes::from)
    }

    pub fn read_range(&self, path: &str, offset: u64, length: u64) -> io::Result<Bytes> {
        let mut file = fs::File::open(self.root.join(path))?;
        file.seek(SeekFrom::Start(offset))?;
        // Else the buffer is doubled again and again on the way, and becomes too long.
        let there = file.metadata()?.len().saturating_sub(offset).min(length);
        let mut data = Vec::with_capacity(usize::try_from(there).unwrap_or(0));
        file.take(length).read_to_end(&mut data)?;
        Ok(data.into())
    }

    /// Names and sizes of all files of a folder and those below it, or an error: one entry that cannot be read fails the
    /// whole listing.
    pub fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Removed while we read: it is not there any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let Ok(name) = entry.file_name().into_string() else { continue };
            if metadata.is_file() {
                files.push((name, metadata.len()));
            } else if metadata.is_dir() {
                match self.list(&format!("{folder}/{name}")) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    below => files.extend(below?),
                }
            }
        }
        Ok(files)
    }

    /// Writes beside the final name, makes it durable, and only then gives it that name: a reader sees all or nothing.
    pub fn write(&self, path: &str, content: &[Bytes], mode: Mode) -> io::Result<()> {
        let partial = partial_of(path);
        self.make_folders(self.root.join(path).parent().unwrap_or(&self.root))?;
        let written = write_durably(&self.root.join(&partial), content, self.file_mode())
            .and_then(|()| self.rename(&partial, path, mode));
        if written.is_err() {
            // What is left of a failed write only takes room; the first error counts.
            let _ = self.remove(&partial);
        }
        written
    }

    /// Writes a part of a file that has not got its name yet, and makes that part durable. May be done again.
    pub fn write_part(&self, partial: &str, offset: u64, content: &[Bytes]) -> io::Result<()> {
        let path = self.root.join(partial);
        if offset == 0 {
            self.make_folders(path.parent().unwrap_or(&self.root))?;
        }
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(offset == 0).truncate(false).mode(self.file_mode()).open(path)?;
        let mut at = offset;
        for part in content {
            file.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        file.sync_data()
    }

    /// Makes such a file durable, and gives it its name.
    pub fn give_name(&self, partial: &str, path: &str, mode: Mode) -> io::Result<()> {
        fs::File::open(self.root.join(partial))?.sync_all()?;
        self.rename(partial, path, mode)
    }

    /// On success the other name is gone.
    fn rename(&self, partial: &str, path: &str, mode: Mode) -> io::Result<()> {
        let (partial, target) = (self.root.join(partial), self.root.join(path));
        match mode {
            Mode::Replace => fs::rename(&partial, &target)?,
            // A link fails when the name is taken, in one step; a rename would replace.
            Mode::CreateNew => {
                fs::hard_link(&partial, &target).or_else(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => Err(error),
                    // File systems without links (SMB, FAT): the caller has looked just before.
                    _ => fs::rename(&partial, &target),
                })?;
                // What is left of it only takes room.
                let _ = fs::remove_file(&partial);
            }
        }
        match fs::File::open(target.parent().unwrap_or(&self.root))?.sync_all() {
            // Network file systems that know no such thing.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            synced => synced,
        }
    }

    fn file_mode(&self) -> u32 {
        if self.shared { 0o644 } else { 0o600 }
    }

    fn make_folders(&self, folder: &Path) -> io::Result<()> {
        if !self.shared {
            return fs::create_dir_all(folder);
        }
        let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let mode = fs::metadata(folder)?.permissions().mode();
            match fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o070)) {
                // Shares of SMB and the like have their modes from the mount.
                Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {}
                changed => changed?,
            }
        }
        Ok(())
    }

    pub fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }
}

fn write_durably(path: &Path, content: &[Bytes], mode: u32) -> io::Result<()> {
    // Never over another's file.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    for part in content {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modes(shared: bool) -> [u32; 3] {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("cellar/shelf");
        let folder = Folder::new(root.to_str().unwrap(), shared);
        folder.write("data/ab/abcd", &[Bytes::from_static(b"x")], Mode::CreateNew).unwrap();
        ["", "data/ab", "data/ab/abcd"].map(|path| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777)
    }

    #[test]
    fn what_runs_of_several_users_share_can_be_read_and_removed_by_all_of_their_group() {
        let [root, folder, file] = modes(true);
        assert_eq!((root & 0o070, folder & 0o070, file & 0o044), (0o070, 0o070, 0o044));
    }

    #[test]
    fn what_one_user_has_is_that_users_alone() {
        assert_eq!(modes(false)[2], 0o600);
    }
}

//! A repository's files in a folder, in restic's layout.
//!
//! The file system service of `opendal` is not used, because it treats a missing folder as empty, implements "only if
//! absent" as a check followed by a rename, and does not make the folder's entry durable.

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
use super::{file::Write as Mode, partial::partial_path};
use crate::directory;

/// The root folder of a repository.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Whether several users use the repository. If so, files are readable by all users (they are encrypted) and
    /// folders are writable by the group. Otherwise both are accessible only to the owner, as in restic.
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
        // The capacity is exact, because a buffer that grows by doubling becomes too long.
        let available = file.metadata()?.len().saturating_sub(offset).min(length);
        let mut data = Vec::with_capacity(usize::try_from(available).unwrap_or(0));
        file.take(length).read_to_end(&mut data)?;
        Ok(data.into())
    }

    /// Lists the names and sizes of all files of a folder, including its subfolders. If an entry cannot be read, the
    /// whole listing fails.
    pub fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        let parent = self.root.join(folder);
        for name in directory::names(&parent)? {
            let metadata = match fs::symlink_metadata(parent.join(&name)) {
                // The entry was removed during the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let Ok(name) = name.into_string() else { continue };
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

    /// Writes a partial file, makes it durable, and renames it to the final name. So a reader sees a complete file or
    /// none.
    pub fn write(&self, path: &str, content: &[Bytes], mode: Mode) -> io::Result<()> {
        let partial = partial_path(path);
        self.make_folders(self.root.join(path).parent().unwrap_or(&self.root))?;
        let written = write_durably(&self.root.join(&partial), content, self.file_mode())
            .and_then(|()| self.rename(&partial, path, mode));
        if written.is_err() {
            // The rest of a failed write only occupies space. The first error is reported.
            let _ = self.remove(&partial);
        }
        written
    }

    /// Writes a part of a partial file, and makes the part durable. The call may be repeated.
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

    /// Makes a partial file durable and renames it to its final name.
    pub fn give_name(&self, partial: &str, path: &str, mode: Mode) -> io::Result<()> {
        fs::File::open(self.root.join(partial))?.sync_all()?;
        self.rename(partial, path, mode)
    }

    /// Renames a partial file. After success the partial file does not exist any more.
    fn rename(&self, partial: &str, path: &str, mode: Mode) -> io::Result<()> {
        let (partial, target) = (self.root.join(partial), self.root.join(path));
        match mode {
            Mode::Replace => fs::rename(&partial, &target)?,
            // A hard link fails atomically if the file exists. A rename would replace it.
            Mode::CreateNew => {
                fs::hard_link(&partial, &target).or_else(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => Err(error),
                    // File systems without hard links (SMB, FAT). The caller has checked just before that the file does
                    // not exist.
                    _ => fs::rename(&partial, &target),
                })?;
                // A partial file that cannot be removed only occupies space.
                let _ = fs::remove_file(&partial);
            }
        }
        match fs::File::open(target.parent().unwrap_or(&self.root))?.sync_all() {
            // Network file systems that do not support syncing a folder.
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
                // SMB shares and similar file systems have their modes from the mount options.
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
    // Never overwrite a file of another process.
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
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("cellar/shelf");
        let folder = Folder::new(root.to_str().unwrap(), shared);
        folder.write("data/ab/abcd", &[Bytes::from_static(b"x")], Mode::CreateNew).unwrap();
        ["", "data/ab", "data/ab/abcd"].map(|path| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777)
    }

    #[test]
    fn shared_repository_can_be_read_and_removed_by_all_users_of_the_group() {
        let [root, folder, file] = modes(true);
        assert_eq!((root & 0o070, folder & 0o070, file & 0o044), (0o070, 0o070, 0o044));
    }

    #[test]
    fn repository_of_one_user_is_readable_only_by_that_user() {
        assert_eq!(modes(false)[2], 0o600);
    }
}

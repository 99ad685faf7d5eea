//! Listings of directories that return every entry, or an error.

use std::{ffi::CStr, ffi::OsString, fs, io, os::fd::OwnedFd, os::unix::ffi::OsStringExt, path::Path};

use rustix::{
    fs::{FileType, RawDir},
    io::Errno,
};

/// Names which the kernel returns at once, as in other readers of directories.
const BUFFER_BYTES: usize = 32 << 10;

/// Calls `take` with the name of each entry of a folder which was just opened, and whether the entry is listed as a
/// folder. Returns the error with which the listing failed before its end.
///
/// `ENOENT` is such an error. readdir(3) and the standard library hide it, because the kernel returns it for a deleted
/// folder, but file systems also return it for folders which exist.
pub fn each_entry<E>(
    handle: &OwnedFd,
    mut take: impl FnMut(&CStr, bool) -> Result<(), E>,
) -> Result<Option<io::Error>, E> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut entries = RawDir::new(handle, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Ok(entry) => take(entry.file_name(), entry.file_type() == FileType::Directory)?,
            Err(Errno::INTR) => {}
            Err(error) => return Ok(Some(error.into())),
        }
    }
    Ok(None)
}

/// The names in a directory. An error whose kind is `NotFound` means that the directory does not exist, and never that
/// its listing failed.
pub fn names(path: &Path) -> io::Result<Vec<OsString>> {
    all_names(&fs::File::open(path)?.into())
}

fn all_names(handle: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    let failure = each_entry::<io::Error>(handle, |name, _| {
        names.push(OsString::from_vec(name.to_bytes().to_vec()));
        Ok(())
    })?;
    match failure {
        None => Ok(names),
        Some(error) => Err(io::Error::other(format!("the directory could not be listed to its end: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_that_ends_early_is_no_missing_directory() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(names(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let handle = fs::File::open(folder.path()).unwrap().into();
        drop(folder);
        let error = all_names(&handle).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
    }
}

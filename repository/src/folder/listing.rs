//! Lists the names in a folder by its handle, in the order of their bytes, for any number of names in bounded memory.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
};

use crate::{
    RepositoryError,
    directory::each_entry,
    scratch::{self, Sorted, Sorter},
};

/// Memory for the names of one folder. Names beyond it are written to temporary files.
const MEMORY_BYTES: usize = 2 << 20;

/// An entry of a folder.
#[derive(Debug, Eq, PartialEq)]
pub struct Listed {
    pub name: CString,
    /// Whether the listing reports the entry as a folder.
    pub is_folder: bool,
}

/// The remaining entries of a folder.
pub struct Listing {
    names: Sorted,
    record: Vec<u8>,
}

/// An empty listing.
impl Default for Listing {
    fn default() -> Self {
        Self { names: Sorted::default(), record: Vec::new() }
    }
}

impl Listing {
    /// Lists a folder which was just opened. If the listing failed before its end, the names so far are returned together
    /// with the error.
    pub fn of(handle: &OwnedFd) -> Result<(Self, Option<io::Error>), RepositoryError> {
        let mut names = Sorter::new(MEMORY_BYTES);
        let failure = each_entry(handle, |name, is_folder| add(&mut names, name, is_folder).map_err(scratch::failed))?;
        let names = names.finish().map_err(scratch::failed)?;
        Ok((Self { names, record: Vec::new() }, failure))
    }

    /// The next entry; none after the last.
    pub fn next_entry(&mut self) -> Result<Option<Listed>, RepositoryError> {
        if !self.names.next(&mut self.record).map_err(scratch::failed)? {
            return Ok(None);
        }
        let broken = || scratch::failed(io::Error::other("a name in the file is not what was written"));
        let (kind, name) = self.record.split_last().ok_or_else(broken)?;
        let name = CStr::from_bytes_with_nul(name).map_err(|_| broken())?;
        Ok(Some(Listed { name: name.to_owned(), is_folder: *kind != 0 }))
    }
}

/// Adds a record: the name, its terminating 0, and whether it is a folder. The 0 makes the records sort as the names
/// do.
fn add(names: &mut Sorter, name: &CStr, is_folder: bool) -> io::Result<()> {
    let mut record = name.to_bytes_with_nul().to_vec();
    record.push(is_folder.into());
    names.push(&record)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn listing_of_a_deleted_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let handle = fs::File::open(folder.path()).unwrap().into();
        drop(folder);
        let (mut listing, failure) = Listing::of(&handle).unwrap();
        assert_eq!(failure.unwrap().kind(), io::ErrorKind::NotFound);
        assert_eq!(listing.next_entry().unwrap(), None);
    }

    #[test]
    fn names_come_in_order_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a.b", "ab", "ü"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("a")).unwrap();
        let (mut listing, failure) = Listing::of(&fs::File::open(folder.path()).unwrap().into()).unwrap();
        assert!(failure.is_none());
        let mut names = Vec::new();
        while let Some(Listed { name, is_folder }) = listing.next_entry().unwrap() {
            names.push((name.into_string().unwrap(), is_folder));
        }
        let expected = [("a", true), ("a.b", false), ("ab", false), ("b", false), ("ü", false)];
        assert_eq!(names, expected.map(|(name, is_folder)| (name.to_owned(), is_folder)));
    }
}

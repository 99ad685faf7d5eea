//! Collects what a backup of a folder reports: entries which could not be read, which changed or were deleted
//! meanwhile, and which were excluded.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::report::{LISTED, StoredFolder, Trouble, Troubles};
use stowaway_model::escape_name;

/// Errors, other than "not supported", with which file systems without extended attributes answer a request to list
/// them.
const NO_ATTRIBUTES: [Errno; 4] = [Errno::PERM, Errno::INVAL, Errno::IO, Errno::ACCESS];

impl Troubles {
    /// Counts a path. Names it, too, if fewer than [`LISTED`] are named.
    pub(super) fn add(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < LISTED {
            let path =
                if path.as_os_str().is_empty() { ".".into() } else { escape_name(path.as_os_str().as_encoded_bytes()) };
            self.first.push(Trouble { path, reason: reason.into() });
        }
    }

    /// Appends the paths of another list.
    pub(super) fn extend(&mut self, others: Self) {
        self.count += others.count;
        let room = LISTED - self.first.len().min(LISTED);
        self.first.extend(others.first.into_iter().take(room));
    }
}

/// Kinds of entries whose attributes a file system may treat differently.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryClass {
    Folder,
    File,
    Other,
}

/// The results of listing the attributes of all entries of one class.
#[derive(Debug, Default)]
struct Attributes {
    /// How many entries returned their attributes.
    listed: u64,
    unlisted: Troubles,
    errors: BTreeSet<Option<i32>>,
}

impl Attributes {
    /// The error which all entries returned alike, if it means that the file system has no attributes. Then none are
    /// missing.
    fn absence(&self) -> Option<Errno> {
        let [Some(error)] = self.errors.iter().copied().collect::<Vec<_>>()[..] else { return None };
        let error = Errno::from_raw_os_error(error);
        (self.listed == 0 && NO_ATTRIBUTES.contains(&error)).then_some(error)
    }
}

#[derive(Debug, Default)]
struct Collected {
    stored: StoredFolder,
    attributes: [Attributes; 3],
}

/// Statistics of a backup that the walk's thread and the readers' threads fill at the same time.
#[derive(Debug, Default)]
pub(super) struct BackupStats(Mutex<Collected>);

impl BackupStats {
    /// Records that an entry is missing in the snapshot, or is incomplete.
    pub fn unreadable(&self, path: &Path, reason: impl Into<String>) {
        self.lock().stored.unreadable.add(path, reason);
    }

    /// Records that another file system is mounted at this folder. Nothing of it is stored.
    pub fn mounted(&self, path: &Path) {
        self.lock().stored.mounts.add(path, "another file system is mounted there");
    }

    pub fn changed(&self, path: &Path, how: impl Into<String>) {
        self.lock().stored.changed.add(path, how);
    }

    /// Records that a folder changed between its listing and the end of the walk through it.
    pub fn folder_changed(&self, path: &Path, how: impl Into<String>) {
        self.lock().stored.changed_folders.add(path, how);
    }

    /// Records that an entry was deleted before it was read.
    pub fn vanished(&self, path: &Path, is_folder: bool) {
        let stored = &mut self.lock().stored;
        stored.vanished += 1;
        if is_folder {
            stored.vanished_folders.add(path, "it was deleted before it could be read");
        }
    }

    /// Records that the excludes match an entry.
    pub fn excluded(&self) {
        self.lock().stored.left_out += 1;
    }

    /// Records an entry of the storage system `owner`.
    pub fn storage_entry(&self, path: &Path, owner: &str) {
        self.lock().stored.passed_over.add(path, owner);
    }

    pub fn attributes_listed(&self, class: EntryClass) {
        self.lock().attributes[class as usize].listed += 1;
    }

    pub fn attributes_unlisted(&self, path: &Path, class: EntryClass, error: &io::Error) {
        let attributes = &mut self.lock().attributes[class as usize];
        attributes.errors.insert(error.raw_os_error());
        attributes.unlisted.add(path, format!("failed to list its attributes: {error}"));
    }

    pub fn attribute_unreadable(&self, path: &Path, attribute: &str, error: &io::Error) {
        let reason = format!("failed to read its attribute {attribute}: {error}");
        self.lock().stored.without_attributes.add(path, reason);
    }

    /// Takes everything that was collected. The fields about the snapshot are not set yet.
    pub fn take(&self) -> StoredFolder {
        let Collected { mut stored, attributes } = std::mem::take(&mut *self.lock());
        for attributes in attributes {
            match attributes.absence() {
                Some(error) => stored.attributes_refused = Some(io::Error::from(error).to_string()),
                None => stored.without_attributes.extend(attributes.unlisted),
            }
        }
        stored
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats_of(errors: &[Errno], listed: u64) -> StoredFolder {
        let stats = BackupStats::default();
        for _ in 0..listed {
            stats.attributes_listed(EntryClass::File);
        }
        for error in errors {
            stats.attributes_unlisted(Path::new("file"), EntryClass::File, &(*error).into());
        }
        stats.take()
    }

    #[test]
    fn file_system_that_refuses_all_attributes_alike_has_none() {
        for error in NO_ATTRIBUTES {
            let all = stats_of(&[error; 3], 0);
            assert_eq!((all.without_attributes.count, all.attributes_refused.is_some()), (0, true), "{error}");
        }
    }

    #[test]
    fn attributes_of_some_files_that_cannot_be_listed_are_missing() {
        for (errors, listed) in [
            (&[Errno::IO][..], 1),
            (&[Errno::IO, Errno::PERM], 0),
            // E2BIG does not mean that a file system has no attributes. It means that an entry has too many.
            (&[Errno::TOOBIG], 0),
        ] {
            let some = stats_of(errors, listed);
            assert_eq!(some.without_attributes.count, errors.len() as u64, "{errors:?}");
            assert_eq!(some.attributes_refused, None, "{errors:?}");
        }
    }

    #[test]
    fn folders_that_list_their_attributes_prove_nothing_about_files() {
        let stats = BackupStats::default();
        stats.attributes_listed(EntryClass::Folder);
        stats.attributes_unlisted(Path::new("file"), EntryClass::File, &Errno::IO.into());
        assert_eq!(stats.take().without_attributes.count, 0);
    }
}

//! What is worth to be reported of a folder that is stored: entries that could not be read, that changed, that were gone,
//! that were left out.
//!
//! It must not know what the entries are.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

use super::{LISTED, StoredFolder, Trouble, Troubles};
use crate::model::escape_name;

/// What file systems without attributes answer to a request for those of a file, beside "not supported".
const NO_ATTRIBUTES: [Errno; 4] = [Errno::PERM, Errno::INVAL, Errno::IO, Errno::ACCESS];

impl Troubles {
    /// Counts one, and names it while there are few.
    pub(super) fn add(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < LISTED {
            let path =
                if path.as_os_str().is_empty() { ".".into() } else { escape_name(path.as_os_str().as_encoded_bytes()) };
            self.first.push(Trouble { path, reason: reason.into() });
        }
    }

    /// Takes over those of another list.
    pub(super) fn extend(&mut self, others: Self) {
        self.count += others.count;
        let room = LISTED - self.first.len().min(LISTED);
        self.first.extend(others.first.into_iter().take(room));
    }
}

/// Kinds of entries that a file system may treat in different ways.
#[derive(Clone, Copy, Debug)]
pub(super) enum EntryClass {
    Folder,
    File,
    Other,
}

/// The attributes of all entries of a class.
#[derive(Debug, Default)]
struct Attributes {
    /// How many entries answered.
    listed: u64,
    unlisted: Troubles,
    errors: BTreeSet<Option<i32>>,
}

impl Attributes {
    /// What all entries answered alike, if it means that the file system has no attributes: then nothing is lost.
    fn absence(&self) -> Option<Errno> {
        let [Some(error)] = self.errors.iter().copied().collect::<Vec<_>>()[..] else { return None };
        let error = Errno::from_raw_os_error(error);
        (self.listed == 0 && NO_ATTRIBUTES.contains(&error)).then_some(error)
    }
}

#[derive(Debug, Default)]
struct Notes {
    stored: StoredFolder,
    attributes: [Attributes; 3],
}

/// Kept by the walk and by those who read the files, at the same time.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Notes>);

impl Ledger {
    /// Something is missing in the snapshot, or is not all there.
    pub fn unreadable(&self, path: &Path, reason: impl Into<String>) {
        self.notes().stored.unreadable.add(path, reason);
    }

    /// Another file system is mounted at this folder, and nothing of it is stored.
    pub fn mounted(&self, path: &Path) {
        self.notes().stored.mounts.add(path, "another file system is mounted there");
    }

    /// A file changed while it was read.
    pub fn changed(&self, path: &Path, how: impl Into<String>) {
        self.notes().stored.changed.add(path, how);
    }

    /// An entry was gone when its turn came.
    pub fn vanished(&self, path: &Path, is_folder: bool) {
        let stored = &mut self.notes().stored;
        stored.vanished += 1;
        if is_folder {
            stored.vanished_folders.add(path, "it was gone when its turn came");
        }
    }

    /// An entry is not wanted.
    pub fn left_out(&self) {
        self.notes().stored.left_out += 1;
    }

    /// An entry belongs to the storage system.
    pub fn passed_over(&self, path: &Path, whose: &str) {
        self.notes().stored.passed_over.add(path, whose);
    }

    /// The attributes of an entry were listed.
    pub fn attributes_listed(&self, class: EntryClass) {
        self.notes().attributes[class as usize].listed += 1;
    }

    /// The attributes of an entry could not be listed.
    pub fn attributes_unlisted(&self, path: &Path, class: EntryClass, error: &io::Error) {
        let attributes = &mut self.notes().attributes[class as usize];
        attributes.errors.insert(error.raw_os_error());
        attributes.unlisted.add(path, format!("failed to list its attributes: {error}"));
    }

    /// One attribute of an entry could not be read.
    pub fn attribute_unreadable(&self, path: &Path, attribute: &str, error: &io::Error) {
        let reason = format!("failed to read its attribute {attribute}: {error}");
        self.notes().stored.without_attributes.add(path, reason);
    }

    /// All that was noted, beside a snapshot that is not there yet.
    pub fn take(&self) -> StoredFolder {
        let Notes { mut stored, attributes } = std::mem::take(&mut *self.notes());
        for attributes in attributes {
            match attributes.absence() {
                Some(error) => stored.attributes_refused = Some(io::Error::from(error).to_string()),
                None => stored.without_attributes.extend(attributes.unlisted),
            }
        }
        stored
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(errors: &[Errno], listed: u64) -> StoredFolder {
        let ledger = Ledger::default();
        for _ in 0..listed {
            ledger.attributes_listed(EntryClass::File);
        }
        for error in errors {
            ledger.attributes_unlisted(Path::new("file"), EntryClass::File, &(*error).into());
        }
        ledger.take()
    }

    #[test]
    fn file_system_that_refuses_all_attributes_alike_has_none() {
        for error in NO_ATTRIBUTES {
            let all = noted(&[error; 3], 0);
            assert_eq!((all.without_attributes.count, all.attributes_refused.is_some()), (0, true), "{error}");
        }
    }

    #[test]
    fn attributes_of_some_files_that_cannot_be_listed_are_missing() {
        for (errors, listed) in [
            (&[Errno::IO][..], 1),
            (&[Errno::IO, Errno::PERM], 0),
            // Not an answer of a file system without attributes: there are too many of them.
            (&[Errno::TOOBIG], 0),
        ] {
            let some = noted(errors, listed);
            assert_eq!(some.without_attributes.count, errors.len() as u64, "{errors:?}");
            assert_eq!(some.attributes_refused, None, "{errors:?}");
        }
    }

    #[test]
    fn folders_that_list_their_attributes_prove_nothing_about_files() {
        let ledger = Ledger::default();
        ledger.attributes_listed(EntryClass::Folder);
        ledger.attributes_unlisted(Path::new("file"), EntryClass::File, &Errno::IO.into());
        assert_eq!(ledger.take().without_attributes.count, 0);
    }
}

//! Removes the partial files that killed writers have left in a repository's folders. The caller must hold a lock that
//! excludes all other writers.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{super::partial::final_name, Folder};

/// The age below which a partial file of a lock or a key may belong to a running client. A client that takes a lock or
/// adds a key writes before it knows of other locks, and fails if its partial file is removed. The write takes seconds.
/// The rest of the age allows for clocks that differ, because on a network file system another machine sets the time of
/// a file.
const MIN_AGE: Duration = Duration::from_hours(6);
const HASH_DIGITS: usize = 64;

/// The files that were removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in super::super) struct Leftovers {
    pub files: u64,
    pub bytes: u64,
}

impl Folder {
    /// Removes partial files. Files with other names are kept, including restic's own temporary files. A file that
    /// cannot be removed only occupies space.
    pub fn remove_leftovers(&self) -> io::Result<Leftovers> {
        let mut removed = Leftovers::default();
        for folder in ["index", "snapshots"] {
            remove_from(&self.root.join(folder), Duration::ZERO, is_hash, &mut removed)?;
        }
        for folder in ["locks", "keys"] {
            remove_from(&self.root.join(folder), MIN_AGE, is_hash, &mut removed)?;
        }
        remove_from(&self.root, MIN_AGE, |name| name == "config", &mut removed)?;
        for number in 0..=u8::MAX {
            remove_from(&self.root.join(format!("data/{number:02x}")), Duration::ZERO, is_hash, &mut removed)?;
        }
        Ok(removed)
    }
}

fn is_hash(name: &str) -> bool {
    name.len() == HASH_DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes the partial files of one folder which have at least this age and whose final name matches `is_name`.
fn remove_from(folder: &Path, age: Duration, is_name: fn(&str) -> bool, removed: &mut Leftovers) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().and_then(final_name).is_some_and(is_name) {
            continue;
        }
        // The metadata of the entry itself: a symbolic link is not a partial file.
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let is_old = || {
            let written = metadata.modified().ok();
            written.and_then(|written| SystemTime::now().duration_since(written).ok()).is_some_and(|old| old >= age)
        };
        if !metadata.is_file() || !(age.is_zero() || is_old()) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => {
                removed.files += 1;
                removed.bytes += metadata.len();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("{}, which a killed writer left, cannot be removed: {error}", entry.path().display());
            }
        }
    }
    Ok(())
}

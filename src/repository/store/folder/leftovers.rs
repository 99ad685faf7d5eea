//! What killed writers have left in a repository's folders: files that never got their names.
//!
//! It must not know what is locked: whoever calls it holds a lock that keeps all other writers off.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{super::upload::whole_of, Folder};

/// Who takes a lock, or adds a key, writes before he knows of ours, and would fail if his file were gone. He needs seconds;
/// the rest is for clocks that differ, since on a network file system another machine says when a file was written.
const MAY_BE_ALIVE: Duration = Duration::from_hours(6);
const HASH_DIGITS: usize = 64;

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in super::super) struct Leftovers {
    pub files: u64,
    pub bytes: u64,
}

impl Folder {
    /// Removes them. Names of any other form stay, whoever made them: those of restic's own temporary files, too. One that
    /// cannot be removed only takes room.
    pub fn remove_leftovers(&self) -> io::Result<Leftovers> {
        let mut removed = Leftovers::default();
        for folder in ["index", "snapshots"] {
            sweep(&self.root.join(folder), Duration::ZERO, is_hash, &mut removed)?;
        }
        for folder in ["locks", "keys"] {
            sweep(&self.root.join(folder), MAY_BE_ALIVE, is_hash, &mut removed)?;
        }
        sweep(&self.root, MAY_BE_ALIVE, |name| name == "config", &mut removed)?;
        for number in 0..=u8::MAX {
            sweep(&self.root.join(format!("data/{number:02x}")), Duration::ZERO, is_hash, &mut removed)?;
        }
        Ok(removed)
    }
}

fn is_hash(name: &str) -> bool {
    name.len() == HASH_DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes those of one folder that were written so long ago, and would have got such a name.
fn sweep(folder: &Path, age: Duration, is_ours: fn(&str) -> bool, removed: &mut Leftovers) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().and_then(whole_of).is_some_and(is_ours) {
            continue;
        }
        // Of the entry itself: a link is none of ours.
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

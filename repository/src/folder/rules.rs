//! The options for storing a folder.

use jiff::{SignedDuration, Timestamp};

use stowaway_model::Excludes;

/// The default of [`FolderRules::settle`].
const SETTLE: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Debug)]
pub struct FolderRules {
    /// The snapshot's time.
    pub time: Timestamp,
    /// The patterns of the entries which are not stored.
    pub excludes: Excludes,
    /// Accept a folder which is empty, or much smaller than the last good snapshot of its source.
    pub accept_shrunken: bool,
    /// A file whose ctime is younger than this is read again by the next run, because the file could have changed once
    /// more without a new ctime: the clock of a file server may be late, and writes to a memory-mapped file within
    /// about half a minute update the ctime only once.
    pub settle: SignedDuration,
}

impl FolderRules {
    /// Rules which store the whole folder.
    pub fn whole(time: Timestamp) -> Self {
        Self { time, excludes: Excludes::default(), accept_shrunken: false, settle: SETTLE }
    }
}

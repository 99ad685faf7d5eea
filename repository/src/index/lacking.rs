//! What a run finds missing or unusable in a repository, and the next step.

use crate::{format::Id, store::Kind};

/// The next step if data is in no index file.
pub(crate) const LOST_INDEX: &str = "if index files were lost, `restic repair index` writes them again from the packs; \
                                     `stowaway check` lists the damaged snapshots";

/// Files that are missing from a repository, or cannot be used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lacking {
    /// Packs that are missing, or have another length than follows from their index files.
    pub packs: u64,
    /// Index files that cannot be read.
    pub index_files: u64,
    /// The path of the first of these files.
    pub first: String,
    /// Packs whose content is damaged.
    pub damaged: u64,
    /// The path of the first of these packs.
    pub first_damaged: String,
    /// Snapshots whose root tree is in no index file, or only in packs that are missing.
    pub snapshots: u64,
    /// The path of the first of these snapshots.
    pub first_snapshot: String,
}

impl Lacking {
    /// Whether nothing is missing.
    pub fn is_nothing(&self) -> bool {
        self.packs == 0 && self.index_files == 0 && self.damaged == 0 && self.snapshots == 0
    }

    /// Returns the end of a sentence which reports a missing blob. It states which files are missing, or the next step
    /// if no known file is.
    pub(crate) fn as_cause(&self) -> String {
        let count = self.packs + self.index_files + self.damaged;
        if count == 0 {
            return format!("; {LOST_INDEX}");
        }
        let first = if self.first.is_empty() { &self.first_damaged } else { &self.first };
        format!("; {count} packs or index files are missing, truncated, damaged or unreadable, such as {first}")
    }

    pub(super) fn add_index_file(&mut self, path: String) {
        self.index_files += 1;
        self.set_first(path);
    }

    pub(super) fn add_pack(&mut self, id: &Id) {
        self.packs += 1;
        self.set_first(Kind::Pack.path(id));
    }

    pub(super) fn add_snapshot(&mut self, id: &Id) {
        self.snapshots += 1;
        if self.first_snapshot.is_empty() {
            self.first_snapshot = Kind::Snapshot.path(id);
        }
    }

    fn set_first(&mut self, path: String) {
        if self.first.is_empty() {
            self.first = path;
        }
    }
}

impl std::fmt::Display for Lacking {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = [self.unlisted_text(), self.missing_text(), self.damaged_text()];
        formatter.write_str(&texts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

impl Lacking {
    fn unlisted_text(&self) -> Option<String> {
        let Self { snapshots, first_snapshot, .. } = self;
        let are = if *snapshots == 1 { "snapshot cannot" } else { "snapshots cannot" };
        (*snapshots > 0).then(|| {
            format!(
                "{snapshots} earlier {are} be restored, such as {first_snapshot}, because no index file lists their \
                 data or its packs are missing: {LOST_INDEX}"
            )
        })
    }

    fn missing_text(&self) -> Option<String> {
        (self.packs + self.index_files > 0).then(|| {
            format!(
                "{} packs of the repository are missing or do not have the length that the index specifies, and {} of \
                 its index files cannot be read, such as {}; this run stored the data that it needs of them again, but \
                 older snapshots may have lost data: run `stowaway check`, which lists the damaged snapshots",
                self.packs, self.index_files, self.first
            )
        })
    }

    fn damaged_text(&self) -> Option<String> {
        (self.damaged > 0).then(|| {
            format!(
                "the repository is not healthy: {} of its packs are damaged, such as {}; this run stored the data that \
                 it needs of them again, but older snapshots may have lost data: run `stowaway check --read-data`, \
                 which lists the damaged packs and snapshots, and repair the repository with `restic repair packs` and \
                 `restic repair snapshots`",
                self.damaged, self.first_damaged
            )
        })
    }
}

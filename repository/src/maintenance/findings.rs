//! The findings of a check. All are counted, and the first ones are kept.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::format::{BlobKind, Id};

const MAX_KEPT: usize = 100;

/// Something in the repository which is missing or damaged. Ids have 64 hex digits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "finding", rename_all = "camelCase")]
pub enum Finding {
    /// A snapshot, index or key file which is missing, or whose content does not match its name.
    #[error("{file} cannot be read: {why}")]
    Unreadable {
        /// The file's path in the repository.
        file: String,
        why: String,
    },
    /// A pack which an index lists, but the store does not have.
    #[error("pack {pack} is missing")]
    MissingPack { pack: String },
    /// A pack whose length does not match its index, or whose index contradicts itself.
    #[error("pack {pack} has {found} bytes, but its index describes another length")]
    PackSize { pack: String, found: u64 },
    /// A pack whose bytes are not those which were written.
    #[error("pack {pack} is damaged: {why}")]
    DamagedPack {
        pack: String,
        /// The first problem in the pack.
        why: String,
    },
    /// A blob which a snapshot needs, and which is in no index or of which the store has no copy.
    #[error("{what} {id} is missing, but a snapshot needs it")]
    Missing {
        /// The kind of blob: `data` or `tree`.
        what: String,
        id: String,
    },
    /// A tree which is in the store, but cannot be read.
    #[error("tree {id} cannot be read: {why}")]
    DamagedTree { id: String, why: String },
}

impl Finding {
    pub(super) fn missing(kind: BlobKind, id: Id) -> Self {
        let what = match kind {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        };
        Self::Missing { what: what.to_owned(), id: hex_id(id) }
    }
}

/// An id, 64 hex digits.
pub(super) fn hex_id(id: Id) -> String {
    id.to_hex()
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// How many findings there are.
    pub count: u64,
    pub first: Vec<Finding>,
    /// The packs of which a blob is damaged, also if another pack has the blob, so that nothing is lost.
    #[serde(skip)]
    pub damaged_packs: BTreeSet<Id>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.first.len() < MAX_KEPT {
            self.first.push(finding);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a blob that a snapshot needs is one of the kept findings.
    pub(super) fn has_missing(&self) -> bool {
        self.first.iter().any(|finding| matches!(finding, Finding::Missing { .. }))
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, finding) in self.first.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(formatter, "{separator}{finding}")?;
        }
        let more = self.count - self.first.len() as u64;
        if more > 0 { write!(formatter, "; and {more} more") } else { Ok(()) }
    }
}

//! What a check finds wrong: typed, each told for people, all counted and the first ones kept.
//!
//! It must not know how it was found.

use std::fmt;

use jiff::Timestamp;
use rustic_core::Id;
use serde::{Deserialize, Serialize};

use super::snapshots::Known;
use crate::{model::SnapshotIdentity, repository::pack::BlobKind};

/// How many are kept; all are counted.
const KEPT: usize = 100;

/// Something that is not as it was written. Ids have 64 hex digits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "finding", rename_all = "camelCase")]
pub enum Finding {
    /// A snapshot, index or key file that is missing, or is not what its name says.
    #[error("{file} cannot be read: {why}")]
    Unreadable {
        /// Its path in the repository.
        file: String,
        /// Why.
        why: String,
    },
    /// A pack that an index names and the store does not have.
    #[error("pack {pack} is missing")]
    MissingPack {
        /// Its id.
        pack: String,
    },
    /// A pack that is longer or shorter than its index says, or whose index contradicts itself.
    #[error("pack {pack} has {found} bytes, its index is of another length")]
    PackSize {
        /// Its id.
        pack: String,
        /// Bytes in the store.
        found: u64,
    },
    /// A pack whose bytes are not those that were written.
    #[error("pack {pack} is damaged: {why}")]
    DamagedPack {
        /// Its id.
        pack: String,
        /// What is wrong first.
        why: String,
    },
    /// A part of a snapshot that no index knows, or of which no copy is in the store.
    #[error("{what} {id} is missing, a snapshot needs it")]
    Missing {
        /// `data` or `tree`.
        what: String,
        /// Its id.
        id: String,
    },
    /// A tree that is there, and cannot be read.
    #[error("tree {id} cannot be read: {why}")]
    DamagedTree {
        /// Its id.
        id: String,
        /// Why.
        why: String,
    },
}

impl Finding {
    pub(super) fn missing(kind: BlobKind, id: Id) -> Self {
        let what = match kind {
            BlobKind::Data => "data",
            BlobKind::Tree => "tree",
        };
        Self::Missing { what: what.to_owned(), id: text(id) }
    }
}

/// An id, 64 hex digits.
pub(super) fn text(id: Id) -> String {
    id.to_hex().as_str().to_owned()
}

/// What was found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// How many.
    pub count: u64,
    /// The first 100.
    pub first: Vec<Finding>,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.first.len() < KEPT {
            self.first.push(finding);
        }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.count == 0
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

/// A snapshot that cannot be restored as a whole.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HarmedSnapshot {
    /// Its id, 64 hex digits.
    pub id: String,
    /// When it was made.
    pub time: Timestamp,
    /// Its source, where its tags name one.
    pub source: Option<String>,
    /// restic's host.
    pub host: String,
    /// Its first path.
    pub path: String,
}

impl HarmedSnapshot {
    pub(super) fn of(known: &Known) -> Self {
        let (summary, identity) = (&known.summary, &known.summary.identity);
        Self {
            id: summary.id.clone(),
            time: summary.time,
            source: identity.tag(SnapshotIdentity::SOURCE).map(str::to_owned),
            host: identity.host.clone(),
            path: identity.path.clone(),
        }
    }
}

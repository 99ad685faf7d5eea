//! The snapshots that the findings of a check concern.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::snapshots::SnapshotRoot;
use stowaway_model::SnapshotIdentity;

/// A snapshot which cannot be restored completely.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HarmedSnapshot {
    /// Its id, 64 hex digits.
    pub id: String,
    pub time: Timestamp,
    /// Its source, if its tags name one.
    pub source: Option<String>,
    /// The host, as restic shows it.
    pub host: String,
    pub path: String,
}

impl HarmedSnapshot {
    pub(super) fn of(root: &SnapshotRoot) -> Self {
        let (summary, identity) = (&root.summary, &root.summary.identity);
        Self {
            id: summary.id.clone(),
            time: summary.time,
            source: identity.tag(SnapshotIdentity::SOURCE).map(str::to_owned),
            host: identity.host.clone(),
            path: identity.path.clone(),
        }
    }
}

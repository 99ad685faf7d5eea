//! What snapshots there are, and which one an id means. Which one is the newest good one is decided by
//! [`latest_restorable`](crate::model::latest_restorable).

use jiff::Timestamp;
use rustic_core::repofile::SnapshotFile;
use serde::{Deserialize, Serialize};

use super::RepositoryError;
use crate::model::{SnapshotIdentity, SnapshotRecord};

/// The shortest part of an id that names a snapshot, as in restic's own short ids.
const SHORTEST_PREFIX: usize = 8;

/// One snapshot, of ours or of any other writer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSummary {
    /// 64 hex digits.
    pub id: String,
    /// When it was made.
    pub time: Timestamp,
    /// Host, path and tags; of several paths the first.
    pub identity: SnapshotIdentity,
    /// All its paths.
    pub paths: Vec<String>,
    /// Bytes of all its files; older restic does not say.
    pub bytes: Option<u64>,
}

impl SnapshotSummary {
    /// Whether it was stored without proof that it is whole.
    pub fn is_unproven(&self) -> bool {
        self.identity.tags.iter().any(|tag| tag == SnapshotIdentity::UNPROVEN)
    }

    /// Whether something of it could not be read when it was stored.
    pub fn is_incomplete(&self) -> bool {
        self.identity.tags.iter().any(|tag| tag == SnapshotIdentity::INCOMPLETE)
    }

    /// Whether it is of a volume that was empty, or had lost most of its content.
    pub fn is_suspect(&self) -> bool {
        self.identity.has_tag(SnapshotIdentity::SUSPECT)
    }

    /// What is known of it without its content.
    pub fn record(&self) -> SnapshotRecord<'_> {
        let Self { id, time, identity, paths, bytes } = self;
        SnapshotRecord { id, time: *time, identity, paths, bytes: *bytes }
    }

    pub(super) fn of(snapshot: &SnapshotFile) -> Self {
        let paths: Vec<String> = snapshot.paths.iter().cloned().collect();
        Self {
            id: snapshot.id.to_hex().as_str().to_owned(),
            time: snapshot.time.timestamp(),
            identity: SnapshotIdentity {
                host: snapshot.hostname.clone(),
                path: paths.first().cloned().unwrap_or_default(),
                tags: snapshot.tags.iter().cloned().collect(),
            },
            paths,
            bytes: snapshot.summary.as_ref().map(|summary| summary.total_bytes_processed),
        }
    }
}

/// What an earlier attempt of the same run committed; `run` is the value of the tag [`SnapshotIdentity::RUN`].
pub fn by_run<'a>(snapshots: &'a [SnapshotSummary], run: &str) -> Option<&'a SnapshotSummary> {
    snapshots.iter().find(|snapshot| snapshot.identity.tag(SnapshotIdentity::RUN) == Some(run))
}

/// The one snapshot whose id begins so. Errors: shorter than 8 hex digits, none, several.
pub fn by_id<'a>(
    snapshots: &'a [SnapshotSummary],
    prefix: &str,
    place: &str,
) -> Result<&'a SnapshotSummary, RepositoryError> {
    let wanted = prefix.to_ascii_lowercase();
    if wanted.len() < SHORTEST_PREFIX || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let text = format!("{prefix:?} is no snapshot id: give at least {SHORTEST_PREFIX} hex digits of it");
        return Err(RepositoryError::InvalidRequest(text));
    }
    let mut found = snapshots.iter().filter(|snapshot| snapshot.id.starts_with(&wanted));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(RepositoryError::InvalidRequest(format!("several snapshots begin with {prefix}: give more digits")))
        }
        (None, _) => Err(RepositoryError::SnapshotNotFound { place: place.to_owned(), wanted: prefix.to_owned() }),
    }
}

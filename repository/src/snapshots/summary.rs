//! Summaries of snapshots, and finding a snapshot by an id or by its run. The choice of the newest restorable snapshot
//! is made by [`latest_restorable`](stowaway_model::latest_restorable).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{RepositoryError, format::SnapshotFile};
use stowaway_model::{SnapshotIdentity, SnapshotRecord};

/// The shortest accepted prefix of a snapshot's id: the length of restic's short ids.
const SHORTEST_PREFIX: usize = 8;
/// How many of the snapshots that an id matches are named; all are counted.
const NAMED: usize = 4;

/// A snapshot, of Stowaway or of any other client.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSummary {
    /// 64 hex digits.
    pub id: String,
    pub time: Timestamp,
    /// Host, path and tags. If the snapshot has several paths, this is the first.
    pub identity: SnapshotIdentity,
    pub paths: Vec<String>,
    /// Bytes of all files; older versions of restic do not store it.
    pub bytes: Option<u64>,
}

impl SnapshotSummary {
    /// Whether it was stored without proof that it is complete, and no user has accepted that.
    pub fn is_unproven(&self) -> bool {
        self.identity.tags.iter().any(|tag| tag == SnapshotIdentity::UNPROVEN)
    }

    /// Whether a part of the source could not be read when the snapshot was stored.
    pub fn is_incomplete(&self) -> bool {
        self.identity.tags.iter().any(|tag| tag == SnapshotIdentity::INCOMPLETE)
    }

    /// Whether its volume was empty or had lost most of its content, or a Restore into its command had failed.
    pub fn is_suspect(&self) -> bool {
        self.identity.has_tag(SnapshotIdentity::SUSPECT)
    }

    /// Returns the snapshot's metadata in the form that [`stowaway_model`] uses.
    pub fn record(&self) -> SnapshotRecord<'_> {
        let Self { id, time, identity, paths, bytes } = self;
        SnapshotRecord { id, time: *time, identity, paths, bytes: *bytes }
    }

    pub(crate) fn of(snapshot: &SnapshotFile) -> Self {
        let paths: Vec<String> = snapshot.paths.iter().cloned().collect();
        Self {
            id: snapshot.id.to_hex(),
            time: snapshot.time,
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

/// Returns the snapshot that an earlier attempt of the same run committed. `run` is the value of the tag
/// [`SnapshotIdentity::RUN`].
pub fn by_run<'a>(snapshots: &'a [SnapshotSummary], run: &str) -> Option<&'a SnapshotSummary> {
    snapshots.iter().find(|snapshot| snapshot.identity.tag(SnapshotIdentity::RUN) == Some(run))
}

/// Returns the only snapshot whose id begins with `prefix`. Errors: the prefix has fewer than 8 hex digits, or matches
/// no or several snapshots.
pub fn by_id<'a>(
    snapshots: &'a [SnapshotSummary],
    prefix: &str,
    location: &str,
) -> Result<&'a SnapshotSummary, RepositoryError> {
    let wanted = prefix.to_ascii_lowercase();
    if wanted.len() < SHORTEST_PREFIX || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        let text = format!("{prefix:?} is not a snapshot id: give at least {SHORTEST_PREFIX} hex digits");
        return Err(RepositoryError::InvalidRequest(text));
    }
    let found: Vec<&SnapshotSummary> = snapshots.iter().filter(|snapshot| snapshot.id.starts_with(&wanted)).collect();
    match found[..] {
        [one] => Ok(one),
        [] => Err(RepositoryError::SnapshotNotFound { location: location.to_owned(), wanted: prefix.to_owned() }),
        _ => Err(RepositoryError::InvalidRequest(ambiguous(prefix, &found))),
    }
}

/// The message about an id that several snapshots begin with.
pub fn ambiguous(prefix: &str, found: &[&SnapshotSummary]) -> String {
    let named: Vec<String> = found
        .iter()
        .take(NAMED)
        .map(|snapshot| {
            let source = snapshot.identity.tag(SnapshotIdentity::SOURCE).unwrap_or(&snapshot.identity.path);
            format!("{} ({source}, {:.0})", &snapshot.id[..snapshot.id.floor_char_boundary(16)], snapshot.time)
        })
        .collect();
    let more = found.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the ids of {} snapshots begin with {prefix}: {}{more}; give more digits", found.len(), named.join(", "))
}

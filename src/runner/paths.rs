//! Decides which path a source's snapshots have, from the history in the repository, so that the path never changes
//! back and forth. Pure.

use crate::{
    model::{SnapshotIdentity, SourceName},
    repository::SnapshotSummary,
};

/// The path for the next snapshot of `source`.
///
/// 1. The path of the source's own newest snapshot, if it is one of the two candidates.
/// 2. `alternative`, if the candidate in `identity` belongs to another source's history. A path whose snapshots have no
///    source tag (K8up's) belongs to the first source which uses it.
/// 3. The candidate in `identity`.
pub fn settle(
    history: &[SnapshotSummary],
    source: &SourceName,
    identity: &SnapshotIdentity,
    alternative: &str,
) -> String {
    let owner = |snapshot: &SnapshotSummary| snapshot.identity.tag(SnapshotIdentity::SOURCE).map(str::to_owned);
    let of_host = || history.iter().filter(|snapshot| snapshot.identity.host == identity.host);
    let own = of_host()
        .filter(|snapshot| owner(snapshot).as_deref() == Some(source.as_str()))
        .max_by_key(|snapshot| snapshot.time);
    if let Some(own) = own
        && [identity.path.as_str(), alternative].contains(&own.identity.path.as_str())
    {
        return own.identity.path.clone();
    }
    let taken = of_host().any(|snapshot| snapshot.identity.path == identity.path && owner(snapshot).is_some());
    if taken { alternative.to_owned() } else { identity.path.clone() }
}

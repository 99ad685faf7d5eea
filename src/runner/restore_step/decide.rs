//! What is to be done about a volume, and from which snapshot: decided from what is in it and in the repository.
//!
//! Pure; it must not look into a volume or a repository itself. What is half done is never taken for the app's data, and
//! the app's data is never touched.

use crate::{
    model::{Failure, Reason, SnapshotIdentity, SourceName},
    repository::{SnapshotSummary, newest_of},
};

/// What is in a volume.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// Something that is neither ours nor the file system's own.
    pub data: bool,
    /// Something of ours that proves nothing: a folder that was restored into, a file that was locked.
    pub leftover: bool,
    /// The mark that all is in that folder, and durable.
    pub whole: bool,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// The app's data is there, and nothing of ours.
    Leave,
    /// The app's data is there; only what is left of an attempt is removed.
    Clear,
    /// It is empty but for what is left of an attempt: restore from the beginning.
    Restore,
    /// All was restored, and not all of it moved to its place.
    Move,
}

/// Decides by what is there.
pub fn decide(observed: Observed) -> Action {
    match observed {
        Observed { whole: true, .. } => Action::Move,
        Observed { data: false, .. } => Action::Restore,
        Observed { leftover: false, .. } => Action::Leave,
        Observed { leftover: true, .. } => Action::Clear,
    }
}

/// The newest snapshot of a volume that is complete and proven; without one of ours, the newest that K8up made of it (host
/// and path by its convention, no tag of a source). None if there never was any.
///
/// Errors: there are snapshots, and none is good. An empty start would hide that there is something to be rescued.
pub fn choose<'a>(
    snapshots: &'a [SnapshotSummary],
    source: &SourceName,
    namespace: &str,
) -> Result<Option<&'a SnapshotSummary>, Failure> {
    let own: Vec<SnapshotSummary> = of_source(snapshots, source, namespace).cloned().collect();
    if let Some(newest) = newest_of(&own, source) {
        return Ok(snapshots.iter().find(|snapshot| snapshot.id == newest.id));
    }
    let path = source.as_str().strip_prefix("pvc/").map(|claim| format!("/data/{claim}"));
    let of_k8up = snapshots
        .iter()
        .filter(|snapshot| snapshot.identity.host == namespace && Some(&snapshot.identity.path) == path.as_ref())
        .filter(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE).is_none())
        .max_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
    match (of_k8up, own.iter().max_by_key(|snapshot| snapshot.time)) {
        (Some(found), _) => Ok(Some(found)),
        (None, None) => Ok(None),
        (None, Some(newest)) => Err(Failure::new(
            Reason::SnapshotNotFound,
            format!(
                "the repository has snapshots of {source}, but none that is complete and proven; the newest is {} of {}: \
                 restore what is in it by hand, or take the restore annotation away to start empty",
                newest.id.get(..8).unwrap_or(&newest.id),
                newest.time
            ),
        )),
    }
}

fn of_source<'a>(
    snapshots: &'a [SnapshotSummary],
    source: &'a SourceName,
    namespace: &'a str,
) -> impl Iterator<Item = &'a SnapshotSummary> {
    snapshots.iter().filter(move |snapshot| {
        snapshot.identity.host == namespace && snapshot.identity.tag(SnapshotIdentity::SOURCE) == Some(source.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_action() {
        let states =
            (0..8).map(|bits: u8| Observed { data: bits & 1 != 0, leftover: bits & 2 != 0, whole: bits & 4 != 0 });
        for state in states {
            let action = decide(state);
            // What is whole is finished, whatever else is there; without that mark nothing half is the app's.
            assert_eq!(action == Action::Move, state.whole, "{state:?}");
            if !state.whole {
                assert_eq!(action == Action::Restore, !state.data, "{state:?}");
                assert_eq!(action == Action::Leave, state.data && !state.leftover, "{state:?}");
            }
        }
    }

    fn snapshot(id: &str, time: &str, host: &str, path: &str, tags: &[&str]) -> SnapshotSummary {
        SnapshotSummary {
            id: format!("{id:0<64}"),
            time: time.parse().unwrap(),
            identity: SnapshotIdentity {
                host: host.into(),
                path: path.into(),
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            },
            paths: vec![path.into()],
            bytes: None,
        }
    }

    fn chosen(snapshots: &[SnapshotSummary]) -> Result<Option<String>, Reason> {
        let found = choose(snapshots, &"pvc/claim".parse().unwrap(), "shop");
        found.map(|found| found.map(|found| found.id[..2].to_owned())).map_err(|failure| failure.reason)
    }

    const OURS: &str = "source=pvc/claim";

    #[test]
    fn newest_good_snapshot_of_the_namespace_is_chosen() {
        let all = [
            snapshot("aa", "2026-01-01T00:00:00Z", "shop", "/data/claim", &[OURS]),
            snapshot("bb", "2026-01-02T00:00:00Z", "shop", "/data/claim", &[OURS]),
            snapshot("cc", "2026-01-03T00:00:00Z", "shop", "/data/claim", &[OURS, "incomplete"]),
            snapshot("dd", "2026-01-04T00:00:00Z", "shop", "/data/claim", &[OURS, "unproven"]),
            snapshot("ee", "2026-01-05T00:00:00Z", "other", "/data/claim", &[OURS]),
            snapshot("ff", "2026-01-06T00:00:00Z", "shop", "/data/other", &["source=pvc/other"]),
            snapshot("00", "2026-01-07T00:00:00Z", "shop", "/data/claim", &[]),
        ];
        assert_eq!(chosen(&all), Ok(Some("bb".into())));
    }

    #[test]
    fn snapshot_of_k8up_will_do_where_there_is_none_of_ours() {
        let all = [
            snapshot("aa", "2026-01-01T00:00:00Z", "shop", "/data/claim", &[]),
            snapshot("bb", "2026-01-02T00:00:00Z", "other", "/data/claim", &[]),
            snapshot("cc", "2026-01-03T00:00:00Z", "shop", "/data/claims", &[]),
        ];
        assert_eq!(chosen(&all), Ok(Some("aa".into())));
    }

    #[test]
    fn nothing_is_chosen_where_nothing_was_stored() {
        assert_eq!(chosen(&[]), Ok(None));
        let other = [snapshot("aa", "2026-01-01T00:00:00Z", "shop", "/data/other", &["source=pvc/other"])];
        assert_eq!(chosen(&other), Ok(None));
    }

    #[test]
    fn snapshots_none_of_which_is_good_are_no_reason_to_start_empty() {
        let all = [snapshot("aa", "2026-01-01T00:00:00Z", "shop", "/data/claim", &[OURS, "incomplete"])];
        assert_eq!(chosen(&all), Err(Reason::SnapshotNotFound));
    }
}

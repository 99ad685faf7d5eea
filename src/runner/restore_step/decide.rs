//! What is to be done about a volume, and from which snapshot: decided from what is in it and in the repository.
//!
//! Pure; it must not look into a volume or a repository itself. What is half done is never taken for the app's data, and
//! the app's data is never touched.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::Timestamp;

use crate::model::{
    Failure, NotRestorable, Reason, Restorable, SnapshotQuery, SnapshotRecord, SourceName, latest_restorable,
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

/// The snapshot that a volume is filled from, by the one rule of [`latest_restorable`]. None if there never was any.
///
/// Errors: there are snapshots, and none is good. An empty start would hide that there is something to be rescued.
pub fn choose<'a>(
    snapshots: &[SnapshotRecord<'a>],
    source: &SourceName,
    namespace: &str,
    (cluster, now): (&str, Timestamp),
) -> Result<Option<Restorable<'a>>, Failure> {
    let query = SnapshotQuery { source, host: Some(namespace), as_of: None, cluster, now };
    match latest_restorable(snapshots, &query) {
        Ok(found) => Ok(Some(found)),
        Err(NotRestorable::NoSnapshot) => Ok(None),
        Err(none) => Err(Failure::new(
            Reason::SnapshotNotFound,
            format!(
                "the repository has snapshots of {source}, but {none}: restore what is in it by hand, or take the restore \
                 annotation away to start empty"
            ),
        )),
    }
}

/// How many other namespaces are named; all are counted.
const NAMED_NAMESPACES: usize = 5;

/// What a person has to know when there is no snapshot of a source of this namespace: other namespaces of the repository have
/// snapshots of a source of that name. Nothing if none has.
///
/// They are never taken without a request. Namespaces that share a repository (a test system beside the real one) have
/// sources of the same names, and one must not start on the data of another one.
pub fn note_of_other_namespaces(
    snapshots: &[SnapshotRecord<'_>],
    source: &SourceName,
    namespace: &str,
    (cluster, now): (&str, Timestamp),
) -> Option<String> {
    let hosts: BTreeSet<&str> = snapshots.iter().map(|snapshot| snapshot.identity.host.as_str()).collect();
    let newest_of = |host| {
        let query = SnapshotQuery { source, host: Some(host), as_of: None, cluster, now };
        Some((latest_restorable(snapshots, &query).ok()?.snapshot.time, host))
    };
    let mut found: Vec<(Timestamp, &str)> =
        hosts.into_iter().filter(|host| *host != namespace).filter_map(newest_of).collect();
    found.sort_by_key(|(time, host)| (Reverse(*time), *host));
    let (_, newest) = found.first()?;
    let named: Vec<String> =
        found.iter().take(NAMED_NAMESPACES).map(|(time, host)| format!("{host} (newest of {time:.0})")).collect();
    let more = match found.len().saturating_sub(NAMED_NAMESPACES) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let claim = source.as_str().rsplit('/').next().unwrap_or_default();
    Some(format!(
        "the repository has snapshots of {source} of other namespaces, none of which is restored without a request: {}{more}; \
         if this namespace was one of them under another name, scale the workload to 0, and run `stowaway restore -n \
         {namespace} --source {source} --host {newest} --claim {claim} --overwrite`",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SnapshotIdentity;

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

    fn chosen(tags: &[&[&str]]) -> Result<Option<String>, Failure> {
        let identities: Vec<_> = tags
            .iter()
            .map(|tags| SnapshotIdentity {
                host: "shop".into(),
                path: "/data/claim".into(),
                tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            })
            .collect();
        let ids: Vec<String> = (0..identities.len()).map(|index| format!("{index:064}")).collect();
        let records: Vec<_> = identities
            .iter()
            .zip(&ids)
            .map(|(identity, id)| SnapshotRecord {
                id,
                time: "2026-01-01T00:00:00Z".parse().unwrap(),
                identity,
                paths: &[],
                bytes: None,
            })
            .collect();
        let here = ("here", "2026-06-01T00:00:00Z".parse().unwrap());
        let found = choose(&records, &"pvc/claim".parse().unwrap(), "shop", here)?;
        Ok(found.map(|found| found.snapshot.id.to_owned()))
    }

    const OURS: &str = "source=pvc/claim";

    #[test]
    fn nothing_is_chosen_where_nothing_was_stored() {
        assert_eq!(chosen(&[]), Ok(None));
        assert_eq!(chosen(&[&["source=pvc/other"]]), Ok(None));
        assert!(chosen(&[&[OURS]]).unwrap().is_some());
    }

    #[test]
    fn snapshots_none_of_which_is_good_are_no_reason_to_start_empty() {
        for tag in ["incomplete", "unproven", "suspect", "safety"] {
            let failure = chosen(&[&[OURS, tag]]).unwrap_err();
            assert_eq!(failure.reason, Reason::SnapshotNotFound);
            assert!(failure.message.contains(tag), "{}", failure.message);
        }
    }

    fn noted(snapshots: &[(&str, &str, &str)]) -> Option<String> {
        let identities: Vec<_> = snapshots
            .iter()
            .map(|(host, tag, _)| SnapshotIdentity {
                host: (*host).to_owned(),
                path: "/data/claim".into(),
                tags: vec![(*tag).to_owned()],
            })
            .collect();
        let ids: Vec<String> = (0..identities.len()).map(|index| format!("{index:064}")).collect();
        let records: Vec<_> = snapshots
            .iter()
            .zip(identities.iter().zip(&ids))
            .map(|((_, _, time), (identity, id))| SnapshotRecord {
                id,
                time: time.parse().unwrap(),
                identity,
                paths: &[],
                bytes: None,
            })
            .collect();
        let here = ("here", "2026-06-01T00:00:00Z".parse().unwrap());
        note_of_other_namespaces(&records, &"pvc/claim".parse().unwrap(), "shop", here)
    }

    #[test]
    fn other_namespaces_with_snapshots_of_the_source_are_named_newest_first_with_the_command() {
        let note = noted(&[
            ("old", OURS, "2026-01-01T00:00:00Z"),
            ("old", OURS, "2026-01-03T00:00:00Z"),
            ("mill", OURS, "2026-01-02T00:00:00Z"),
            ("k8up", "", "2026-01-01T00:00:00Z"),
            ("other", "source=pvc/other", "2026-01-01T00:00:00Z"),
        ])
        .unwrap();
        let wanted = ": old (newest of 2026-01-03T00:00:00Z), mill (newest of 2026-01-02T00:00:00Z), k8up (newest of \
                      2026-01-01T00:00:00Z); ";
        assert!(note.contains(wanted), "{note}");
        assert!(note.contains("`stowaway restore -n shop --source pvc/claim --host old --claim claim --overwrite`"));
    }

    #[test]
    fn other_namespaces_without_a_snapshot_that_could_be_restored_are_not_named() {
        assert_eq!(noted(&[]), None);
        assert_eq!(noted(&[("old", "source=pvc/other", "2026-01-01T00:00:00Z")]), None);
        assert_eq!(noted(&[("shop", OURS, "2026-01-01T00:00:00Z")]), None, "its own is restored");
        let hosts: Vec<String> = (0..7).map(|number| format!("host-{number}")).collect();
        let many: Vec<_> = hosts.iter().map(|host| (host.as_str(), OURS, "2026-01-01T00:00:00Z")).collect();
        let note = noted(&many).unwrap();
        assert!(!note.contains("host-5") && note.contains("), and 2 more;"), "{note}");
    }
}

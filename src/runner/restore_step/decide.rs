//! Decides what to do with a volume, and from which snapshot it is filled, by the content of the volume and of the
//! repository. A half restored state is never taken for the app's data, and the app's data is never changed. Pure.

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::Timestamp;

use crate::{
    model::{Failure, NotRestorable, Reason, Restorable, SnapshotQuery, SnapshotRecord, SourceName, latest_restorable},
    repository::Remains,
};

/// The content of a volume.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// Whether it contains something which is neither Stowaway's nor the file system's own.
    pub data: bool,
    /// Whether it contains remains of Stowaway which prove nothing: a restore folder, a lock file.
    pub leftover: bool,
    /// Whether it contains the mark which states that the restore folder is complete and durable.
    pub whole: bool,
}

/// The action for a volume.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Leave the volume unchanged: it has the app's data, and no remains of Stowaway.
    Leave,
    /// Remove the remains of an attempt: the volume has the app's data.
    Clear,
    /// Restore from the beginning: the volume is empty except for remains of an attempt.
    Restore,
    /// Move the remaining entries: everything was restored, and not all of it was moved into the volume.
    Move,
}

/// The action for a volume with this content.
pub fn decide(observed: Observed) -> Action {
    match observed {
        Observed { whole: true, .. } => Action::Move,
        Observed { data: false, .. } => Action::Restore,
        Observed { leftover: false, .. } => Action::Leave,
        Observed { leftover: true, .. } => Action::Clear,
    }
}

/// The snapshot which a volume is filled from, by the rule of [`latest_restorable`]. `None` if there never was a
/// snapshot.
///
/// Errors: there are snapshots, but none is good. An empty start would hide that there is data to be rescued.
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
                "the repository has snapshots of {source}, but {none}: restore a snapshot by its id, or remove the \
                 restore annotation to start on an empty volume"
            ),
        )),
    }
}

/// Judges a repository without any snapshot, of any namespace, before an app starts on an empty volume. Returns a note
/// if the repository contains data which a backup that failed may have left.
///
/// Errors: the repository has the folders of snapshots, so that a backup had stored everything, and its snapshot was
/// lost. If the app started empty, the next backups and prunes would remove the data of the lost snapshots.
pub fn judge_without_snapshots(remains: &Remains) -> Result<Option<String>, Failure> {
    let Remains { packs, trees, unreadable } = remains;
    if trees + unreadable > 0 {
        let index = match unreadable {
            0 => format!("its index lists {trees} folders of snapshots"),
            unreadable => format!("{unreadable} of its index files cannot be read"),
        };
        let message = format!(
            "the repository has no snapshot at all, but {packs} packs of data, and {index}: its snapshot files were \
             probably lost, and the app is not started on an empty volume; restore the files of its folder `snapshots` \
             from a copy of the repository. If no backup of it has ever succeeded, let one succeed. If all snapshots \
             were removed on purpose, remove their data with `stowaway prune --allow-no-snapshots`. To start on an \
             empty volume anyway, remove the restore annotation"
        );
        return Err(Failure::new(Reason::RepositoryDamaged, message));
    }
    Ok((*packs > 0).then(|| {
        format!(
            "the repository has no snapshot at all, but {packs} packs of data: either no backup has succeeded yet, or \
             all snapshots and index files were lost; if there were backups, stop the app, and restore the files of \
             the repository's folders `snapshots` and `index` from a copy of it"
        )
    }))
}

/// The number of other namespaces that are named; all are counted.
const NAMED_NAMESPACES: usize = 5;

/// The note for a user when this namespace has no snapshot of a source: other namespaces of the repository have
/// snapshots of a source of the same name. `None` if no other namespace has one.
///
/// Such snapshots are never restored without a request. Namespaces which share a repository (a test system and the
/// production system) have sources of the same names, and an app must not start on the data of another namespace.
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
            // A complete restore is finished, whatever else is there. Without its mark, a half restored state is not
            // the app's data.
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

    const SOURCE: &str = "source=pvc/claim";

    #[test]
    fn nothing_is_chosen_where_nothing_was_stored() {
        assert_eq!(chosen(&[]), Ok(None));
        assert_eq!(chosen(&[&["source=pvc/other"]]), Ok(None));
        assert!(chosen(&[&[SOURCE]]).unwrap().is_some());
    }

    #[test]
    fn snapshots_none_of_which_is_good_are_no_reason_to_start_empty() {
        for tag in ["incomplete", "unproven", "suspect", "safety"] {
            let failure = chosen(&[&[SOURCE, tag]]).unwrap_err();
            assert_eq!(failure.reason, Reason::SnapshotNotFound);
            assert!(failure.message.contains(tag), "{}", failure.message);
        }
    }

    #[test]
    fn app_starts_empty_without_snapshots_only_if_no_backup_had_stored_everything() {
        let judge = |packs, trees, unreadable| judge_without_snapshots(&Remains { packs, trees, unreadable });
        assert_eq!(judge(0, 0, 0), Ok(None), "a new repository");
        // A first backup that failed, or that is in progress, has stored packs.
        let note = judge(3, 0, 0).unwrap().unwrap();
        assert!(note.contains("no snapshot at all, but 3 packs") && note.contains("stop the app"), "{note}");
        for (trees, unreadable) in [(1, 0), (0, 1)] {
            let failure = judge(3, trees, unreadable).unwrap_err();
            assert_eq!(failure.reason, Reason::RepositoryDamaged);
            for step in ["from a copy of the repository", "--allow-no-snapshots", "remove the restore annotation"] {
                assert!(failure.message.contains(step), "{}", failure.message);
            }
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
            ("old", SOURCE, "2026-01-01T00:00:00Z"),
            ("old", SOURCE, "2026-01-03T00:00:00Z"),
            ("mill", SOURCE, "2026-01-02T00:00:00Z"),
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
        assert_eq!(noted(&[("shop", SOURCE, "2026-01-01T00:00:00Z")]), None, "its own is restored");
        let hosts: Vec<String> = (0..7).map(|number| format!("host-{number}")).collect();
        let many: Vec<_> = hosts.iter().map(|host| (host.as_str(), SOURCE, "2026-01-01T00:00:00Z")).collect();
        let note = noted(&many).unwrap();
        assert!(!note.contains("host-5") && note.contains("), and 2 more;"), "{note}");
    }
}

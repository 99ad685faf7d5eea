//! Forget: removes snapshots. Their data stays until the next prune. The newest good snapshot of a source is kept,
//! unless the caller explicitly permits its removal.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{remove, snapshots};
use crate::{
    Repository, RepositoryError, SnapshotSummary,
    format::Id,
    store::{Kind, Store},
};
use stowaway_model::{Quality, SnapshotIdentity, SnapshotRecord, newest_good};

/// The snapshots to remove.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forget {
    /// Their full ids, 64 hex digits.
    pub snapshots: BTreeSet<String>,
    /// Permits to remove the newest good snapshot of a source, because the source no longer exists.
    pub last_of_source: bool,
}

impl Repository {
    /// Reads all snapshots, oldest first, lets `decide` choose among them, and removes the chosen ones, oldest first.
    /// Returns their number, and what else `decide` returned. The repository must be open exclusively, because two
    /// concurrent calls could each remove the snapshot which the other one keeps.
    ///
    /// Errors, before anything is removed: that of `decide`; [`RepositoryError::InvalidRequest`] when a chosen snapshot
    /// does not exist, or when the newest good snapshot of a source would be removed without
    /// [`Forget::last_of_source`]; [`RepositoryError::Damaged`] when a snapshot cannot be read, because it may be the
    /// newest one of its source.
    pub async fn forget<T>(
        &self,
        decide: impl FnOnce(&[SnapshotSummary]) -> Result<(Forget, T), RepositoryError>,
    ) -> Result<(u64, T), RepositoryError> {
        self.must_be_exclusive("forget")?;
        self.with_lock(|run| async move { carry_out(self, &run, decide).await }).await
    }

    /// Returns an error unless the repository is locked exclusively, so that no other client can write, or read what is
    /// removed.
    pub(super) fn must_be_exclusive(&self, work: &str) -> Result<(), RepositoryError> {
        if self.lock.is_exclusive() {
            return Ok(());
        }
        Err(RepositoryError::InvalidRequest(format!("to {work}, the repository must be opened exclusively")))
    }
}

async fn carry_out<T>(
    repository: &Repository,
    store: &Store,
    decide: impl FnOnce(&[SnapshotSummary]) -> Result<(Forget, T), RepositoryError>,
) -> Result<(u64, T), RepositoryError> {
    let all = snapshots::read_strictly(repository, store).await?;
    let (ids, summaries): (Vec<Id>, Vec<SnapshotSummary>) = all.into_iter().map(|one| (one.id, one.summary)).unzip();
    let (forget, decided) = decide(&summaries)?;
    check_allowed(&summaries, &forget, Timestamp::now()).map_err(|why| {
        RepositoryError::InvalidRequest(format!("nothing was forgotten in {}: {why}", store.location()))
    })?;
    let chosen = ids.into_iter().zip(&summaries).filter(|(_, summary)| forget.snapshots.contains(&summary.id));
    let removed: Vec<Id> = chosen.map(|(id, _)| id).collect();
    remove(repository, store, Kind::Snapshot, &removed).await?;
    Ok((removed.len() as u64, decided))
}

/// Returns why the request is not allowed, if it is not. Pure. As in retention, a history contains the snapshots of one
/// source of one namespace in one cluster.
fn check_allowed(all: &[SnapshotSummary], forget: &Forget, now: Timestamp) -> Result<(), String> {
    let known: BTreeSet<&String> = all.iter().map(|snapshot| &snapshot.id).collect();
    let missing: Vec<&String> = forget.snapshots.iter().filter(|id| !known.contains(id)).collect();
    if let Some(first) = missing.first() {
        return Err(format!(
            "{} of the snapshots to forget do not exist, such as {first}; list the snapshots and repeat the request",
            missing.len()
        ));
    }
    if forget.last_of_source {
        return Ok(());
    }
    let mut histories: BTreeMap<String, Vec<SnapshotRecord<'_>>> = BTreeMap::new();
    for snapshot in all.iter().filter(|snapshot| snapshot.identity.tag(SnapshotIdentity::SOURCE).is_some()) {
        let record = snapshot.record();
        histories.entry(record.history()).or_default().push(record);
    }
    for history in histories.values() {
        if let Some(newest) = last_good_of(history, now)
            && forget.snapshots.contains(newest.id)
        {
            let (host, source) = (&newest.identity.host, newest.identity.tag(SnapshotIdentity::SOURCE));
            return Err(format!(
                "{} is the newest good snapshot of {} of host {host}, so it is kept; if that source no longer exists, \
                 name the snapshot and add --last-of-source",
                newest.id,
                source.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

/// The snapshot which a history must keep: the newest good one, or, if there is none, the newest one whose time is in
/// the future.
fn last_good_of<'a>(history: &[SnapshotRecord<'a>], now: Timestamp) -> Option<SnapshotRecord<'a>> {
    let of_future = || history.iter().filter(|snapshot| snapshot.quality(now) == Quality::FromFuture);
    newest_good(history.iter().copied(), now).or_else(|| of_future().max_by_key(|snapshot| snapshot.time).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, seconds: i64, tags: &[&str]) -> SnapshotSummary {
        SnapshotSummary {
            id: id.to_owned(),
            time: Timestamp::from_second(seconds).unwrap(),
            identity: SnapshotIdentity {
                host: "shop".to_owned(),
                path: "/x".to_owned(),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            },
            paths: vec!["/x".to_owned()],
            bytes: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn of(ids: &[&str]) -> Forget {
        Forget { snapshots: ids.iter().map(|id| (*id).to_owned()).collect(), last_of_source: false }
    }

    #[test]
    fn newest_proven_snapshot_of_a_source_stays() {
        let db = "source=deployment/shop/db";
        let all = [
            snapshot("a", 1, &[db]),
            snapshot("b", 2, &[db]),
            snapshot("c", 3, &[db, "unproven"]),
            snapshot("d", 4, &[db, "incomplete"]),
            snapshot("e", 5, &["source=pvc/data"]),
            snapshot("f", 6, &[]),
            snapshot("g", 7, &[db, "suspect"]),
            snapshot("h", 9_000_000, &[db]),
        ];
        for (ids, may) in [
            (&["a"][..], true),
            (&["a", "c", "d"], true),
            (&["b"], false),
            (&["a", "b", "c", "d"], false),
            (&["e"], false),
            (&["f"], true),
            (&["g", "h"], true),
            (&[], true),
        ] {
            assert_eq!(check_allowed(&all, &of(ids), now()).is_ok(), may, "{ids:?}");
        }
    }

    #[test]
    fn each_cluster_and_host_keeps_its_own_last_one() {
        let db = "source=deployment/shop/db";
        let mut all = [
            snapshot("a", 1, &[db, "cluster=one"]),
            snapshot("b", 2, &[db, "cluster=two"]),
            snapshot("c", 3, &[db, "cluster=two"]),
            snapshot("d", 4, &[db, "cluster=two"]),
            snapshot("e", 9_000_000, &["source=pvc/data"]),
        ];
        all[3].identity.host = "mill".to_owned();
        for (ids, may) in [(["a"], false), (["b"], true), (["c"], false), (["d"], false), (["e"], false)] {
            assert_eq!(check_allowed(&all, &of(&ids), now()).is_ok(), may, "{ids:?}");
            let explicit = Forget { last_of_source: true, ..of(&ids) };
            assert!(check_allowed(&all, &explicit, now()).is_ok(), "{ids:?}");
        }
        let missing = Forget { last_of_source: true, ..of(&["x"]) };
        assert!(check_allowed(&all, &missing, now()).is_err());
    }

    #[test]
    fn snapshots_to_forget_must_exist() {
        let all = [snapshot("a", 1, &[]), snapshot("b", 2, &[])];
        assert!(check_allowed(&all, &of(&["a"]), now()).is_ok());
        assert!(check_allowed(&all, &of(&["a", "c"]), now()).unwrap_err().contains("such as c"));
    }
}

//! Forget: snapshots go, their data stays until the next prune.
//!
//! It must not know why one is to go; but the newest good one of a source stays, unless the caller names it explicitly.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rustic_core::Id;

use super::{remove, snapshots};
use crate::{
    model::{Quality, SnapshotIdentity, SnapshotRecord, newest_good},
    repository::{
        Repository, RepositoryError, SnapshotSummary,
        store::{Kind, Store},
    },
};

/// What is to go, and what that was decided on. Ids are whole, 64 hex digits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forget {
    /// What is to go.
    pub snapshots: BTreeSet<String>,
    /// All snapshots that were seen when that was decided: each must still be there.
    pub planned_on: BTreeSet<String>,
    /// Whether the newest good snapshot of a source may be deleted, too: the source is gone for good.
    pub last_of_source: bool,
}

impl Repository {
    /// Removes snapshots, oldest first, and tells how many. The repository must be open exclusively: two that forget at once
    /// might each leave what the other takes.
    ///
    /// Errors, before anything is removed: [`RepositoryError::InvalidRequest`] when a snapshot is missing that was planned
    /// on, or when the newest good snapshot of a source would be deleted without [`Forget::last_of_source`]; [`RepositoryError::Damaged`] when a snapshot cannot be
    /// read, since nobody knows whose newest that is.
    pub async fn forget(&self, forget: &Forget) -> Result<u64, RepositoryError> {
        self.must_be_exclusive("forget")?;
        self.while_locked(|run| async move { carry_out(self, &run, forget).await }).await
    }

    /// Whether nobody else can write, or read what is removed.
    pub(super) fn must_be_exclusive(&self, work: &str) -> Result<(), RepositoryError> {
        if self.lock.is_exclusive() {
            return Ok(());
        }
        Err(RepositoryError::InvalidRequest(format!("to {work}, the repository must be opened exclusively")))
    }
}

async fn carry_out(repository: &Repository, store: &Store, forget: &Forget) -> Result<u64, RepositoryError> {
    let all = snapshots::read_strictly(repository, store).await?;
    let summaries: Vec<SnapshotSummary> = all.iter().map(|known| known.summary.clone()).collect();
    may_go(&summaries, forget, Timestamp::now())
        .map_err(|why| RepositoryError::InvalidRequest(format!("nothing was forgotten in {}: {why}", store.place())))?;
    let going: Vec<Id> =
        all.iter().filter(|known| forget.snapshots.contains(&known.summary.id)).map(|known| known.id).collect();
    remove(repository, store, Kind::Snapshot, &going).await?;
    Ok(going.len() as u64)
}

/// Why it may not be done, if so. Pure. Histories are those of the retention: a source of a namespace in a cluster.
fn may_go(all: &[SnapshotSummary], forget: &Forget, now: Timestamp) -> Result<(), String> {
    let known: BTreeSet<&String> = all.iter().map(|snapshot| &snapshot.id).collect();
    let gone: Vec<&String> = forget.planned_on.union(&forget.snapshots).filter(|id| !known.contains(id)).collect();
    if let Some(first) = gone.first() {
        return Err(format!(
            "{} of the snapshots that this was decided on are gone, such as {first}; look again, and decide anew",
            gone.len()
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
        if let Some(newest) = last_of(history, now)
            && forget.snapshots.contains(newest.id)
        {
            let (host, source) = (&newest.identity.host, newest.identity.tag(SnapshotIdentity::SOURCE));
            return Err(format!(
                "{} is the newest good snapshot of {} of host {host}, which stays; name it, and add --last-of-source, if that \
                 source is gone for good",
                newest.id,
                source.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

/// The snapshot without which a history has no good one: the newest good one, or else the newest that is dated in the
/// future.
fn last_of<'a>(history: &[SnapshotRecord<'a>], now: Timestamp) -> Option<SnapshotRecord<'a>> {
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

    fn of(ids: &[&str], planned_on: &[&str]) -> Forget {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Forget { snapshots: set(ids), planned_on: set(planned_on), last_of_source: false }
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
            assert_eq!(may_go(&all, &of(ids, &[]), now()).is_ok(), may, "{ids:?}");
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
            assert_eq!(may_go(&all, &of(&ids, &[]), now()).is_ok(), may, "{ids:?}");
            let explicit = Forget { last_of_source: true, ..of(&ids, &[]) };
            assert!(may_go(&all, &explicit, now()).is_ok(), "{ids:?}");
        }
        let missing = Forget { last_of_source: true, ..of(&["x"], &[]) };
        assert!(may_go(&all, &missing, now()).is_err());
    }

    #[test]
    fn what_was_planned_on_must_still_be_there() {
        let all = [snapshot("a", 1, &[]), snapshot("b", 2, &[])];
        assert!(may_go(&all, &of(&["a"], &["a", "b"]), now()).is_ok());
        assert!(may_go(&all, &of(&["a"], &["a"]), now()).is_ok(), "new ones do not matter");
        assert!(may_go(&all, &of(&["a"], &["a", "b", "c"]), now()).is_err());
        assert!(may_go(&all, &of(&["c"], &[]), now()).is_err());
    }
}

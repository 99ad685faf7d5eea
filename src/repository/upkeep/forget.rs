//! Forget: snapshots go, their data stays until the next prune.
//!
//! It must not know why one is to go; but the newest proven one of a source never goes, whatever was asked for.

use std::collections::{BTreeSet, HashMap};

use rustic_core::Id;

use super::{remove, snapshots};
use crate::{
    model::{SnapshotIdentity, SourceName},
    repository::{
        Repository, RepositoryError, SnapshotSummary, newest_of,
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
}

impl Repository {
    /// Removes snapshots, oldest first, and tells how many. The repository must be open exclusively: two that forget at once
    /// might each leave what the other takes.
    ///
    /// Errors, before anything is removed: [`RepositoryError::InvalidRequest`] when a snapshot is missing that was planned
    /// on, or when the newest proven snapshot of a source would go; [`RepositoryError::Damaged`] when a snapshot cannot be
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
    may_go(&summaries, forget)
        .map_err(|why| RepositoryError::InvalidRequest(format!("nothing was forgotten in {}: {why}", store.place())))?;
    let going: Vec<Id> =
        all.iter().filter(|known| forget.snapshots.contains(&known.summary.id)).map(|known| known.id).collect();
    remove(repository, store, Kind::Snapshot, &going).await?;
    Ok(going.len() as u64)
}

/// Why it may not be done, if so. Pure.
fn may_go(all: &[SnapshotSummary], forget: &Forget) -> Result<(), String> {
    let known: BTreeSet<&String> = all.iter().map(|snapshot| &snapshot.id).collect();
    let gone: Vec<&String> = forget.planned_on.union(&forget.snapshots).filter(|id| !known.contains(id)).collect();
    if let Some(first) = gone.first() {
        return Err(format!(
            "{} of the snapshots that this was decided on are gone, such as {first}; look again, and decide anew",
            gone.len()
        ));
    }
    let mut by_source: HashMap<&str, Vec<SnapshotSummary>> = HashMap::new();
    for snapshot in all {
        if let Some(source) = snapshot.identity.tag(SnapshotIdentity::SOURCE) {
            by_source.entry(source).or_default().push(snapshot.clone());
        }
    }
    for (source, snapshots) in by_source {
        // A tag of another writer that is no source of ours has no newest.
        let Ok(name) = source.parse::<SourceName>() else { continue };
        if let Some(newest) = newest_of(&snapshots, &name)
            && forget.snapshots.contains(&newest.id)
        {
            return Err(format!(
                "{} is the newest proven snapshot of {source}, which stays; `restic forget` removes it all the same",
                newest.id
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: &str, seconds: i64, tags: &[&str]) -> SnapshotSummary {
        SnapshotSummary {
            id: id.to_owned(),
            time: jiff::Timestamp::from_second(seconds).unwrap(),
            identity: SnapshotIdentity {
                host: "shop".to_owned(),
                path: "/x".to_owned(),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            },
            paths: vec!["/x".to_owned()],
            bytes: None,
        }
    }

    fn of(ids: &[&str], planned_on: &[&str]) -> Forget {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Forget { snapshots: set(ids), planned_on: set(planned_on) }
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
        ];
        for (ids, may) in [
            (&["a"][..], true),
            (&["a", "c", "d"], true),
            (&["b"], false),
            (&["a", "b", "c", "d"], false),
            (&["e"], false),
            (&["f"], true),
            (&[], true),
        ] {
            assert_eq!(may_go(&all, &of(ids, &[])).is_ok(), may, "{ids:?}");
        }
    }

    #[test]
    fn what_was_planned_on_must_still_be_there() {
        let all = [snapshot("a", 1, &[]), snapshot("b", 2, &[])];
        assert!(may_go(&all, &of(&["a"], &["a", "b"])).is_ok());
        assert!(may_go(&all, &of(&["a"], &["a"])).is_ok(), "new ones do not matter");
        assert!(may_go(&all, &of(&["a"], &["a", "b", "c"])).is_err());
        assert!(may_go(&all, &of(&["c"], &[])).is_err());
    }
}

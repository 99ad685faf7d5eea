//! Makes stored data visible: checks that each file which the snapshot needs is in the store, and then writes the
//! snapshot.
//!
//! After its write the snapshot is read back, also if the store did not acknowledge the write. If the read fails, the
//! outcome is reported as unknown.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    Repository, RepositoryError, crypto,
    format::{Id, SnapshotFile, SnapshotSummary, TreeId},
    index::pack_check::{look_for, look_for_packs},
    packer::Written,
    store::{Kind, Store, Write},
};
use stowaway_model::SnapshotIdentity;

/// How long a cancelled run lets the write of the snapshot continue. With the final check, the run ends within ten
/// seconds.
const WRITE_GRACE_PERIOD: Duration = Duration::from_secs(3);

/// The parameters of a commit.
pub(super) struct Commit<'a> {
    pub repository: &'a Repository,
    pub store: &'a Store,
    pub identity: &'a SnapshotIdentity,
    /// The time of the snapshot.
    pub time: Timestamp,
}

impl Commit<'_> {
    /// Makes a snapshot visible, after it has checked that all files that the snapshot needs are in the store and that
    /// the run still holds its lock. Returns the snapshot's id, 64 hex digits.
    ///
    /// If the lock was lost meanwhile, a prune may have removed files. Then the files are checked again, and the
    /// snapshot is removed unless all of them are in the store and no other client holds an exclusive lock.
    pub async fn publish(&self, snapshot: &SnapshotFile, written: &Written) -> Result<String, RepositoryError> {
        let store = self.store;
        self.repository.lock.must_allow_writing(store)?;
        look_for_all(store, written).await?;
        self.repository.lock.check(store).await?;
        let content = serde_json::to_vec(snapshot).map_err(|error| store.internal(error))?;
        let content = self.repository.cipher.encrypt_file(&content, self.repository.version);
        let content: Bytes = content.map_err(|error| store.internal(error))?.into();
        let id = publish(store, content).await?;
        self.confirm(id, written).await?;
        Ok(id.to_hex())
    }

    /// Makes sure that no prune removed files between the last check of the files and the moment when the snapshot
    /// became visible.
    async fn confirm(&self, id: Id, written: &Written) -> Result<(), RepositoryError> {
        let lock = &self.repository.lock;
        // The run's own requests are cancelled when the lock is lost. A cancelled run has time only for a short
        // request.
        let store = &self.repository.store;
        let store = if store.cancel().is_cancelled() { store.for_final_request() } else { store.uncancelled() };
        let unknown = |source| RepositoryError::CommitUnknown {
            location: store.location().to_owned(),
            snapshot: id.to_hex(),
            source: Box::new(source),
        };
        let lost = match lock.check(&store).await {
            Ok(()) => return Ok(()),
            Err(lost @ RepositoryError::LockLost { .. }) => lost,
            Err(error) => return Err(unknown(error)),
        };
        let still_there = async {
            look_for_all(&store, written).await?;
            let is_pruned = self.repository.is_locked_by_another_exclusively(&store).await?;
            if is_pruned { Err(lost) } else { Ok(()) }
        };
        match still_there.await {
            Ok(()) => Ok(()),
            Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::LockLost { .. })) => {
                store.remove(Kind::Snapshot, &id).await.map_err(unknown)?;
                tracing::warn!("removed the new snapshot {} again: {error}", id.to_hex());
                Err(error)
            }
            Err(error) => Err(unknown(error)),
        }
    }

    /// Creates a snapshot of a tree, with the identity's host, path and tags.
    pub fn labelled(&self, tree: TreeId, summary: SnapshotSummary) -> SnapshotFile {
        SnapshotFile {
            time: self.time,
            program_version: format!("stowaway {}", env!("CARGO_PKG_VERSION")),
            tree,
            paths: BTreeSet::from([self.identity.path.clone()]),
            hostname: self.identity.host.clone(),
            tags: self.identity.tags.iter().cloned().collect(),
            summary: Some(summary),
            ..SnapshotFile::default()
        }
    }
}

/// Completes the statistics of a snapshot. `found` contains the statistics of the source.
pub(super) fn completed(mut found: SnapshotSummary, written: &Written, started: Timestamp) -> SnapshotSummary {
    let (Written { data, trees, .. }, ended) = (written, Timestamp::now());
    let seconds = ended.duration_since(started).as_secs_f64();
    (found.data_blobs, found.tree_blobs) = (data.blobs, trees.blobs);
    (found.data_added_files, found.data_added_files_packed) = (data.plain_bytes, data.packed_bytes);
    (found.data_added_trees, found.data_added_trees_packed) = (trees.plain_bytes, trees.packed_bytes);
    found.data_added = data.plain_bytes + trees.plain_bytes;
    found.data_added_packed = data.packed_bytes + trees.packed_bytes;
    (found.backup_start, found.backup_end) = (started, ended);
    (found.backup_duration, found.total_duration) = (seconds, seconds);
    found
}

/// Fails unless all files that the run wrote, and all packs of earlier runs that the snapshot needs, are in the store.
async fn look_for_all(store: &Store, written: &Written) -> Result<(), RepositoryError> {
    look_for(store, &written.files).await?;
    look_for_packs(store, &written.used).await
}

/// Writes the snapshot file and reads it back.
async fn publish(store: &Store, content: Bytes) -> Result<Id, RepositoryError> {
    let id = crypto::id_of(&content);
    if store.cancel().is_cancelled() {
        return Err(RepositoryError::Cancelled { location: store.location().to_owned() });
    }
    // A running write may finish; otherwise it could complete after the run was reported as cancelled.
    let grace_period_is_over = async {
        store.cancel().cancelled().await;
        sleep(WRITE_GRACE_PERIOD).await;
    };
    let unlimited = store.uncancelled();
    let written = tokio::select! {
        written = unlimited.write(Kind::Snapshot, &id, vec![content.clone()], Write::Replace) => written,
        () = grace_period_is_over => Err(RepositoryError::Cancelled { location: store.location().to_owned() }),
    };
    // Whatever the write returned, a read shows whether the snapshot exists. This is also done in a cancelled run,
    // because the snapshot may have become visible.
    let (store, not_written) = match written {
        Ok(_) if !store.cancel().is_cancelled() => (store.clone(), None),
        Ok(_) => (store.for_final_request(), None),
        Err(error) => (store.for_final_request(), Some(error)),
    };
    let unknown = |source| RepositoryError::CommitUnknown {
        location: store.location().to_owned(),
        snapshot: id.to_hex(),
        source: Box::new(source),
    };
    match (store.read(Kind::Snapshot, &id).await, not_written) {
        (Ok(Some(found)), _) if found == content => Ok(id),
        (Ok(Some(_)), _) => {
            Err(store.damaged(format!("{} does not read back as it was written", Kind::Snapshot.path(&id))))
        }
        (Ok(None), Some(error)) => Err(error),
        (Ok(None), None) => Err(store.damaged(format!("{} was acknowledged but is missing", Kind::Snapshot.path(&id)))),
        (Err(error), _) => Err(unknown(error)),
    }
}

#[cfg(test)]
mod tests;

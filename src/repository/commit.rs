//! What makes stored data visible: a look at each file that the snapshot needs, and then the snapshot.
//!
//! After a snapshot's write whose acknowledgement was lost, the store is asked; what cannot be told is said to be
//! unknown. Format: restic's design document, section "Snapshots".

use std::time::Duration;

use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use rustic_core::{
    Id, TreeId,
    repofile::{SnapshotFile, SnapshotSummary},
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    Repository, RepositoryError,
    archive::internal,
    crypto,
    pack_check::{look_for, look_for_packs},
    packer::Written,
    store::{Kind, Store, Write},
};
use crate::model::SnapshotIdentity;

/// What a cancelled run gives the snapshot's write to end; with a last look it is over in ten seconds.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// One commit.
pub(super) struct Commit<'a> {
    pub repository: &'a Repository,
    pub store: &'a Store,
    pub identity: &'a SnapshotIdentity,
    /// The snapshot's time.
    pub time: Timestamp,
}

impl Commit<'_> {
    /// Makes a snapshot visible, once all that it needs is there and the run's lock still holds. `excludes` are the patterns
    /// of what it is without. Returns its id, 64 hex digits.
    ///
    /// A lock that was lost meanwhile may have let a prune in. Then what the snapshot needs is looked for once more, and the
    /// snapshot is removed again unless all of it is there and no other client holds an exclusive lock.
    pub async fn publish(
        &self,
        snapshot: &SnapshotFile,
        excludes: &[String],
        written: &Written,
    ) -> Result<String, RepositoryError> {
        let store = self.store;
        self.repository.lock.must_allow_writing(store)?;
        look_for_all(store, written).await?;
        self.repository.lock.check(store).await?;
        let mut content = serde_json::to_value(snapshot).map_err(|error| internal(store, error))?;
        if !excludes.is_empty() {
            // restic's own field, which the engine does not have.
            content["excludes"] = json!(excludes);
        }
        let content = serde_json::to_vec(&content).map_err(|error| internal(store, error))?;
        let content = self.repository.cipher.encrypt_file(&content, self.repository.version);
        let content: Bytes = content.map_err(|error| internal(store, error))?.into();
        let id = publish(store, content).await?;
        self.confirm(id, written).await?;
        Ok(id.to_hex().as_str().to_owned())
    }

    /// Makes sure that no prune had its way between the last look at what the snapshot needs and its becoming visible.
    async fn confirm(&self, id: Id, written: &Written) -> Result<(), RepositoryError> {
        let lock = &self.repository.lock;
        // A lost lock ends the run's own requests, and a cancelled run has time for one short request only.
        let store = &self.repository.store;
        let store = if store.cancel().is_cancelled() { store.for_a_last_look() } else { store.for_a_last_write() };
        let unknown = |source| RepositoryError::CommitUnknown {
            place: store.place().to_owned(),
            snapshot: id.to_hex().as_str().to_owned(),
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
                tracing::warn!("removed the new snapshot {} again: {error}", id.to_hex().as_str());
                Err(error)
            }
            Err(error) => Err(unknown(error)),
        }
    }

    /// A snapshot of that tree with the identity's labels.
    pub fn labelled(&self, tree: TreeId, summary: SnapshotSummary) -> SnapshotFile {
        let mut snapshot = SnapshotFile {
            time: self.time.to_zoned(TimeZone::UTC),
            program_version: format!("stowaway {}", env!("CARGO_PKG_VERSION")),
            tree,
            hostname: self.identity.host.clone(),
            summary: Some(summary),
            ..SnapshotFile::default()
        };
        snapshot.paths.add(self.identity.path.clone());
        for tag in &self.identity.tags {
            snapshot.tags.add(tag.clone());
        }
        snapshot
    }
}

/// What a run says of itself: what it found, and what it wrote of it.
pub(super) fn completed(mut found: SnapshotSummary, written: &Written, started: Timestamp) -> SnapshotSummary {
    let (Written { data, trees, .. }, ended) = (written, Timestamp::now());
    let seconds = ended.duration_since(started).as_secs_f64();
    (found.data_blobs, found.tree_blobs) = (data.blobs, trees.blobs);
    (found.data_added_files, found.data_added_files_packed) = (data.plain_bytes, data.packed_bytes);
    (found.data_added_trees, found.data_added_trees_packed) = (trees.plain_bytes, trees.packed_bytes);
    found.data_added = data.plain_bytes + trees.plain_bytes;
    found.data_added_packed = data.packed_bytes + trees.packed_bytes;
    (found.backup_start, found.backup_end) = (started.to_zoned(TimeZone::UTC), ended.to_zoned(TimeZone::UTC));
    (found.backup_duration, found.total_duration) = (seconds, seconds);
    found
}

/// All that was written for a snapshot is there, and all that earlier runs wrote and it needs.
async fn look_for_all(store: &Store, written: &Written) -> Result<(), RepositoryError> {
    look_for(store, &written.files).await?;
    look_for_packs(store, &written.used).await
}

/// Writes the snapshot file and reads it back.
async fn publish(store: &Store, content: Bytes) -> Result<Id, RepositoryError> {
    let id = crypto::id_of(&content);
    if store.cancel().is_cancelled() {
        return Err(RepositoryError::Cancelled { place: store.place().to_owned() });
    }
    // A write that is under way is rather finished than left to land after the answer was given.
    let last_moment = async {
        store.cancel().cancelled().await;
        sleep(LAST_MOMENT).await;
    };
    let unlimited = store.for_a_last_write();
    let written = tokio::select! {
        written = unlimited.write(Kind::Snapshot, &id, vec![content.clone()], Write::Replace) => written,
        () = last_moment => Err(RepositoryError::Cancelled { place: store.place().to_owned() }),
    };
    // Whatever the write said, the store says what is there. A cancelled run asks, too: it may just have become visible.
    let (store, not_written) = match written {
        Ok(_) if !store.cancel().is_cancelled() => (store.clone(), None),
        Ok(_) => (store.for_a_last_look(), None),
        Err(error) => (store.for_a_last_look(), Some(error)),
    };
    let unknown = |source| RepositoryError::CommitUnknown {
        place: store.place().to_owned(),
        snapshot: id.to_hex().as_str().to_owned(),
        source: Box::new(source),
    };
    match (store.read(Kind::Snapshot, &id).await, not_written) {
        (Ok(Some(found)), _) if found == content => Ok(id),
        (Ok(Some(_)), _) => Err(store.damaged(format!("{} reads back as something else", Kind::Snapshot.path(&id)))),
        (Ok(None), Some(error)) => Err(error),
        (Ok(None), None) => {
            Err(store.damaged(format!("{} was acknowledged and is not there", Kind::Snapshot.path(&id))))
        }
        (Err(error), _) => Err(unknown(error)),
    }
}

#[cfg(test)]
mod tests;

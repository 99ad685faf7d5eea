//! What makes stored data visible: its tree, the index of what was written, a look at each new file, the snapshot.
//!
//! After a snapshot's write whose acknowledgement was lost, the store is asked; what cannot be told is said to be
//! unknown. Formats: restic's design document, sections "Indexing" and "Snapshots".

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{Timestamp, tz::TimeZone};
use rustic_core::{
    Id, TreeId,
    repofile::{SnapshotFile, SnapshotSummary},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Progress, Repository, RepositoryError, Stored,
    archive::internal,
    crypto::{self, CryptoError},
    gate::Passed,
    source::Ended,
    store::{Kind, Store, Write},
    tree::{self, TreePack},
};
use crate::model::{Proof, SnapshotIdentity};

/// How many files are looked for at a time.
const PARALLEL_LOOKS: usize = 16;
/// What a cancelled run gives the snapshot's write to end; with a last look it is over in ten seconds.
const LAST_MOMENT: Duration = Duration::from_secs(3);

/// One commit.
pub(super) struct Commit<'a> {
    pub repository: &'a Repository,
    pub store: &'a Store,
    pub identity: &'a SnapshotIdentity,
    /// The snapshot's time, and a stream's file's.
    pub time: Timestamp,
    pub progress: &'a Progress,
}

impl Commit<'_> {
    /// Commits the stream that passed the gate. `name` is the one file of the engine's tree, `engines` the snapshot that it made.
    pub async fn stream(
        &self,
        name: &str,
        ended: &Ended,
        engines: SnapshotFile,
        passed: Passed,
    ) -> Result<Stored, RepositoryError> {
        let store = self.store;
        let bytes = ended.end.bytes;
        let processed = engines.summary.as_ref().map_or(0, |summary| summary.total_bytes_processed);
        if processed != bytes {
            return Err(internal(store, format!("the engine stored {processed} of {bytes} bytes")));
        }
        let Passed { mut written, tree_pack, indexes } = passed;
        let (engine_pack, engine_content) = tree_pack.ok_or_else(|| internal(store, "the engine made no tree"))?;
        let broken = |error: CryptoError| internal(store, error);
        let mut indexes =
            indexes.iter().map(|index| self.decrypted(index)).collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let entry =
            remove_entry(&mut indexes, engine_pack).ok_or_else(|| internal(store, "its tree is in no index"))?;

        let engine_tree = tree::only_tree(&self.repository.cipher, &engine_content, &entry).map_err(broken)?;
        let content = match engine_tree.nodes.as_slice() {
            [node] if node.name == name => node.content.clone().unwrap_or_default(),
            _ => return Err(internal(store, "the engine's tree holds something else than the stream")),
        };
        let trees = tree::file_trees(&self.identity.path, content, bytes, self.time)?;
        let version = self.repository.version;
        let pack = tree::pack(&self.repository.cipher, version, &trees).map_err(broken)?;
        if let Some(packs) = indexes.last_mut().and_then(|index| index["packs"].as_array_mut()) {
            packs.push(pack.entry.clone());
        }

        self.write(Kind::Pack, pack.id, pack.content.clone(), &mut written).await?;
        for index in indexes.iter().filter(|index| index["packs"].as_array().is_some_and(|packs| !packs.is_empty())) {
            let content: Bytes = self.encrypted(index).map_err(broken)?.into();
            self.write(Kind::Index, crypto::id_of(&content), content, &mut written).await?;
        }
        let (snapshot, added_bytes) = self.stream_snapshot(ended, engines, &pack);
        Ok(Stored {
            snapshot: self.publish(&snapshot, &[], &written).await?,
            bytes,
            digest: ended.digest.clone(),
            added_bytes,
            proof: ended.end.proof,
        })
    }

    /// Makes a snapshot visible, once all that was written is there and our lock still holds. `excludes` are the patterns of
    /// what it is without. Gives its id, 64 hex digits.
    pub async fn publish(
        &self,
        snapshot: &SnapshotFile,
        excludes: &[String],
        written: &[(Kind, Id, u64)],
    ) -> Result<String, RepositoryError> {
        let store = self.store;
        look_for(store, written).await?;
        self.repository.lock.check(store).await?;
        let mut content = serde_json::to_value(snapshot).map_err(|error| internal(store, error))?;
        if !excludes.is_empty() {
            // restic's own field, which the engine does not have.
            content["excludes"] = json!(excludes);
        }
        let content = serde_json::to_vec(&content).map_err(|error| internal(store, error))?;
        let content = self.repository.cipher.encrypt_file(&content, self.repository.version);
        let content: Bytes = content.map_err(|error| internal(store, error))?.into();
        Ok(publish(store, content).await?.to_hex().as_str().to_owned())
    }

    /// A snapshot of that tree with the identity's labels.
    pub fn labelled(&self, tree: TreeId, mut summary: SnapshotSummary) -> SnapshotFile {
        summary.command = String::new();
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

    fn decrypted(&self, index: &[u8]) -> Result<Value, CryptoError> {
        let json = self.repository.cipher.decrypt_file(index)?;
        serde_json::from_slice(&json).map_err(|error| CryptoError::Format(error.to_string()))
    }

    fn encrypted(&self, index: &Value) -> Result<Vec<u8>, CryptoError> {
        self.repository.cipher.encrypt_file(index.to_string().as_bytes(), self.repository.version)
    }

    async fn write(
        &self,
        kind: Kind,
        id: Id,
        content: Bytes,
        written: &mut Vec<(Kind, Id, u64)>,
    ) -> Result<(), RepositoryError> {
        let size = content.len() as u64;
        self.store.write(kind, &id, vec![content], Write::Replace).await?;
        self.progress.uploaded.fetch_add(size, Ordering::Relaxed);
        written.push((kind, id, size));
        Ok(())
    }

    /// The snapshot, and how many bytes the run added to the repository.
    fn stream_snapshot(&self, ended: &Ended, engines: SnapshotFile, pack: &TreePack) -> (SnapshotFile, u64) {
        let mut summary = engines.summary.unwrap_or_default();
        let pack_bytes = pack.content.len() as u64;
        summary.data_added = summary.data_added_files + pack.plain_bytes;
        summary.data_added_packed = summary.data_added_files_packed + pack_bytes;
        summary.data_added_trees = pack.plain_bytes;
        summary.data_added_trees_packed = pack_bytes;
        summary.tree_blobs = pack.trees;
        summary.total_dirsize_processed = pack.plain_bytes;
        (summary.dirs_new, summary.total_dirs_processed) = (pack.trees - 1, pack.trees - 1);
        let added_bytes = summary.data_added_packed;
        let mut snapshot = self.labelled(pack.root, summary);
        snapshot.tags.add(format!("{}={}", SnapshotIdentity::DIGEST, ended.digest));
        snapshot.tags.add(format!("{}={}", SnapshotIdentity::PROOF, ended.end.proof));
        if ended.end.proof == Proof::None {
            snapshot.tags.add(SnapshotIdentity::UNPROVEN.to_owned());
        }
        (snapshot, added_bytes)
    }
}

/// Every new file is there, and as long as it was written.
pub(super) async fn look_for(store: &Store, written: &[(Kind, Id, u64)]) -> Result<(), RepositoryError> {
    let looks = written.iter().map(|(kind, id, size)| async move {
        match store.stat(*kind, id).await? {
            Some(found) if found == *size => Ok(()),
            Some(found) => Err(store.damaged(format!("{} has {found} bytes, {size} were written", kind.path(id)))),
            None => Err(store.damaged(format!("{} was acknowledged and is not there", kind.path(id)))),
        }
    });
    stream::iter(looks).buffer_unordered(PARALLEL_LOOKS).try_collect().await
}

/// Takes the entry of a pack out of the index that holds it.
fn remove_entry(indexes: &mut [Value], pack: Id) -> Option<Value> {
    let id = json!(pack);
    indexes.iter_mut().find_map(|index| {
        let packs = index["packs"].as_array_mut()?;
        let position = packs.iter().position(|entry| entry["id"] == id)?;
        Some(packs.remove(position))
    })
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

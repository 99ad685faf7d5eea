//! Whether a snapshot that is there could be restored: its trees read, its parts are in the index, and their packs are in the
//! store, as long as they must be.
//!
//! No data is read; the check does that. It must not know why somebody wants to know.

use std::collections::HashSet;

use rustic_core::{Id, repofile::Tree};

use super::{
    Repository, RepositoryError,
    known::Known,
    pack::BlobKind,
    pack_check::look_for_packs,
    part::{Fetcher, Part},
    snapshot_files::read_one,
    store::Store,
};

/// How many trees are read together.
const BATCH_TREES: usize = 64;

impl Repository {
    /// Makes sure that all is there that a snapshot needs. `snapshot` is a whole id. Errors: [`RepositoryError::Damaged`] if
    /// something is missing.
    pub async fn verify(&self, snapshot: &str) -> Result<(), RepositoryError> {
        self.while_locked(|run| async move { verify(self, &run, snapshot).await }).await
    }
}

async fn verify(repository: &Repository, store: &Store, snapshot: &str) -> Result<(), RepositoryError> {
    let id = repository.snapshot_id(snapshot).await?;
    let root = read_one(store, &repository.cipher, *id).await?.tree;
    let known = Known::read(&repository.cipher, store).await?;
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    let missing = |what: &str, id: Id| {
        store.damaged(format!("the {what} {} of snapshot {snapshot} is not there", id.to_hex().as_str()))
    };
    let mut seen = HashSet::from([*root]);
    // A stack: what is found last is read first, so that it stays short.
    let mut waiting = vec![*root];
    while !waiting.is_empty() {
        let batch = waiting.split_off(waiting.len().saturating_sub(BATCH_TREES));
        let find = |id: &Id| {
            known.take(BlobKind::Tree, *id);
            known.tree(*id).ok_or_else(|| missing("tree", *id))
        };
        let parts = batch.iter().map(find).collect::<Result<Vec<Part>, _>>()?;
        for (id, json) in fetcher.clone().fetch_all(parts).await? {
            let tree: Tree = serde_json::from_slice(&json)
                .map_err(|error| store.damaged(format!("the tree {} cannot be read: {error}", id.to_hex().as_str())))?;
            for node in tree.nodes {
                let mut bytes = 0;
                for part in node.content.iter().flatten() {
                    bytes += u64::from(known.take(BlobKind::Data, **part).ok_or_else(|| missing("data", **part))?);
                }
                if node.is_file() && node.meta.size != bytes && node.meta.size != 0 {
                    return Err(store.damaged(format!(
                        "in snapshot {snapshot}, {:?} should have {} bytes and has parts of {bytes}",
                        node.name, node.meta.size
                    )));
                }
                if let Some(subtree) = node.subtree
                    && seen.insert(*subtree)
                {
                    waiting.push(*subtree);
                }
            }
        }
    }
    look_for_packs(store, &known.used_packs()).await
}

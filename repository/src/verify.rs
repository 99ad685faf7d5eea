//! Verifies that a snapshot can be restored: its trees can be read, its blobs are in the index, and the blobs' packs
//! are in the store with the right length. It does not read data blobs; the check does that.

use std::sync::Arc;

use super::{
    Repository, RepositoryError,
    format::{BlobKind, Id, Node},
    index::{blob_table::Marks, fetcher::Fetcher, known_blobs::KnownBlobs, pack_check::look_for_packs},
    snapshots::snapshot_files::read_one,
    store::Store,
    trees::tree_nodes::{fetch_batch, next_batch},
};

impl Repository {
    /// Makes sure that all blobs and packs that a snapshot needs are in the repository. `snapshot` is a whole id.
    ///
    /// Errors: [`RepositoryError::Damaged`] if something is missing.
    pub async fn verify(&self, snapshot: &str) -> Result<(), RepositoryError> {
        self.with_lock(|run| async move { verify(self, &run, snapshot).await }).await
    }
}

async fn verify(repository: &Repository, store: &Store, snapshot: &str) -> Result<(), RepositoryError> {
    let id = repository.snapshot_id(snapshot).await?;
    let root = read_one(store, &repository.cipher, id).await?.tree;
    let known = KnownBlobs::read_to_store(&repository.cipher, store, &repository.damaged_packs, &[]).await?;
    let known = Arc::new(known);
    let fetcher = Fetcher::new(store, &repository.cipher).with_copies(&known);
    let missing = |what: &str, id: Id| {
        let (id, lacking) = (id.to_hex(), known.lacking.as_cause());
        store.damaged(format!("the {what} blob {} of snapshot {snapshot} is missing{lacking}", id.as_str()))
    };
    let take = |kind, id| {
        known.take(kind, id)?.ok_or_else(|| missing(if kind == BlobKind::Tree { "tree" } else { "data" }, id))
    };
    let mut seen = Marks::new(known.len());
    // A stack: the tree that was found last is read first, so that the stack stays short.
    let mut waiting = vec![take(BlobKind::Tree, *root)?.number];
    let unreadable = |why: String| store.damaged(format!("a tree of snapshot {snapshot} cannot be read: {why}"));
    while !waiting.is_empty() {
        let batch = next_batch(&mut waiting, |number| known.part_at(number))?;
        for (_, tree) in fetch_batch::<Node>(&fetcher, &batch).await? {
            let mut nodes = tree.map_err(unreadable)?;
            while let Some(node) = nodes.next()?.map_err(unreadable)? {
                let mut bytes = 0;
                for id in node.content.iter().flatten() {
                    bytes += u64::from(take(BlobKind::Data, **id)?.part.plain_length);
                }
                if node.is_file() && node.meta.size != bytes && node.meta.size != 0 {
                    return Err(store.damaged(format!(
                        "in snapshot {snapshot}, {:?} should have {} bytes, but its blobs have {bytes}",
                        node.name, node.meta.size
                    )));
                }
                if let Some(subtree) = node.subtree {
                    let tree = take(BlobKind::Tree, *subtree)?;
                    if seen.set(tree.number) {
                        waiting.push(tree.number);
                    }
                }
            }
        }
    }
    look_for_packs(store, &known.used_packs()).await
}

//! Whether a snapshot that is there could be restored: its trees read, its parts are in the index, and their packs are in the
//! store, as long as they must be.
//!
//! No data is read; the check does that. It must not know why somebody wants to know.

use rustic_core::{Id, repofile::Node};

use super::{
    Repository, RepositoryError,
    blob_table::Marks,
    known::Known,
    pack::BlobKind,
    pack_check::look_for_packs,
    part::Fetcher,
    snapshot_files::read_one,
    store::Store,
    tree_nodes::{fetch_batch, next_batch},
};

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
        let (id, lacking) = (id.to_hex(), known.lacking.as_cause());
        store.damaged(format!("the {what} {} of snapshot {snapshot} is not there{lacking}", id.as_str()))
    };
    let take = |kind, id| {
        known.take(kind, id)?.ok_or_else(|| missing(if kind == BlobKind::Tree { "tree" } else { "data" }, id))
    };
    let mut seen = Marks::new(known.len());
    // A stack: what is found last is read first, so that it stays short.
    let mut waiting = vec![take(BlobKind::Tree, *root)?.place];
    let unreadable = |why: String| store.damaged(format!("a tree of snapshot {snapshot} cannot be read: {why}"));
    while !waiting.is_empty() {
        let batch = next_batch(&mut waiting, |place| known.part_at(place))?;
        for (_, tree) in fetch_batch::<Node>(&fetcher, &batch).await? {
            let mut nodes = tree.map_err(unreadable)?;
            while let Some(node) = nodes.next()?.map_err(unreadable)? {
                let mut bytes = 0;
                for id in node.content.iter().flatten() {
                    bytes += u64::from(take(BlobKind::Data, **id)?.part.plain_length);
                }
                if node.is_file() && node.meta.size != bytes && node.meta.size != 0 {
                    return Err(store.damaged(format!(
                        "in snapshot {snapshot}, {:?} should have {} bytes and has parts of {bytes}",
                        node.name, node.meta.size
                    )));
                }
                if let Some(subtree) = node.subtree {
                    let tree = take(BlobKind::Tree, *subtree)?;
                    if seen.set(tree.place) {
                        waiting.push(tree.place);
                    }
                }
            }
        }
    }
    look_for_packs(store, &known.used_packs()).await
}

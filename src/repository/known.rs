//! What a repository has already, by its index files: which blobs, and where its trees are.
//!
//! It must not know what is to be stored.

use futures::{StreamExt, stream};
use rustic_core::Id;

use super::{
    RepositoryError,
    crypto::{Cipher, OVERHEAD_BYTES},
    index_file::{IndexFile, IndexedPack, PARALLEL_READS},
    pack::{BlobKind, PackedBlob},
    part::Part,
    store::{Kind, Store},
};

/// The blobs of all packs that no prune has marked.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Sorted.
    data: Vec<Id>,
    /// Sorted by their ids.
    trees: Vec<Part>,
}

impl Known {
    /// Reads all index files. One that cannot be read is an error: what it names would be stored once more, and what is
    /// wrong with it stay unseen.
    pub async fn read(cipher: &Cipher, store: &Store) -> Result<Self, RepositoryError> {
        let listed = store.list(Kind::Index).await?;
        let reads = listed.into_iter().map(|(id, _)| async move { (id, IndexFile::read(cipher, store, id).await) });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
        let mut known = Self::default();
        while let Some((id, read)) = reads.next().await {
            let file = read?.map_err(|why| store.damaged(format!("{}: {why}", Kind::Index.path(&id))))?;
            file.packs.into_iter().for_each(|pack| known.add(pack));
        }
        known.data.sort_unstable();
        known.data.dedup();
        known.data.shrink_to_fit();
        known.trees.sort_unstable_by_key(|tree| tree.id);
        known.trees.dedup_by_key(|tree| tree.id);
        Ok(known)
    }

    fn add(&mut self, pack: IndexedPack) {
        for blob in pack.blobs {
            match blob.kind {
                BlobKind::Data => self.data.push(blob.id),
                BlobKind::Tree => self.trees.push(blob.part(pack.id)),
            }
        }
    }

    /// Whether a blob is there.
    pub fn has(&self, kind: BlobKind, id: Id) -> bool {
        match kind {
            BlobKind::Data => self.data.binary_search(&id).is_ok(),
            BlobKind::Tree => self.tree(id).is_some(),
        }
    }

    /// Where a tree is.
    pub fn tree(&self, id: Id) -> Option<Part> {
        let place = self.trees.binary_search_by_key(&id, |tree| tree.id).ok()?;
        self.trees.get(place).copied()
    }
}

impl PackedBlob {
    /// As something to fetch out of that pack.
    pub fn part(&self, pack: Id) -> Part {
        let plain = self.length.saturating_sub(u32::try_from(OVERHEAD_BYTES).unwrap_or(0));
        Part {
            id: self.id,
            pack,
            offset: self.offset,
            length: self.length,
            plain_length: self.uncompressed_length.unwrap_or(plain),
            compressed: self.uncompressed_length.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: BlobKind, id: u8) -> PackedBlob {
        PackedBlob { id: Id::new([id; 32]), kind, offset: 7, length: 40, uncompressed_length: None }
    }

    #[test]
    fn blobs_are_known_by_kind_and_id() {
        let mut known = Known::default();
        for (pack, blobs) in
            [(9, vec![blob(BlobKind::Data, 3), blob(BlobKind::Data, 1)]), (8, vec![blob(BlobKind::Tree, 2)])]
        {
            known.add(IndexedPack { id: Id::new([pack; 32]), blobs });
        }
        known.data.sort_unstable();
        let has = |kind, id| known.has(kind, Id::new([id; 32]));
        assert!(has(BlobKind::Data, 1) && has(BlobKind::Data, 3) && has(BlobKind::Tree, 2));
        assert!(!has(BlobKind::Tree, 1) && !has(BlobKind::Data, 2));
        let tree = known.tree(Id::new([2; 32])).unwrap();
        assert_eq!((tree.pack, tree.offset, tree.length, tree.plain_length), (Id::new([8; 32]), 7, 40, 8));
    }
}

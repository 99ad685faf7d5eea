//! The data of a repository without a snapshot. It shows whether the repository never had a snapshot, or has lost all
//! of them.

use super::{
    Repository, RepositoryError,
    format::{BlobKind, IndexFile, PackedBlob},
    store::Kind,
    trees::tree_nodes::SHORT_BYTES,
};

/// What a repository without a snapshot contains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Remains {
    /// How many packs are in the store. A backup that failed leaves packs.
    pub packs: u64,
    /// How many small folders of snapshots the index files list. Each snapshot has at least one, because the path to the
    /// stored content is made of them. A first backup that was interrupted has none, unless it stored thousands of
    /// folders: only large ones are stored at once.
    pub trees: u64,
    /// How many index files cannot be read.
    pub unreadable: u64,
}

impl Repository {
    /// Looks for the data of lost snapshots.
    pub async fn remains(&self) -> Result<Remains, RepositoryError> {
        let mut remains = Remains { packs: self.store.list(Kind::Pack).await?.len() as u64, ..Remains::default() };
        IndexFile::read_each(&self.cipher, &self.store, |_, read| {
            match read {
                Ok(file) => {
                    let blobs = file.packs.iter().flat_map(|pack| &pack.blobs);
                    let is_small =
                        |blob: &&PackedBlob| blob.kind == BlobKind::Tree && blob.plain_length() <= SHORT_BYTES / 2;
                    remains.trees += blobs.filter(is_small).count() as u64;
                }
                Err(_) => remains.unreadable += 1,
            }
            Ok(())
        })
        .await?;
        Ok(remains)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        create,
        fixtures::access,
        format::{Id, IndexedPack},
    };

    #[tokio::test]
    async fn only_small_trees_count_because_a_backup_stores_large_ones_before_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let repository = create(access(directory.path()), CancellationToken::new()).await.unwrap();
        let (store, format) = (&repository.store, (&repository.cipher, repository.version));
        let blob = |kind, length| PackedBlob {
            id: Id::new([7; 32]),
            kind,
            offset: 0,
            length: 100,
            uncompressed_length: Some(length),
        };
        let index =
            |blobs| IndexFile { packs: vec![IndexedPack { id: Id::new([9; 32]), blobs }], ..IndexFile::default() };
        let large = SHORT_BYTES / 2 + 1;
        index(vec![blob(BlobKind::Tree, large), blob(BlobKind::Data, 8)]).write(format, store).await.unwrap();
        assert_eq!(repository.remains().await.unwrap(), Remains::default(), "an interrupted backup leaves these");
        index(vec![blob(BlobKind::Tree, large), blob(BlobKind::Tree, large - 1)]).write(format, store).await.unwrap();
        assert_eq!(repository.remains().await.unwrap().trees, 1, "all trees were stored");
    }
}

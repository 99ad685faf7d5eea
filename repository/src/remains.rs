//! The data of a repository without a snapshot. It shows whether the repository never had a snapshot, or has lost all
//! of them.

use super::{
    Repository, RepositoryError,
    index_file::IndexFile,
    pack::{BlobKind, PackedBlob},
    store::Kind,
    tree_nodes::SHORT_BYTES,
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

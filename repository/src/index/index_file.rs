//! Reads and writes index files.

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    RepositoryError,
    crypto::{self, Cipher},
    format::{Id, IndexFile},
    store::{Kind, Store, Write},
};

/// How many index files are read in parallel.
pub(crate) const PARALLEL_READS: usize = 8;
/// How many bytes of index files, as they are stored, are read in parallel. A single file may be longer. In memory a
/// file needs up to six times as much.
const READ_BYTES: u32 = 3 << 20;
/// How many blobs an index file lists; the same number as in restic.
pub(crate) const INDEX_BLOBS: usize = 50_000;

impl IndexFile {
    /// Reads all index files of a repository, a few in parallel, and calls `each` with every file. The inner error
    /// states why a file cannot be read.
    pub async fn read_each(
        cipher: &Cipher,
        store: &Store,
        mut each: impl FnMut(Id, Result<Self, String>) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let budget = Semaphore::new(READ_BYTES as usize);
        let reads = store.list(Kind::Index).await?.into_iter().map(|(id, size)| {
            let budget = &budget;
            // Some stores list files without sizes.
            let size = if size == 0 { READ_BYTES / 2 } else { u32::try_from(size).unwrap_or(READ_BYTES) };
            async move {
                let permit = budget.acquire_many(size.min(READ_BYTES)).await.map_err(|error| store.internal(error))?;
                // The permit is held until `each` has received the file.
                Ok::<_, RepositoryError>((id, Self::read(cipher, store, id).await?, permit))
            }
        });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
        while let Some(read) = reads.next().await {
            let (id, read, _permit) = read?;
            each(id, read)?;
        }
        Ok(())
    }

    async fn read(cipher: &Cipher, store: &Store, id: Id) -> Result<Result<Self, String>, RepositoryError> {
        let content = match store.read(Kind::Index, &id).await? {
            Some(content) if crypto::id_of(&content) == id => content,
            Some(_) => return Ok(Err("it is not what was written".to_owned())),
            None => return Ok(Err("it was removed after it was listed".to_owned())),
        };
        let cipher = cipher.clone();
        let parsed = spawn_blocking(move || {
            let json = cipher.decrypt_file(&content).map_err(|error| error.to_string())?;
            serde_json::from_slice(&json).map_err(|error| format!("it is not an index: {error}"))
        });
        parsed.await.map_err(|panic| store.internal(panic))
    }

    /// Writes the index file, in the format of the repository's version. Returns the file's kind, id and length.
    pub async fn write(
        &self,
        (cipher, version): (&Cipher, u32),
        store: &Store,
    ) -> Result<(Kind, Id, u64), RepositoryError> {
        let json = serde_json::to_vec(self).map_err(|error| store.internal(error))?;
        let content: Bytes = cipher.encrypt_file(&json, version).map_err(|error| store.internal(error))?.into();
        let (id, size) = (crypto::id_of(&content), content.len() as u64);
        store.write(Kind::Index, &id, vec![content], Write::Replace).await?;
        Ok((Kind::Index, id, size))
    }
}

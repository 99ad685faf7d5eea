//! Index files as a reader needs them: without packs that the store does not have, and empty where one cannot be read.
//!
//! A blob whose pack was lost may have been stored again, so that the index names two copies of it and one of them is there.
//! The engine takes any copy that the index names. It must not know who reads.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use rustic_core::Id;
use tokio::sync::OnceCell;

use super::{
    RepositoryError,
    archive::internal,
    crypto::Cipher,
    index_file::IndexFile,
    pack_check::{PackLength, SAMPLE},
    store::{Kind, Store},
};

/// Reads index files for one task.
pub(super) struct ReadableIndex {
    cipher: Cipher,
    version: u32,
    /// Lengths of the packs, listed once.
    packs: OnceCell<HashMap<Id, u64>>,
    /// What was left out, and the path of the first of it.
    left_out: Mutex<(u64, String)>,
}

impl fmt::Debug for ReadableIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReadableIndex").field("left_out", &self.left_out).finish_non_exhaustive()
    }
}

impl ReadableIndex {
    pub fn new(cipher: Cipher, version: u32) -> Self {
        Self { cipher, version, packs: OnceCell::new(), left_out: Mutex::default() }
    }

    /// What the index names and the store does not have, if there is any of it.
    pub fn lacking(&self) -> Option<String> {
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, first) = &*left_out;
        (*count > 0).then(|| {
            format!("{count} of the files that the index needs are missing, cut or unreadable, such as {first}")
        })
    }

    /// An index file as the engine is to see it.
    pub async fn read(&self, store: &Store, id: Id) -> Result<Bytes, RepositoryError> {
        let (mut file, sealed) = match IndexFile::read_sealed(&self.cipher, store, id).await? {
            Ok(file) => file,
            Err(why) => {
                let path = Kind::Index.path(&id);
                tracing::warn!("{path} cannot be read, and nothing is found that only it names: {why}");
                self.leave_out(path);
                return self.seal(store, &IndexFile::default());
            }
        };
        let mut doubtful = Vec::new();
        {
            let packs = self.packs.get_or_try_init(|| async {
                Ok::<_, RepositoryError>(store.list(Kind::Pack).await?.into_iter().collect())
            });
            let packs = packs.await?;
            for pack in &file.packs {
                let length = PackLength::of(&pack.blobs);
                if !packs.get(&pack.id).is_some_and(|size| length.fits(*size)) {
                    doubtful.push((pack.id, length));
                }
            }
        }
        let mut missing = HashSet::new();
        for (pack, length) in doubtful {
            // A store may list no sizes. One that has none of so many packs has none of the others.
            let is_hopeless = missing.len() >= SAMPLE;
            if is_hopeless || !store.stat(Kind::Pack, &pack).await?.is_some_and(|size| length.fits(size)) {
                self.leave_out(Kind::Pack.path(&pack));
                missing.insert(pack);
            }
        }
        if missing.is_empty() {
            return Ok(sealed);
        }
        file.packs.retain(|pack| !missing.contains(&pack.id));
        self.seal(store, &file)
    }

    fn seal(&self, store: &Store, file: &IndexFile) -> Result<Bytes, RepositoryError> {
        let json = serde_json::to_vec(file).map_err(|error| internal(store, error))?;
        Ok(self.cipher.encrypt_file(&json, self.version).map_err(|error| internal(store, error))?.into())
    }

    fn leave_out(&self, path: String) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.0 += 1;
        if left_out.1.is_empty() {
            left_out.1 = path;
        }
    }
}

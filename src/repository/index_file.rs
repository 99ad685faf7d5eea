//! Index files: which packs there are, and which blobs are in them.
//!
//! It must not know what the blobs are for. Format: restic's design document, section "Indexing"; `packs_to_delete` is
//! rustic's: packs that its prune has marked and may remove from then on, which restic takes for unreferenced.

use bytes::Bytes;
use rustic_core::Id;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::spawn_blocking;

use super::{
    RepositoryError,
    archive::internal,
    crypto::{self, Cipher},
    pack::PackedBlob,
    store::{Kind, Store, Write},
};

/// How many index files are read at a time.
pub(super) const PARALLEL_READS: usize = 8;
/// How many blobs an index file names; restic's own number.
pub(super) const INDEX_BLOBS: usize = 50_000;

/// An index file.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct IndexFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub packs: Vec<IndexedPack>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing)]
    pub packs_to_delete: Vec<IndexedPack>,
}

/// A pack in an index file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct IndexedPack {
    pub id: Id,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub blobs: Vec<PackedBlob>,
}

/// Go writes an empty list as null.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl IndexFile {
    /// Blobs of all packs that stay.
    pub fn blobs(&self) -> usize {
        self.packs.iter().map(|pack| pack.blobs.len()).sum()
    }

    /// Reads one; the inner error says why it is none.
    pub async fn read(cipher: &Cipher, store: &Store, id: Id) -> Result<Result<Self, String>, RepositoryError> {
        Ok(Self::read_sealed(cipher, store, id).await?.map(|(file, _)| file))
    }

    /// The same with the file as it is stored.
    pub async fn read_sealed(
        cipher: &Cipher,
        store: &Store,
        id: Id,
    ) -> Result<Result<(Self, Bytes), String>, RepositoryError> {
        let content = match store.read(Kind::Index, &id).await? {
            Some(content) if crypto::id_of(&content) == id => content,
            Some(_) => return Ok(Err("it is not what was written".to_owned())),
            None => return Ok(Err("it is gone since it was listed".to_owned())),
        };
        let cipher = cipher.clone();
        let parsed = spawn_blocking(move || {
            let json = cipher.decrypt_file(&content).map_err(|error| error.to_string())?;
            let file = serde_json::from_slice(&json).map_err(|error| format!("it is no index: {error}"))?;
            Ok((file, content))
        });
        parsed.await.map_err(|panic| internal(store, panic))
    }

    /// Writes it into a repository of that format, and tells which file it is, and how long.
    pub async fn write(
        &self,
        (cipher, version): (&Cipher, u32),
        store: &Store,
    ) -> Result<(Kind, Id, u64), RepositoryError> {
        let json = serde_json::to_vec(self).map_err(|error| internal(store, error))?;
        let content: Bytes = cipher.encrypt_file(&json, version).map_err(|error| internal(store, error))?.into();
        let (id, size) = (crypto::id_of(&content), content.len() as u64);
        store.write(Kind::Index, &id, vec![content], Write::Replace).await?;
        Ok((Kind::Index, id, size))
    }
}

//! Index files, which list packs and their blobs. Source: restic's design document, section "Indexing". The field
//! `packs_to_delete` is an extension of rustic: it lists packs that rustic's prune has marked for removal. restic
//! treats these packs as unreferenced.

use serde::{Deserialize, Serialize};

use super::{Id, null_is_empty};

/// An index file.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct IndexFile {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub packs: Vec<IndexedPack>,
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing)]
    pub packs_to_delete: Vec<IndexedPack>,
}

/// A pack in an index file.
#[derive(Debug, Deserialize, Serialize)]
pub struct IndexedPack {
    pub id: Id,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub blobs: Vec<PackedBlob>,
}

/// A blob's entry in an index file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PackedBlob {
    pub id: Id,
    #[serde(rename = "type")]
    pub kind: BlobKind,
    pub offset: u32,
    /// Bytes in the pack.
    pub length: u32,
    /// Bytes before compression; none if it is not compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompressed_length: Option<u32>,
}

/// The kind of a blob: file content, or a tree.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    Data,
    Tree,
}

impl IndexFile {
    /// Returns the number of blobs in packs that are not marked for removal.
    pub fn blobs(&self) -> usize {
        self.packs.iter().map(|pack| pack.blobs.len()).sum()
    }
}

impl PackedBlob {
    /// Returns the offset of the blob's end in the pack.
    pub fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }
}

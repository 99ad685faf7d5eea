//! The formats of the files and blobs of a repository, as values and their JSON. Source: restic's design document
//! (`doc/design.rst` of restic, published as "References"), and the files which restic and rustic write.
//!
//! Fields which Stowaway neither uses nor writes are ignored. What is written has the same fields, in the same order,
//! as what earlier versions of Stowaway wrote, because a tree's id depends on each byte of it. The code here must not
//! use the rest of the crate: encryption, compression and the binary header of a pack are in `crypto` and `pack`.

mod binary;
mod config;
mod id;
mod index;
mod key;
mod lock;
mod name;
mod node;
mod snapshot;
#[cfg(test)]
mod tests;
mod time;
mod tree;

use serde::{Deserialize, Deserializer};

pub(crate) use self::{
    binary::Binary,
    config::ConfigFile,
    id::{DataId, Id, TreeId, hex},
    index::{BlobKind, IndexFile, IndexedPack, PackedBlob},
    key::{KeyFile, MASTER_KEY_BYTES, MasterKey},
    lock::LockFile,
    node::{ExtendedAttribute, LinkTarget, Metadata, Node, NodeType},
    snapshot::{SnapshotFile, SnapshotSummary},
    tree::{TREE_BEGIN, TREE_END, Tree},
};

/// Deserializes a list. Go's JSON encoder writes an empty list as null.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Whether a value is the default of its type. Fields with this value are not written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

//! The directory tree of a snapshot that holds one file, as restic's own packs hold it.
//!
//! The engine (`rustic_core` 0.13) would store a stream's file with size 0, mode 0 and no time under a relative path; of
//! such a file restic's mount, and its restore of 0.14, make an empty one. So the trees are made here. Formats: restic's
//! design document, section "Trees and Data". It must not know the store.

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::{
    DataId, Id, TreeId,
    repofile::{Metadata, Node, NodeType, Tree},
};
use serde_json::Value;

use super::{
    RepositoryError,
    crypto::{self, Cipher, CryptoError},
    pack::{BlobKind, Packing},
};

/// A dump may hold secrets: only its owner may read what is restored.
const FILE_MODE: u32 = 0o600;
/// Modes are in the form of Go's `fs.FileMode`, whose highest bit says "directory".
const DIRECTORY_MODE: u32 = 1 << 31 | 0o755;

/// A pack of a snapshot's few trees.
pub(super) struct TreePack {
    pub root: TreeId,
    pub id: Id,
    pub content: Bytes,
    /// Its entry in an index file.
    pub entry: Value,
    /// Bytes of the trees before compression.
    pub plain_bytes: u64,
    pub trees: u64,
}

/// Whether a path can be a file's in a snapshot: absolute, and without empty or dotted parts.
pub(super) fn checked_path(path: &str) -> Result<Vec<&str>, RepositoryError> {
    let names: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..") || name.contains('\0')) {
        return Err(RepositoryError::InvalidRequest(format!(
            "{path:?} cannot be the path of a stored file: it is absolute, like /shop-db.sql"
        )));
    }
    Ok(names)
}

fn metadata(mode: u32, size: u64, time: Timestamp) -> Metadata {
    Metadata {
        mode: Some(mode),
        mtime: Some(time),
        atime: Some(time),
        ctime: Some(time),
        uid: Some(0),
        gid: Some(0),
        size,
        ..Metadata::default()
    }
}

/// Of a folder that is there only to lead to what was stored.
pub(super) fn folder_metadata(time: Timestamp) -> Metadata {
    metadata(DIRECTORY_MODE, 0, time)
}

/// One file at an absolute path, as the trees of a snapshot; the last one is the root.
pub(super) fn file_trees(
    path: &str,
    content: Vec<DataId>,
    size: u64,
    time: Timestamp,
) -> Result<Vec<Tree>, RepositoryError> {
    let mut names = checked_path(path)?;
    let mut node =
        Node::new_node(names.pop().unwrap_or_default().as_ref(), NodeType::File, metadata(FILE_MODE, size, time));
    node.content = Some(content);
    let mut trees = vec![Tree { nodes: vec![node] }];
    for name in names.into_iter().rev() {
        let mut node = Node::new_node(name.as_ref(), NodeType::Dir, folder_metadata(time));
        let below = trees.last().map(Tree::serialize).transpose();
        node.subtree = below.map_err(|error| RepositoryError::InvalidRequest(error.to_string()))?.map(|(_, id)| id);
        trees.push(Tree { nodes: vec![node] });
    }
    Ok(trees)
}

/// Packs trees, the last of which is the root.
pub(super) fn pack(cipher: &Cipher, version: u32, trees: &[Tree]) -> Result<TreePack, CryptoError> {
    let mut packing = Packing::default();
    let (mut root, mut plain_bytes) = (TreeId::default(), 0);
    for tree in trees {
        let format = |error: &dyn std::fmt::Display| CryptoError::Format(error.to_string());
        let (json, id) = tree.serialize().map_err(|error| format(&error))?;
        let (blob, uncompressed) = if version >= 2 {
            let length = u32::try_from(json.len()).map_err(|error| format(&error))?;
            (cipher.encrypt(&crypto::compress(&json)?)?, Some(length))
        } else {
            (cipher.encrypt(&json)?, None)
        };
        packing.add(BlobKind::Tree, *id, &blob, uncompressed)?;
        (root, plain_bytes) = (id, plain_bytes + json.len() as u64);
    }
    let packed = packing.finish(cipher)?.ok_or_else(|| CryptoError::Format("a snapshot without a tree".into()))?;
    let entry = serde_json::json!({ "id": packed.id, "blobs": packed.blobs });
    Ok(TreePack { root, id: packed.id, content: packed.content, entry, plain_bytes, trees: trees.len() as u64 })
}

/// The only tree of a pack, found by the pack's entry in an index file.
pub(super) fn only_tree(cipher: &Cipher, pack: &[u8], entry: &Value) -> Result<Tree, CryptoError> {
    let unexpected = || CryptoError::Format(format!("unexpected index entry {entry}"));
    let [blob] = entry["blobs"].as_array().map(Vec::as_slice).unwrap_or_default() else { return Err(unexpected()) };
    let number = |field: &str| blob[field].as_u64().and_then(|number| usize::try_from(number).ok());
    let (offset, length) = number("offset").zip(number("length")).ok_or_else(unexpected)?;
    let sealed = pack.get(offset..offset + length).ok_or_else(unexpected)?;
    let plain = cipher.decrypt(sealed)?;
    let json = if number("uncompressed_length").is_some() { crypto::decompress(&plain)? } else { plain };
    serde_json::from_slice(&json).map_err(|error| CryptoError::Format(error.to_string()))
}

#[cfg(test)]
mod tests {
    use rustic_core::repofile::MasterKey;

    use super::*;

    #[test]
    fn paths_that_no_file_can_have_are_refused() {
        for path in ["", "/", "a", "a/b", "/a/", "//a", "/a//b", "/..", "/a/../b", "/./a", "/a\0"] {
            assert!(checked_path(path).is_err(), "{path:?}");
        }
        assert_eq!(checked_path("/a/b.sql").unwrap(), ["a", "b.sql"]);
    }

    #[test]
    fn packed_tree_is_found_again() {
        let cipher = Cipher::of(&MasterKey::new()).unwrap();
        for version in [1, 2] {
            let trees = file_trees("/a.sql", vec![DataId::default()], 7, Timestamp::UNIX_EPOCH).unwrap();
            let packed = pack(&cipher, version, &trees).unwrap();
            let tree = only_tree(&cipher, &packed.content, &packed.entry).unwrap();
            assert_eq!(tree.nodes, trees[0].nodes);
            assert_eq!(packed.root, trees[0].serialize().unwrap().1);
        }
    }

    #[test]
    fn nested_path_becomes_one_tree_a_folder() {
        let trees = file_trees("/a/b/c.sql", vec![], 0, Timestamp::UNIX_EPOCH).unwrap();
        let names: Vec<&str> = trees.iter().map(|tree| tree.nodes[0].name.as_str()).collect();
        assert_eq!(names, ["c.sql", "b", "a"]);
        assert_eq!(trees[1].nodes[0].subtree, Some(trees[0].serialize().unwrap().1));
    }
}

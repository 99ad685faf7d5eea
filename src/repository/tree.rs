//! Trees as restic's packs hold them: what is in a folder, and the one file of a stream with the folders that lead to it.
//!
//! Format: restic's design document, section "Trees and Data". It must not know the store.

use jiff::Timestamp;
use rustic_core::{
    DataId, TreeId,
    repofile::{Metadata, Node, NodeType},
};

use super::{RepositoryError, pack::BlobKind, packer::Packer};

/// A dump may hold secrets: only its owner may read what is restored.
const FILE_MODE: u32 = 0o600;
/// Modes are in the form of Go's `fs.FileMode`, whose highest bit says "directory".
const DIRECTORY_MODE: u32 = 1 << 31 | 0o755;

/// How a tree begins and ends; restic's ends with a line feed.
const BEGIN: &[u8] = b"{\"nodes\":[";
const END: &[u8] = b"]}\n";

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

/// A tree on its way to be a blob. It is JSON from the first node on, and takes as much memory as it will be long.
pub(super) struct TreeWriter(Vec<u8>);

impl TreeWriter {
    pub fn new() -> Self {
        Self(BEGIN.to_vec())
    }

    /// Appends a node. They come in order of their names' bytes.
    pub fn add(&mut self, node: &Node) -> serde_json::Result<()> {
        if self.0.len() > BEGIN.len() {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, node)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend(END);
        self.0
    }
}

/// Stores one file at an absolute path as the trees of a snapshot; gives the root, and how many folders lead to the file.
pub(super) fn save_file(
    packer: &Packer,
    path: &str,
    content: Vec<DataId>,
    size: u64,
    time: Timestamp,
) -> Result<(TreeId, u64), RepositoryError> {
    let mut names = checked_path(path)?;
    let name = names.pop().unwrap_or_default();
    let mut node = Node::new_node(name.as_ref(), NodeType::File, metadata(FILE_MODE, size, time));
    node.content = Some(content);
    let mut tree = save_only(packer, &node)?;
    for name in names.iter().rev() {
        let mut node = Node::new_node(name.as_ref(), NodeType::Dir, folder_metadata(time));
        node.subtree = Some(tree);
        tree = save_only(packer, &node)?;
    }
    Ok((tree, names.len() as u64))
}

/// Stores a tree of a single node.
fn save_only(packer: &Packer, node: &Node) -> Result<TreeId, RepositoryError> {
    let mut writer = TreeWriter::new();
    writer.add(node).map_err(|error| RepositoryError::InvalidRequest(error.to_string()))?;
    packer.save(BlobKind::Tree, &writer.finish()).map(TreeId::from)
}

#[cfg(test)]
mod tests {
    use rustic_core::repofile::Tree;

    use super::*;

    #[test]
    fn paths_that_no_file_can_have_are_refused() {
        for path in ["", "/", "a", "a/b", "/a/", "//a", "/a//b", "/..", "/a/../b", "/./a", "/a\0"] {
            assert!(checked_path(path).is_err(), "{path:?}");
        }
        assert_eq!(checked_path("/a/b.sql").unwrap(), ["a", "b.sql"]);
    }

    #[test]
    fn trees_are_what_the_library_makes_of_them() {
        let mut nodes = Vec::new();
        for name in ["a", "b\"", "c"] {
            let mut writer = TreeWriter::new();
            for node in &nodes {
                writer.add(node).unwrap();
            }
            let tree = Tree { nodes: nodes.clone() };
            assert_eq!(writer.finish(), tree.serialize().unwrap().0);
            nodes.push(Node::new_node(name.as_ref(), NodeType::Dir, folder_metadata(Timestamp::UNIX_EPOCH)));
        }
    }
}

//! Stores the tree of a stream's single file, with its parent folders.

use jiff::Timestamp;

use super::{
    RepositoryError,
    format::{DataId, Node, NodeType, TreeId},
    packer::Packer,
    trees::tree::{TreeWriter, checked_path, folder_metadata, metadata},
};

/// A dump may contain secrets, so only the owner may read the restored file.
const FILE_MODE: u32 = 0o600;

/// Stores the trees of a snapshot with a single file at an absolute path. Returns the root, and the number of parent
/// folders.
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
    let mut writer = TreeWriter::new(packer.version());
    writer.add(node)?;
    packer.save_tree(writer.finish()?).map(TreeId::from)
}

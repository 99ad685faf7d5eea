//! Writes trees in restic's format.

use std::io::{self, Write};

use jiff::Timestamp;

use super::tree_nodes::SHORT_BYTES;
use crate::{
    RepositoryError,
    format::{Metadata, Node, TREE_BEGIN, TREE_END},
    long_blob::{LongBlob, LongWriter},
    scratch,
};

/// Modes are in the form of Go's `fs.FileMode`, whose highest bit means "directory".
const DIRECTORY_MODE: u32 = 1 << 31 | 0o755;

/// Splits the path of a file in a snapshot into names. The path must be absolute, without empty names, `.` and `..`.
pub(crate) fn checked_path(path: &str) -> Result<Vec<&str>, RepositoryError> {
    let names: Vec<&str> = path.strip_prefix('/').unwrap_or_default().split('/').collect();
    if names.iter().any(|name| matches!(*name, "" | "." | "..") || name.contains('\0')) {
        return Err(RepositoryError::InvalidRequest(format!(
            "{path:?} cannot be the path of a stored file: give an absolute path, such as /shop-db.sql"
        )));
    }
    Ok(names)
}

/// Returns the metadata of an entry that Stowaway makes itself.
pub(crate) fn metadata(mode: u32, size: u64, time: Timestamp) -> Metadata {
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

/// Returns the metadata of a folder which is stored only as a parent of the stored data.
pub(crate) fn folder_metadata(time: Timestamp) -> Metadata {
    metadata(DIRECTORY_MODE, 0, time)
}

/// A tree that is being written as JSON: in memory while it is short, otherwise in a temporary file.
pub(crate) struct TreeWriter {
    /// The version of the repository's format.
    version: u32,
    /// The JSON that is not in the file yet.
    json: Vec<u8>,
    is_empty: bool,
    long: Option<LongWriter>,
}

/// A complete tree, not stored yet.
pub(crate) enum FinishedTree {
    Short(Vec<u8>),
    Long(LongBlob),
}

impl FinishedTree {
    /// Returns the length before compression.
    pub fn length(&self) -> u64 {
        match self {
            Self::Short(json) => json.len() as u64,
            Self::Long(blob) => blob.length,
        }
    }
}

impl TreeWriter {
    pub fn new(version: u32) -> Self {
        Self { version, json: TREE_BEGIN.to_vec(), is_empty: true, long: None }
    }

    /// Appends a node. The caller adds nodes in the order of the bytes of their names.
    pub fn add(&mut self, node: &Node) -> Result<(), RepositoryError> {
        if !std::mem::take(&mut self.is_empty) {
            self.json.push(b',');
        }
        serde_json::to_writer(&mut *self, node).map_err(|error| scratch::failed(error.into()))
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.json.len() <= SHORT_BYTES as usize / 2 {
            return Ok(());
        }
        let long = match &mut self.long {
            Some(long) => long,
            none => none.insert(LongWriter::new(self.version)?),
        };
        long.write(&self.json)?;
        self.json.clear();
        Ok(())
    }

    /// Completes the tree.
    pub fn finish(mut self) -> Result<FinishedTree, RepositoryError> {
        self.json.extend(TREE_END);
        let Some(mut long) = self.long else { return Ok(FinishedTree::Short(self.json)) };
        let written = long.write(&self.json).and_then(|()| long.finish());
        written.map(FinishedTree::Long).map_err(scratch::failed)
    }
}

/// The serializer writes JSON directly to the tree, because a single node may be long: it lists all blobs of a file.
impl Write for TreeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.json.extend_from_slice(bytes);
        self.spill()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::id_of,
        format::{NodeType, Tree},
    };

    #[test]
    fn invalid_paths_of_files_are_refused() {
        for path in ["", "/", "a", "a/b", "/a/", "//a", "/a//b", "/..", "/a/../b", "/./a", "/a\0"] {
            assert!(checked_path(path).is_err(), "{path:?}");
        }
        assert_eq!(checked_path("/a/b.sql").unwrap(), ["a", "b.sql"]);
    }

    fn folder(name: &str) -> Node {
        Node::new_node(name.as_ref(), NodeType::Dir, folder_metadata(Timestamp::UNIX_EPOCH))
    }

    /// The JSON of a whole tree.
    fn json(nodes: &[Node]) -> Vec<u8> {
        let mut json = b"{\"nodes\":[".to_vec();
        for (number, node) in nodes.iter().enumerate() {
            json.extend(if number > 0 { &b","[..] } else { b"" });
            serde_json::to_writer(&mut json, node).unwrap();
        }
        json.extend(b"]}\n");
        json
    }

    #[test]
    fn tree_is_json_with_a_line_feed() {
        let mut nodes = Vec::new();
        for name in ["a", "b\"", "c"] {
            let mut writer = TreeWriter::new(2);
            for node in &nodes {
                writer.add(node).unwrap();
            }
            let FinishedTree::Short(written) = writer.finish().unwrap() else { panic!("it is short") };
            assert_eq!(written, json(&nodes));
            assert_eq!(serde_json::from_slice::<Tree<Node>>(&written).unwrap().nodes, nodes);
            nodes.push(folder(name));
        }
    }

    #[test]
    fn long_tree_has_the_id_that_it_would_have_in_memory() {
        let (mut writer, mut nodes) = (TreeWriter::new(2), Vec::new());
        for number in 0..20_000 {
            nodes.push(folder(&format!("{number:05}")));
            writer.add(nodes.last().unwrap()).unwrap();
        }
        let FinishedTree::Long(blob) = writer.finish().unwrap() else { panic!("it is long") };
        let json = json(&nodes);
        assert_eq!((blob.id, blob.length), (id_of(&json), json.len() as u64));
    }
}

//! Reads the trees of a snapshot: a single tree, the node at a path, or all entries in order. The functions block.

use std::{
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::tree_nodes::{SHORT_BYTES, TreeNodes};
use crate::{
    RepositoryError,
    format::{BlobKind, Id, Node, NodeType, TreeId},
    index::{blob_location::BlobLocation, fetcher::Fetcher, known_blobs::KnownBlobs},
};
use stowaway_model::{escape_name, unescape_name};

/// How many bytes before a tree are read with it, because the trees of its subfolders are stored before it.
const BEFORE_A_TREE: u32 = 64 * 1024;

/// Reads trees.
pub(crate) struct Trees<'a> {
    known: &'a KnownBlobs,
    pub fetcher: &'a Fetcher,
    runtime: &'a Handle,
    /// The part of a pack that was read last: the pack, the offset in it, and the bytes.
    window: Option<(Id, u32, Bytes)>,
}

impl<'a> Trees<'a> {
    pub fn new(known: &'a KnownBlobs, fetcher: &'a Fetcher, runtime: &'a Handle) -> Self {
        Self { known, fetcher, runtime, window: None }
    }

    /// Returns the location of a blob. `path` names the file or folder in an error message.
    pub fn part(&self, kind: BlobKind, id: Id, path: &Path) -> Result<BlobLocation, RepositoryError> {
        let found = self.known.find(kind, id)?;
        found.map(|blob| blob.part).ok_or_else(|| {
            let (id, path, lacking) = (id.to_hex(), path.display(), self.known.lacking.as_cause());
            self.damaged(&format!("the blob {} of {path:?} is in no index{lacking}", id.as_str()))
        })
    }

    /// Returns the entries of the folder at that path.
    pub fn open(&mut self, id: TreeId, path: &Path) -> Result<TreeNodes<Node>, RepositoryError> {
        let part = self.part(BlobKind::Tree, *id, path)?;
        if part.plain_length > SHORT_BYTES {
            return self.runtime.block_on(TreeNodes::fetch(self.fetcher, part));
        }
        let is_in = |(pack, start, bytes): &(Id, u32, Bytes)| {
            *pack == part.pack
                && *start <= part.offset
                && (part.offset - start) as usize + part.length as usize <= bytes.len()
        };
        if !self.window.as_ref().is_some_and(is_in) {
            let start = part.offset.saturating_sub(BEFORE_A_TREE);
            let length = part.offset - start + part.length;
            self.window = match self.runtime.block_on(self.fetcher.store.read_range(&part.pack, start, length)) {
                Err(RepositoryError::Damaged { .. }) => None,
                read => Some((part.pack, start, read?)),
            };
        }
        let opened = self.window.as_ref().map(|(_, start, sealed)| self.fetcher.open_within(&part, sealed, *start));
        let json = match opened {
            // The tree is read alone, and its copies in other packs after that.
            None | Some(Err(RepositoryError::Damaged { .. })) => self.runtime.block_on(self.fetcher.fetch(part))?,
            Some(opened) => opened?,
        };
        TreeNodes::of(&json).map_err(|why| self.unreadable(path, &why))
    }

    /// Returns the next entry of the folder at that path, or none after the last entry.
    pub fn next_of(&self, nodes: &mut TreeNodes<Node>, path: &Path) -> Result<Option<Node>, RepositoryError> {
        nodes.next()?.map_err(|why| self.unreadable(path, &why))
    }

    /// Returns the node at a path of a snapshot.
    pub fn node_at(&mut self, root: TreeId, path: &str) -> Result<Option<(Node, PathBuf)>, RepositoryError> {
        self.descend(Node { subtree: Some(root), kind: NodeType::Dir, ..Node::default() }, path)
    }

    /// Returns the node at a path below a folder, and the path as it is in the trees. A name in `path` is matched
    /// literally, or else in the form of [`escape_name`].
    pub fn descend(&mut self, mut node: Node, path: &str) -> Result<Option<(Node, PathBuf)>, RepositoryError> {
        let mut found = PathBuf::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(tree) = node.subtree else { return Ok(None) };
            let (mut entries, unescaped) = (self.open(tree, &found)?, unescape_name(name));
            let mut best = None;
            while let Some(entry) = self.next_of(&mut entries, &found)? {
                let is_exact = entry.name().as_bytes() == name.as_bytes();
                if is_exact || entry.name().as_bytes() == unescaped {
                    best = Some(entry);
                }
                if is_exact {
                    break;
                }
            }
            match best {
                Some(entry) => node = entry,
                None => return Ok(None),
            }
            found.push(node.name());
        }
        Ok(Some((node, found)))
    }

    /// Calls `each` with all entries and their paths below the root, until `each` breaks. A folder precedes its
    /// entries.
    pub fn walk(
        &mut self,
        root: TreeId,
        mut each: impl FnMut(&Path, Node) -> ControlFlow<()>,
    ) -> Result<(), RepositoryError> {
        let mut path = PathBuf::new();
        let mut levels = vec![self.open(root, &path)?];
        while let Some(level) = levels.last_mut() {
            let Some(node) = self.next_of(level, &path)? else {
                levels.pop();
                path.pop();
                continue;
            };
            let at = path.join(node.name());
            if let Some(tree) = node.subtree {
                levels.push(self.open(tree, &at)?);
                path.clone_from(&at);
            }
            if each(&at, node).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub fn damaged(&self, what: &str) -> RepositoryError {
        self.fetcher.store.damaged(what)
    }

    fn unreadable(&self, path: &Path, why: &str) -> RepositoryError {
        self.damaged(&format!("the tree of {} cannot be read: {why}", escape_name(path.as_os_str().as_bytes())))
    }
}

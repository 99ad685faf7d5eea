//! Reads the parent snapshot alongside the walk: finds the previous node of each entry, and decides whether its content
//! can be reused without reading the file.

use std::{cmp::Ordering, ffi::OsStr};

use tokio::runtime::Handle;

use crate::{
    RepositoryError,
    format::{BlobKind, Id, Node, TreeId},
    index::{fetcher::Fetcher, known_blobs::KnownBlobs},
    trees::tree_nodes::TreeNodes,
};

/// The parent's trees of the folders in which the walk is. Entries must be requested in the order of their names'
/// bytes, which is the order of the trees.
pub(super) struct Parent<'a> {
    known: &'a KnownBlobs,
    fetcher: Fetcher,
    runtime: Handle,
    levels: Vec<Level>,
}

/// A tree which was read up to some entry.
#[derive(Default)]
struct Level {
    /// The next entry, if it was already read.
    next: Option<Node>,
    nodes: TreeNodes<Node>,
}

impl<'a> Parent<'a> {
    /// Starts at the root of the parent snapshot. Without a root, the parent is empty.
    pub fn new(
        known: &'a KnownBlobs,
        fetcher: Fetcher,
        runtime: Handle,
        root: Option<TreeId>,
    ) -> Result<Self, RepositoryError> {
        let mut parent = Self { known, fetcher, runtime, levels: Vec::new() };
        parent.enter(root)?;
        Ok(parent)
    }

    /// Finds the node with this name, `depth` folders below the root.
    pub fn find(&mut self, depth: usize, name: &OsStr) -> Result<Option<Node>, RepositoryError> {
        self.levels.truncate(depth + 1);
        self.levels.get_mut(depth).map_or(Ok(None), |level| level.find(name))
    }

    /// Enters the folder which was found last. `None` means a folder which the parent does not have.
    pub fn enter(&mut self, folder: Option<TreeId>) -> Result<(), RepositoryError> {
        let level = self.level(folder)?;
        self.levels.push(level);
        Ok(())
    }

    /// Whether an entry has not changed, and its whole content is in the repository: all blobs are known, and their
    /// lengths add up to the file's size. The content may be shorter in an incomplete snapshot, or in one of another
    /// program.
    pub fn has_unchanged(&self, before: &Node, now: &Node) -> Result<bool, RepositoryError> {
        if !is_same(before, now) {
            return Ok(false);
        }
        let length = |id| Ok(self.known.take(BlobKind::Data, id)?.map(|blob| blob.part.plain_length));
        is_whole(before, length)
    }

    /// Opens a tree. If it cannot be read, it counts as empty, so that all of its files are read again.
    fn level(&self, tree: Option<TreeId>) -> Result<Level, RepositoryError> {
        let Some(tree) = tree else { return Ok(Level::default()) };
        let Some(blob) = self.known.find(BlobKind::Tree, *tree)? else { return Ok(Level::default()) };
        match self.runtime.block_on(TreeNodes::fetch(&self.fetcher, blob.part)) {
            Ok(nodes) => Ok(Level { next: None, nodes }),
            Err(RepositoryError::Damaged { what, .. }) => {
                warn(&what);
                Ok(Level::default())
            }
            Err(error) => Err(error),
        }
    }
}

impl Level {
    fn find(&mut self, name: &OsStr) -> Result<Option<Node>, RepositoryError> {
        loop {
            if self.next.is_none() {
                self.next = self.nodes.next()?.unwrap_or_else(|why| {
                    warn(&why);
                    self.nodes = TreeNodes::default();
                    None
                });
            }
            let Some(next) = &self.next else { return Ok(None) };
            match (*next.name()).cmp(name) {
                Ordering::Less => self.next = None,
                Ordering::Equal => return Ok(self.next.take()),
                Ordering::Greater => return Ok(None),
            }
        }
    }
}

fn warn(why: &str) {
    tracing::warn!("failed to read a tree of the parent snapshot, so its files are read again: {why}");
}

/// Whether the blobs of a file are as long as the file. `length` returns the plain length of a known blob.
fn is_whole(file: &Node, length: impl Fn(Id) -> Result<Option<u32>, RepositoryError>) -> Result<bool, RepositoryError> {
    let mut sum = 0;
    for id in file.content.iter().flatten() {
        match length(**id)? {
            Some(length) => sum += u64::from(length),
            None => return Ok(false),
        }
    }
    Ok(sum == file.meta.size)
}

/// Whether type, length, times and inode number are equal. The inode number is not compared if the snapshot does not
/// have it. Without a ctime, a change which preserves length and modification time cannot be seen, so the file counts
/// as changed.
fn is_same(before: &Node, now: &Node) -> bool {
    let (then, meta) = (&before.meta, &now.meta);
    before.kind == now.kind
        && then.size == meta.size
        && then.mtime == meta.mtime
        && then.ctime.is_some()
        && then.ctime == meta.ctime
        && (then.inode == 0 || then.inode == meta.inode)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::format::{Metadata, NodeType};

    fn file(metadata: Metadata) -> Node {
        Node::new_node("a".as_ref(), NodeType::File, metadata)
    }

    #[test]
    fn each_sign_of_a_change_counts() {
        let (then, now) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let as_it_was = Metadata { size: 7, mtime: Some(then), ctime: Some(then), inode: 9, ..Metadata::default() };
        let before = file(as_it_was.clone());
        assert!(is_same(&before, &file(as_it_was.clone())));
        for changed in [
            Metadata { size: 8, ..as_it_was.clone() },
            Metadata { mtime: Some(now), ..as_it_was.clone() },
            Metadata { ctime: Some(now), ..as_it_was.clone() },
            Metadata { inode: 8, ..as_it_was.clone() },
        ] {
            assert!(!is_same(&before, &file(changed.clone())), "{changed:?}");
        }
        let without_ctime = Metadata { ctime: None, ..as_it_was.clone() };
        assert!(!is_same(&file(without_ctime.clone()), &file(as_it_was.clone())), "a change could not be seen");
        assert!(!is_same(&file(without_ctime.clone()), &file(without_ctime)));
        let link = Node::new_node("a".as_ref(), NodeType::Fifo, as_it_was.clone());
        assert!(!is_same(&before, &link));
        let without_inode = file(Metadata { inode: 0, ..as_it_was.clone() });
        assert!(is_same(&without_inode, &file(as_it_was)));
    }

    #[test]
    fn content_that_is_not_as_long_as_the_file_is_not_taken_over() {
        let lengths = |id: Id| {
            let known = [(1, 4), (2, 3)].into_iter().find(|(known, _)| Id::new([*known; 32]) == id);
            Ok(known.map(|(_, length)| length))
        };
        for (size, content, is_reused) in [
            (7, Some(&[1, 2][..]), true),
            (0, None, true),
            (0, Some(&[]), true),
            (7, None, false),
            (7, Some(&[]), false),
            (7, Some(&[1]), false),
            (4, Some(&[1, 2]), false),
            (7, Some(&[1, 2, 3]), false),
            (4, Some(&[1, 3]), false),
        ] {
            let mut node = file(Metadata { size, ..Metadata::default() });
            node.content = content.map(|ids: &[u8]| ids.iter().map(|id| Id::new([*id; 32]).into()).collect());
            assert_eq!(is_whole(&node, lengths).unwrap(), is_reused, "{size}, {content:?}");
        }
    }
}

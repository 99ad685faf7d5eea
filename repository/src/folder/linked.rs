//! Files with several names (hard links) in a snapshot, and where the first name of each was created. In memory, each
//! file takes about 40 bytes. Its path is in a temporary file.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::OsString,
    fs::File,
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::FileExt,
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    RepositoryError,
    format::{Node, NodeType},
    scratch,
};

/// The first bytes of a hash of what all names of a file have in common.
type LinkId = [u8; 16];

/// Files whose first name was created and of which more names follow.
#[derive(Default)]
pub(super) struct LinkedFiles {
    files: HashMap<LinkId, Linked>,
    paths: Option<File>,
    /// The offset at which the next path is written.
    end: u64,
}

/// The location of a file's path, and the number of its names which are still to come.
struct Linked {
    at: u64,
    length: u32,
    left: u32,
}

impl LinkedFiles {
    /// Returns the path at which a file with several names was already created. If `path` is the file's first name, it
    /// is remembered and none is returned.
    pub fn first_name(&mut self, node: &Node, path: &Path) -> Result<Option<PathBuf>, RepositoryError> {
        // A device may be left out of the restore for lack of rights; then nothing could be linked to it.
        let is_device = matches!(node.kind, NodeType::Dev { .. } | NodeType::Chardev { .. });
        if node.meta.links < 2 || node.meta.inode == 0 || is_device {
            return Ok(None);
        }
        self.find_or_add(id_of(node), node.meta.links - 1, path).map_err(scratch::failed)
    }

    fn find_or_add(&mut self, id: LinkId, left: u64, path: &Path) -> io::Result<Option<PathBuf>> {
        let paths = match &mut self.paths {
            Some(paths) => paths,
            none => none.insert(scratch::file()?),
        };
        match self.files.entry(id) {
            Entry::Vacant(vacant) => {
                let path = path.as_os_str().as_bytes();
                paths.write_all_at(path, self.end)?;
                let length = u32::try_from(path.len()).map_err(io::Error::other)?;
                vacant.insert(Linked { at: self.end, length, left: u32::try_from(left).unwrap_or(u32::MAX) });
                self.end += u64::from(length);
                Ok(None)
            }
            Entry::Occupied(mut occupied) => {
                let linked = occupied.get_mut();
                let mut path = vec![0; linked.length as usize];
                paths.read_exact_at(&mut path, linked.at)?;
                linked.left = linked.left.saturating_sub(1);
                if linked.left == 0 {
                    occupied.remove();
                }
                Ok(Some(OsString::from_vec(path).into()))
            }
        }
    }
}

/// An inode number does not suffice: a file may be deleted during a backup, and its number reused; and a snapshot of
/// several file systems may contain a number twice. Therefore length, time and content are compared, too.
fn id_of(node: &Node) -> LinkId {
    let mut hash = Sha256::default();
    for number in [node.meta.device_id, node.meta.inode, node.meta.size] {
        hash.update(number.to_le_bytes());
    }
    hash.update(node.meta.mtime.map_or(i128::MIN, Timestamp::as_nanosecond).to_le_bytes());
    hash.update([match node.kind {
        NodeType::File => 0,
        NodeType::Symlink(_) => 1,
        NodeType::Fifo => 2,
        NodeType::Socket => 3,
        NodeType::Dir | NodeType::Dev { .. } | NodeType::Chardev { .. } => 4,
    }]);
    if let NodeType::Symlink(target) = &node.kind {
        hash.update(target.path().as_os_str().as_bytes());
    }
    for id in node.content.iter().flatten() {
        hash.update(id.bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Metadata;

    fn file(inode: u64, links: u64, size: u64) -> Node {
        Node::new_node("a".as_ref(), NodeType::File, Metadata { inode, size, links, ..Metadata::default() })
    }

    #[test]
    fn each_further_name_leads_to_the_first_one() {
        let mut linked = LinkedFiles::default();
        let mut first = |node: &Node, path: &str| {
            linked.first_name(node, Path::new(path)).unwrap().map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(first(&file(7, 3, 1), "a/first"), None);
        assert_eq!(first(&file(8, 2, 1), "b"), None);
        assert_eq!(first(&file(7, 3, 1), "c").as_deref(), Some("a/first"));
        assert_eq!(first(&file(8, 2, 1), "d").as_deref(), Some("b"));
        assert_eq!(first(&file(7, 3, 1), "e").as_deref(), Some("a/first"));
        // The inode number was reused, or all names have been seen.
        assert_eq!(first(&file(7, 3, 2), "f"), None);
        assert_eq!(first(&file(7, 3, 1), "g"), None);
        assert_eq!(first(&file(9, 1, 1), "h"), None);
    }
}

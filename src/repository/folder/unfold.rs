//! The trees of a snapshot as the steps that make a folder of them, a bounded batch at a time.
//!
//! It must not know how a step is carried out. Names that lead elsewhere are refused here.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use bytes::Bytes;
use jiff::Timestamp;
use rustic_core::{
    DataId, Id, IndexedFullStatus, TreeId,
    repofile::{Metadata, Node, NodeType, SnapshotFile, Tree},
};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::metadata::is_plain;
use crate::{
    model::{escape_name, unescape_name},
    repository::{
        RepositoryError,
        part::{Fetcher, Part},
    },
};

/// How many bytes of files a batch holds; one part, of at most 8 MiB, may go beyond.
const BATCH_BYTES: u64 = 8 << 20;
/// How many steps a batch holds.
const BATCH_STEPS: usize = 1024;
/// Trees are stored after those of the folders in them, so much of what precedes a tree is read with it.
const BEFORE_A_TREE: u32 = 64 * 1024;

/// What our own snapshots say of their program begins so; their paths are in their trees as they are named.
const OWN_PROGRAM: &str = "stowaway ";
/// Host and path of `VolSync`'s snapshots, which are all of `.`:
/// <https://github.com/backube/volsync/blob/main/mover-restic/entry.sh>.
const VOLSYNC: (&str, &str) = ("volsync", "/data");

/// One step.
pub(super) enum Step {
    /// Make a folder, and go on in it; it gets its metadata when all is in it.
    Enter(OsString, Rc<Node>),
    /// All is in the folder: give it its metadata, if it has any, and go on in the one that it is in.
    Leave(Option<Rc<Node>>),
    /// Make a file, and go on with its content, whose length is the node's.
    Begin(OsString, Rc<Node>),
    /// The file's next part.
    Part(Id),
    /// All is in the file: give it its metadata.
    End(Rc<Node>),
    /// Make something without content.
    Make(OsString, Box<Node>),
    /// Make another name of what was made at this path, relative to the target.
    Link(OsString, PathBuf, Box<Node>),
}

/// Some steps, and the parts that they need.
#[derive(Default)]
pub(super) struct Batch {
    pub steps: Vec<Step>,
    pub parts: Vec<Part>,
}

/// What the names of one file have in common. An inode number alone is not enough: while a folder is stored, a file may be
/// deleted and its number be given to another one; and a snapshot of several file systems may have a number twice.
#[derive(Debug, Eq, Hash, PartialEq)]
struct LinkId {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<Timestamp>,
    /// Of the kind, and of the ids of the content or of a link's target.
    content: [u8; 32],
}

impl LinkId {
    fn of(node: &Node) -> Self {
        let Metadata { device_id, inode, size, mtime, .. } = node.meta;
        let mut hash = Sha256::default();
        hash.update([match node.node_type {
            NodeType::File => 0,
            NodeType::Symlink { .. } => 1,
            NodeType::Fifo => 2,
            NodeType::Socket => 3,
            NodeType::Dir | NodeType::Dev { .. } | NodeType::Chardev { .. } => 4,
        }]);
        if let NodeType::Symlink { .. } = node.node_type {
            hash.update(node.node_type.to_link().as_os_str().as_bytes());
        }
        for id in node.content.iter().flatten() {
            hash.update(id.to_hex().as_str());
        }
        Self { device: device_id, inode, size, modified: mtime, content: hash.finalize().into() }
    }
}

/// A folder that is being unfolded.
struct Level {
    /// The folder itself, without its name; none for a target that is not the snapshot's own folder.
    node: Option<Rc<Node>>,
    /// Whether all that is in it is wanted.
    whole: bool,
    entries: std::vec::IntoIter<Node>,
}

/// A file that is being unfolded.
struct Content {
    node: Rc<Node>,
    ids: std::vec::IntoIter<DataId>,
}

/// The unfolding of one folder.
pub(super) struct Unfolding<'a> {
    repository: &'a rustic_core::Repository<IndexedFullStatus>,
    fetcher: &'a Fetcher,
    runtime: &'a Handle,
    levels: Vec<Level>,
    path: PathBuf,
    file: Option<Content>,
    /// Which paths below the target are wanted; all of them when empty.
    only: Vec<PathBuf>,
    /// Files of several names: where the first was made, and how many names are to come.
    linked: HashMap<LinkId, (PathBuf, u64)>,
    /// The piece of a pack that was read last.
    window: Option<(Id, u32, Bytes)>,
}

impl<'a> Unfolding<'a> {
    pub fn new(
        repository: &'a rustic_core::Repository<IndexedFullStatus>,
        fetcher: &'a Fetcher,
        runtime: &'a Handle,
    ) -> Self {
        Self {
            repository,
            fetcher,
            runtime,
            levels: Vec::new(),
            path: PathBuf::new(),
            file: None,
            only: Vec::new(),
            linked: HashMap::new(),
            window: None,
        }
    }

    /// Where a path that the snapshot names is in its trees. Where it is the only one, and another program was given a
    /// relative path, the trees begin with that, and not at the root of what was stored: of `.` they hold its entries.
    ///
    /// The trees of an absolute path hold nothing but the way to it, so that the longest end of the path to which there is
    /// nothing but a way is the one.
    pub fn place_of(&mut self, snapshot: &SnapshotFile, path: &str) -> Result<String, RepositoryError> {
        if !snapshot.paths.iter().eq([path]) || snapshot.program_version.starts_with(OWN_PROGRAM) {
            return Ok(path.to_owned());
        }
        if (snapshot.hostname.as_str(), path) == VOLSYNC {
            return Ok(String::new());
        }
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for first in 0..names.len() {
            if self.is_only_way(snapshot.tree, &names[first..])? {
                return Ok(names[first..].join("/"));
            }
        }
        Ok(String::new())
    }

    /// Whether each folder on that way holds the next one, and nothing else.
    fn is_only_way(&mut self, root: TreeId, names: &[&str]) -> Result<bool, RepositoryError> {
        let mut next = Some(root);
        for name in names {
            let Some(tree) = next else { return Ok(false) };
            let nodes = self.tree(tree)?.nodes;
            let [only] = nodes.as_slice() else { return Ok(false) };
            if only.name().as_bytes() != name.as_bytes() {
                return Ok(false);
            }
            next = only.subtree;
        }
        Ok(true)
    }

    /// Goes to the folder at that path of a snapshot's trees; false if there is none.
    pub fn go_to(&mut self, root: TreeId, path: &str) -> Result<bool, RepositoryError> {
        match self.node_at(root, path)? {
            Some((node, _)) if node.is_dir() => {
                self.enter(node, true)?;
                self.forget_node(path.is_empty());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Goes to the folder at that path and takes nothing but those paths in it. A file at that path is taken by itself.
    /// What of it is not there is given back, and then nothing may be unfolded.
    pub fn go_to_some(&mut self, root: TreeId, path: &str, only: &[String]) -> Result<Option<String>, RepositoryError> {
        let path = path.trim_end_matches('/');
        let Some((node, found)) = self.node_at(root, path)? else { return Ok(Some(path.to_owned())) };
        let (folder, wanted) = match path.rsplit_once('/') {
            // One file, as a dump is stored.
            Some((folder, _)) if node.is_file() && only.is_empty() => {
                (folder, found.file_name().map(PathBuf::from).into_iter().collect())
            }
            _ => {
                let mut paths = Vec::with_capacity(only.len());
                for wanted in only {
                    match self.descend(node.clone(), wanted)? {
                        Some((_, path)) => paths.push(path),
                        None => return Ok(Some(format!("{path}/{wanted}"))),
                    }
                }
                (path, paths)
            }
        };
        let Some((node, _)) = self.node_at(root, folder)?.filter(|(node, _)| node.is_dir()) else {
            return Ok(Some(folder.to_owned()));
        };
        let whole = wanted.is_empty();
        self.only = wanted;
        self.enter(node, whole)?;
        self.forget_node(!whole || folder.is_empty());
        Ok(None)
    }

    /// The paths that are taken, if not all are, as their names are in the trees.
    pub fn only(&self) -> &[PathBuf] {
        &self.only
    }

    /// The target is no image of the folder that was gone to; or nothing is known of that folder itself.
    fn forget_node(&mut self, is_so: bool) {
        if is_so && let Some(level) = self.levels.last_mut() {
            level.node = None;
        }
    }

    fn node_at(&mut self, root: TreeId, path: &str) -> Result<Option<(Node, PathBuf)>, RepositoryError> {
        self.descend(Node { subtree: Some(root), node_type: NodeType::Dir, ..Node::default() }, path)
    }

    /// What is at a path below a folder, and that path as it is in the trees. A name is taken as it is, or else as an escape
    /// form.
    fn descend(&mut self, mut node: Node, path: &str) -> Result<Option<(Node, PathBuf)>, RepositoryError> {
        let mut found = PathBuf::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Some(tree) = node.subtree else { return Ok(None) };
            let mut entries = self.tree(tree)?.nodes;
            let position = |wanted: &[u8]| entries.iter().position(|entry| entry.name().as_bytes() == wanted);
            let Some(position) = position(name.as_bytes()).or_else(|| position(&unescape_name(name))) else {
                return Ok(None);
            };
            node = entries.swap_remove(position);
            found.push(node.name());
        }
        Ok(Some((node, found)))
    }

    /// The folder that was gone to, if all of it is wanted; before anything is unfolded.
    pub fn own(&self) -> Option<Rc<Node>> {
        self.levels.first().and_then(|level| level.node.clone())
    }

    /// The next steps, or none after the last.
    pub fn batch(&mut self) -> Result<Option<Batch>, RepositoryError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.steps.len() < BATCH_STEPS && bytes < BATCH_BYTES {
            if let Some(part) = self.next_part()? {
                bytes += u64::from(part.plain_length);
                batch.steps.push(Step::Part(part.id));
                batch.parts.push(part);
            } else if let Some(file) = self.file.take() {
                batch.steps.push(Step::End(file.node));
            } else if let Some(step) = self.next_entry()? {
                batch.steps.push(step);
            } else {
                break;
            }
        }
        Ok(if batch.steps.is_empty() { None } else { Some(batch) })
    }

    fn next_part(&mut self) -> Result<Option<Part>, RepositoryError> {
        let next = self.file.as_mut().and_then(|file| file.ids.next());
        next.map(|id| self.find(&id)).transpose()
    }

    fn next_entry(&mut self) -> Result<Option<Step>, RepositoryError> {
        let (node, whole) = loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(node) = level.entries.next() else {
                let left = self.levels.pop();
                self.path.pop();
                return Ok(left.map(|level| Step::Leave(level.node)));
            };
            if level.whole {
                break (node, true);
            }
            let path = self.path.join(node.name());
            let is_wanted = self.only.contains(&path);
            if is_wanted || node.is_dir() && self.only.iter().any(|wanted| wanted.starts_with(&path)) {
                break (node, is_wanted);
            }
        };
        let mut node = node;
        let name = node.name().into_owned();
        if !is_plain(&name) {
            let (folder, name) = (self.path.display(), name.display());
            return Err(
                self.damaged(&format!("in {folder:?} is something by the name of {name:?}, which no file can have"))
            );
        }
        if node.is_dir() {
            self.path.push(&name);
            let node = self.enter(node, whole)?;
            return Ok(Some(Step::Enter(name, node)));
        }
        if let Some(first) = self.first_name(&node, &name) {
            return Ok(Some(Step::Link(name, first, Box::new(node))));
        }
        if !node.is_file() {
            return Ok(Some(Step::Make(name, Box::new(node))));
        }
        let ids = node.content.take().unwrap_or_default();
        node.meta.size = self.length(&name, &node, &ids)?;
        let node = Rc::new(node);
        self.file = Some(Content { node: Rc::clone(&node), ids: ids.into_iter() });
        Ok(Some(Step::Begin(name, node)))
    }

    /// Where a file of several names was made already; remembers where it will be made otherwise.
    fn first_name(&mut self, node: &Node, name: &OsStr) -> Option<PathBuf> {
        // A device that we may not make is left out, and nothing can be linked to it.
        let is_device = matches!(node.node_type, NodeType::Dev { .. } | NodeType::Chardev { .. });
        if node.meta.links < 2 || node.meta.inode == 0 || is_device {
            return None;
        }
        match self.linked.entry(LinkId::of(node)) {
            Entry::Vacant(vacant) => {
                vacant.insert((self.path.join(name), node.meta.links - 1));
                None
            }
            Entry::Occupied(mut occupied) => {
                let (first, left) = occupied.get_mut();
                *left = left.saturating_sub(1);
                Some(if *left == 0 { occupied.remove().0 } else { first.clone() })
            }
        }
    }

    /// The length of a file, which must be the recorded one. Other writers that store streams leave 0.
    fn length(&self, name: &OsStr, node: &Node, ids: &[DataId]) -> Result<u64, RepositoryError> {
        let mut length = 0;
        for id in ids {
            length += u64::from(self.find(id)?.plain_length);
        }
        let recorded = node.meta.size;
        if recorded != length && recorded != 0 {
            let path = self.path.join(name);
            let what = format!("{} should have {recorded} bytes and has parts of {length}", shown(&path));
            return Err(self.damaged(&what));
        }
        Ok(length)
    }

    fn enter(&mut self, mut node: Node, whole: bool) -> Result<Rc<Node>, RepositoryError> {
        let entries = match node.subtree.take() {
            Some(tree) => self.tree(tree)?.nodes,
            None => return Err(self.damaged(&format!("the folder {} has no tree", shown(&self.path)))),
        };
        let node = Rc::new(node);
        self.levels.push(Level { node: Some(Rc::clone(&node)), whole, entries: entries.into_iter() });
        Ok(node)
    }

    fn tree(&mut self, id: TreeId) -> Result<Tree, RepositoryError> {
        let part = self.find(&id)?;
        let is_in = |(pack, start, bytes): &(Id, u32, Bytes)| {
            *pack == part.pack
                && *start <= part.offset
                && (part.offset - start) as usize + part.length as usize <= bytes.len()
        };
        if !self.window.as_ref().is_some_and(is_in) {
            let start = part.offset.saturating_sub(BEFORE_A_TREE);
            let length = part.offset - start + part.length;
            let bytes = self.runtime.block_on(self.fetcher.store.read_range(&part.pack, start, length))?;
            self.window = Some((part.pack, start, bytes));
        }
        let (start, sealed) = self.window.as_ref().map_or((0, &[][..]), |(_, start, bytes)| (*start, bytes));
        let json = self.fetcher.open_within(&part, sealed, start)?;
        serde_json::from_slice(&json)
            .map_err(|error| self.damaged(&format!("the tree of {} cannot be read: {error}", shown(&self.path))))
    }

    fn find(&self, id: &(impl rustic_core::PackedId + std::ops::Deref<Target = Id>)) -> Result<Part, RepositoryError> {
        Part::find(self.repository, id).map_err(|_| {
            let id = id.to_hex();
            self.damaged(&format!("the part {} of what is in {:?} is in no index", id.as_str(), self.path.display()))
        })
    }

    fn damaged(&self, what: &str) -> RepositoryError {
        self.fetcher.store.damaged(what)
    }
}

fn shown(path: &Path) -> String {
    escape_name(path.as_os_str().as_bytes())
}

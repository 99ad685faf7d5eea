//! Reads the trees of a snapshot, and returns the steps which recreate the folder, in batches of bounded size. Names
//! which would lead out of the target folder are rejected here.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{linked::LinkedFiles, metadata::is_plain};
use crate::{
    RepositoryError,
    format::{BlobKind, DataId, Id, Node, SnapshotFile, TreeId},
    index::blob_location::BlobLocation,
    trees::{cached::Trees, tree_nodes::TreeNodes},
};
use stowaway_model::escape_name;

/// How many bytes of file content a batch holds. The last blob of a batch, of at most 8 MiB, may exceed it.
const BATCH_BYTES: u64 = 8 << 20;
/// How many steps a batch holds.
const BATCH_STEPS: usize = 1024;

/// Prefix of `program_version` in Stowaway's own snapshots. Their trees contain the snapshot's path unchanged.
const OWN_PROGRAM: &str = "stowaway ";
/// Host and path of snapshots made by `VolSync`, which backs up `.`, so that the root tree holds the entries of
/// `/data`:
/// <https://github.com/backube/volsync/blob/main/mover-restic/entry.sh>.
const VOLSYNC: (&str, &str) = ("volsync", "/data");

pub(super) enum Step {
    /// Create a folder and continue in it. Its metadata is set when its content is complete.
    Enter(OsString, Rc<Node>),
    /// The folder's content is complete: set its metadata, if there is any, and continue in the parent folder.
    Leave(Option<Rc<Node>>),
    /// Create a file. Its content follows, as long as the node's size.
    Begin(OsString, Rc<Node>),
    /// The next blob of the file.
    Part(Id),
    /// The file's content is complete: set its metadata.
    End(Rc<Node>),
    /// Create an entry without content.
    Make(OsString, Box<Node>),
    /// Create a hard link to the entry at this path, relative to the target.
    Link(OsString, PathBuf, Box<Node>),
}

/// Steps, and the blobs which they need.
#[derive(Default)]
pub(super) struct Batch {
    pub steps: Vec<Step>,
    pub parts: Vec<BlobLocation>,
}

/// A folder whose entries are being read.
struct Level {
    /// The node of the folder, without its name. None for a target which does not correspond to a folder of the
    /// snapshot.
    node: Option<Rc<Node>>,
    /// Whether all entries are selected.
    is_whole: bool,
    entries: TreeNodes<Node>,
}

/// A file whose content is being read.
struct Content {
    node: Rc<Node>,
    ids: std::vec::IntoIter<DataId>,
}

/// Reads one folder of a snapshot, depth first.
pub(super) struct TreeReader<'a> {
    trees: Trees<'a>,
    levels: Vec<Level>,
    path: PathBuf,
    file: Option<Content>,
    /// The selected paths below the target; empty if everything is selected.
    only: Vec<PathBuf>,
    linked: LinkedFiles,
}

impl<'a> TreeReader<'a> {
    pub fn new(trees: Trees<'a>) -> Self {
        Self {
            trees,
            levels: Vec::new(),
            path: PathBuf::new(),
            file: None,
            only: Vec::new(),
            linked: LinkedFiles::default(),
        }
    }

    /// Finds the path in the snapshot's trees which corresponds to a path listed in the snapshot.
    ///
    /// Other programs store a relative path without its leading folders: for `.`, the root tree holds the entries of
    /// the folder itself. The trees of an absolute path hold only the folders which lead to it. So if the path is the
    /// snapshot's only one, this looks for the longest suffix of the path whose parent folders each have exactly one
    /// entry.
    pub fn locate(&mut self, snapshot: &SnapshotFile, path: &str) -> Result<String, RepositoryError> {
        if !snapshot.paths.iter().eq([path]) || snapshot.program_version.starts_with(OWN_PROGRAM) {
            return Ok(path.to_owned());
        }
        if (snapshot.hostname.as_str(), path) == VOLSYNC {
            return Ok(String::new());
        }
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for first in 0..names.len() {
            if self.is_only_path(snapshot.tree, &names[first..])? {
                return Ok(names[first..].join("/"));
            }
        }
        Ok(String::new())
    }

    /// Whether each tree on the path has the next name as its only entry.
    fn is_only_path(&mut self, root: TreeId, names: &[&str]) -> Result<bool, RepositoryError> {
        let mut next = Some(root);
        for name in names {
            let Some(tree) = next else { return Ok(false) };
            let root = Path::new("");
            let mut nodes = self.trees.open(tree, root)?;
            let (first, second) = (self.trees.next_of(&mut nodes, root)?, self.trees.next_of(&mut nodes, root)?);
            match (first, second) {
                (Some(only), None) if only.name().as_bytes() == name.as_bytes() => next = only.subtree,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Opens the folder at a path of the trees. Returns false if there is no such folder.
    pub fn open_folder(&mut self, root: TreeId, path: &str) -> Result<bool, RepositoryError> {
        match self.trees.node_at(root, path)? {
            Some((node, _)) if node.is_dir() => {
                self.enter(node, true)?;
                self.clear_root_node_if(path.is_empty());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Opens the folder at a path and selects the paths `only` in it, or everything if `only` is empty. If a file is at
    /// the path, the file alone is selected. Returns the first missing path; then the reader must not be used.
    pub fn open_paths(&mut self, root: TreeId, path: &str, only: &[String]) -> Result<Option<String>, RepositoryError> {
        let path = path.trim_end_matches('/');
        let Some((node, found)) = self.trees.node_at(root, path)? else { return Ok(Some(path.to_owned())) };
        let (folder, wanted) = match path.rsplit_once('/') {
            // A single file, such as a dump.
            Some((folder, _)) if node.is_file() && only.is_empty() => {
                (folder, found.file_name().map(PathBuf::from).into_iter().collect())
            }
            _ => {
                let mut paths = Vec::with_capacity(only.len());
                for wanted in only {
                    match self.trees.descend(node.clone(), wanted)? {
                        Some((_, path)) => paths.push(path),
                        None => return Ok(Some(format!("{path}/{wanted}"))),
                    }
                }
                (path, paths)
            }
        };
        let Some((node, _)) = self.trees.node_at(root, folder)?.filter(|(node, _)| node.is_dir()) else {
            return Ok(Some(folder.to_owned()));
        };
        let is_whole = wanted.is_empty();
        self.only = wanted;
        self.enter(node, is_whole)?;
        self.clear_root_node_if(!is_whole || folder.is_empty());
        Ok(None)
    }

    /// The selected paths, as their names are in the trees; empty if everything is selected.
    pub fn only(&self) -> &[PathBuf] {
        &self.only
    }

    /// Clears the node of the opened folder, if the target does not correspond to it, or if the trees have no node for
    /// it.
    fn clear_root_node_if(&mut self, condition: bool) {
        if condition && let Some(level) = self.levels.last_mut() {
            level.node = None;
        }
    }

    /// The node of the opened folder, if everything in it is selected. Must be called before the first batch.
    pub fn root_node(&self) -> Option<Rc<Node>> {
        self.levels.first().and_then(|level| level.node.clone())
    }

    /// The next steps; none after the last.
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

    fn next_part(&mut self) -> Result<Option<BlobLocation>, RepositoryError> {
        let next = self.file.as_mut().and_then(|file| file.ids.next());
        next.map(|id| self.trees.part(BlobKind::Data, *id, &self.path)).transpose()
    }

    fn next_entry(&mut self) -> Result<Option<Step>, RepositoryError> {
        let (node, is_whole) = loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let is_whole = level.is_whole;
            let Some(node) = self.trees.next_of(&mut level.entries, &self.path)? else {
                let left = self.levels.pop();
                self.path.pop();
                return Ok(left.map(|level| Step::Leave(level.node)));
            };
            if is_whole {
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
            return Err(self
                .trees
                .damaged(&format!("the folder {folder:?} has an entry with the invalid name {name:?}")));
        }
        if node.is_dir() {
            self.path.push(&name);
            let node = self.enter(node, is_whole)?;
            return Ok(Some(Step::Enter(name, node)));
        }
        if let Some(first) = self.linked.first_name(&node, &self.path.join(&name))? {
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

    /// The sum of the lengths of the file's blobs, which must be the recorded size. Programs which back up streams may
    /// record 0.
    fn length(&self, name: &OsStr, node: &Node, ids: &[DataId]) -> Result<u64, RepositoryError> {
        let mut length = 0;
        for id in ids {
            length += u64::from(self.trees.part(BlobKind::Data, **id, &self.path)?.plain_length);
        }
        let recorded = node.meta.size;
        if recorded != length && recorded != 0 {
            let path = self.path.join(name);
            let what =
                format!("{} has the recorded size {recorded}, and its blobs have {length} bytes", display_path(&path));
            return Err(self.trees.damaged(&what));
        }
        Ok(length)
    }

    fn enter(&mut self, mut node: Node, is_whole: bool) -> Result<Rc<Node>, RepositoryError> {
        let entries = match node.subtree.take() {
            Some(tree) => self.trees.open(tree, &self.path)?,
            None => return Err(self.trees.damaged(&format!("the folder {} has no tree", display_path(&self.path)))),
        };
        let node = Rc::new(node);
        self.levels.push(Level { node: Some(Rc::clone(&node)), is_whole, entries });
        Ok(node)
    }
}

fn display_path(path: &Path) -> String {
    escape_name(path.as_os_str().as_bytes())
}

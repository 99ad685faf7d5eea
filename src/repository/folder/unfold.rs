//! The trees of a snapshot as the steps that make a folder of them, a bounded batch at a time.
//!
//! It must not know how a step is carried out. Names that lead elsewhere are refused here.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use rustic_core::{
    DataId, Id, TreeId,
    repofile::{Node, SnapshotFile},
};

use super::{linked::LinkedFiles, metadata::is_plain};
use crate::{
    model::escape_name,
    repository::{RepositoryError, pack::BlobKind, part::Part, tree_nodes::TreeNodes, trees::Trees},
};

/// How many bytes of files a batch holds; one part, of at most 8 MiB, may go beyond.
const BATCH_BYTES: u64 = 8 << 20;
/// How many steps a batch holds.
const BATCH_STEPS: usize = 1024;

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

/// A folder that is being unfolded.
struct Level {
    /// The folder itself, without its name; none for a target that is not the snapshot's own folder.
    node: Option<Rc<Node>>,
    /// Whether all that is in it is wanted.
    whole: bool,
    entries: TreeNodes<Node>,
}

/// A file that is being unfolded.
struct Content {
    node: Rc<Node>,
    ids: std::vec::IntoIter<DataId>,
}

/// The unfolding of one folder.
pub(super) struct Unfolding<'a> {
    trees: Trees<'a>,
    levels: Vec<Level>,
    path: PathBuf,
    file: Option<Content>,
    /// Which paths below the target are wanted; all of them when empty.
    only: Vec<PathBuf>,
    linked: LinkedFiles,
}

impl<'a> Unfolding<'a> {
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

    /// Goes to the folder at that path of a snapshot's trees; false if there is none.
    pub fn go_to(&mut self, root: TreeId, path: &str) -> Result<bool, RepositoryError> {
        match self.trees.node_at(root, path)? {
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
        let Some((node, found)) = self.trees.node_at(root, path)? else { return Ok(Some(path.to_owned())) };
        let (folder, wanted) = match path.rsplit_once('/') {
            // One file, as a dump is stored.
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
        next.map(|id| self.trees.part(BlobKind::Data, *id, &self.path)).transpose()
    }

    fn next_entry(&mut self) -> Result<Option<Step>, RepositoryError> {
        let (node, whole) = loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let whole = level.whole;
            let Some(node) = self.trees.next_of(&mut level.entries, &self.path)? else {
                let left = self.levels.pop();
                self.path.pop();
                return Ok(left.map(|level| Step::Leave(level.node)));
            };
            if whole {
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
                .damaged(&format!("in {folder:?} is something by the name of {name:?}, which no file can have")));
        }
        if node.is_dir() {
            self.path.push(&name);
            let node = self.enter(node, whole)?;
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

    /// The length of a file, which must be the recorded one. Other writers that store streams leave 0.
    fn length(&self, name: &OsStr, node: &Node, ids: &[DataId]) -> Result<u64, RepositoryError> {
        let mut length = 0;
        for id in ids {
            length += u64::from(self.trees.part(BlobKind::Data, **id, &self.path)?.plain_length);
        }
        let recorded = node.meta.size;
        if recorded != length && recorded != 0 {
            let path = self.path.join(name);
            let what = format!("{} should have {recorded} bytes and has parts of {length}", shown(&path));
            return Err(self.trees.damaged(&what));
        }
        Ok(length)
    }

    fn enter(&mut self, mut node: Node, whole: bool) -> Result<Rc<Node>, RepositoryError> {
        let entries = match node.subtree.take() {
            Some(tree) => self.trees.open(tree, &self.path)?,
            None => return Err(self.trees.damaged(&format!("the folder {} has no tree", shown(&self.path)))),
        };
        let node = Rc::new(node);
        self.levels.push(Level { node: Some(Rc::clone(&node)), whole, entries });
        Ok(node)
    }
}

fn shown(path: &Path) -> String {
    escape_name(path.as_os_str().as_bytes())
}

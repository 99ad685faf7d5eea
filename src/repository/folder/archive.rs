//! A folder into trees: one thread walks, some read files, one builds the trees from what they found, in order.
//!
//! Between them are short queues, so that what is in memory does not grow with the folder. It must not know how an entry is
//! read, nor what becomes of the root.

use std::{
    mem,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use jiff::Timestamp;
use rustic_core::{
    DataId, TreeId,
    repofile::{Node, NodeType, SnapshotSummary},
};
use tokio::sync::oneshot;

use super::{
    file::{Changed, Failure, FileSaver, Saved},
    ledger::Ledger,
    metadata,
    opened::Opened,
    parent::Parent,
    walk::{Found, Walk},
};
use crate::repository::{
    Progress, RepositoryError,
    chunker::Chunker,
    packer::{Packer, workers},
    tree::{self, TreeWriter},
};

/// Entries that were found and are in no tree yet; files among them are open only while few are ahead of the readers.
const ENTRIES_AHEAD: usize = 256;
const FILES_AHEAD: usize = 8;

/// A folder that is to be stored.
pub(super) struct FolderJob {
    pub walk: Walk,
    /// The parts of its path in the snapshot, the last of which is the walk's own name for it.
    pub names: Vec<String>,
    /// Of the folders that only lead to it.
    pub time: Timestamp,
    pub ledger: Arc<Ledger>,
    pub progress: Arc<Progress>,
}

/// An entry on its way into a tree.
struct Entry {
    /// How many folders below the root.
    depth: usize,
    node: Node,
    content: EntryContent,
    compared: Compared,
}

enum EntryContent {
    /// Links, devices, pipes and sockets.
    None,
    /// Its tree comes with the entries that follow; the snapshot before had that one.
    Folder(Option<TreeId>),
    Known(Vec<DataId>),
    /// A reader is at it; none if it could not be read, or is gone.
    Awaited(oneshot::Receiver<Option<Saved>>),
}

/// Beside the snapshot before.
#[derive(Clone, Copy)]
enum Compared {
    New,
    Changed,
    Unmodified,
}

/// A file that is to be read.
struct ToRead {
    opened: Opened,
    path: PathBuf,
    read: oneshot::Sender<Option<Saved>>,
}

impl FolderJob {
    /// Stores all of it; gives the root's id, and counts of what is in it.
    pub fn archive(
        self,
        packer: &Arc<Packer>,
        chunker: &Chunker,
        parent: Parent<'_>,
    ) -> Result<(TreeId, SnapshotSummary), RepositoryError> {
        let (entries_sender, entries) = sync_channel(ENTRIES_AHEAD);
        let (files_sender, files) = sync_channel(FILES_AHEAD);
        let (ledger, progress) = (Arc::clone(&self.ledger), Arc::clone(&self.progress));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            // Theirs alone: the walk must not wait for a place in a queue that nobody takes from any more.
            let files = Arc::new(Mutex::new(files));
            for _ in 0..workers() {
                let saver = FileSaver::new(packer, chunker.clone(), &progress);
                let (files, ledger) = (Arc::clone(&files), &ledger);
                threads.push(scope.spawn(move || read_files(saver, &files, ledger, packer)));
            }
            drop(files);
            let walking = Walking { parent, packer, entries: entries_sender, files: files_sender };
            threads.push(scope.spawn(|| walking.walk(self)));
            // When it fails the queue is gone, which ends the walk, and with that the readers.
            let built = build(entries, packer);
            for thread in threads {
                thread.join().map_err(|_| packer.internal("a thread that reads the folder has panicked"))??;
            }
            built
        })
    }
}

/// The walk's thread.
struct Walking<'a> {
    parent: Parent<'a>,
    packer: &'a Packer,
    entries: SyncSender<Option<Entry>>,
    files: SyncSender<ToRead>,
}

impl Walking<'_> {
    fn walk(mut self, job: FolderJob) -> Result<(), RepositoryError> {
        let above = job.names.len().saturating_sub(1);
        for (depth, name) in job.names.iter().take(above).enumerate() {
            let node = Node::new_node(name.as_ref(), NodeType::Dir, tree::folder_metadata(job.time));
            self.hand_over(depth, node, None)?;
        }
        for found in job.walk {
            self.packer.check()?;
            let Found { path, node, file } = found?;
            self.hand_over(above + path.components().count(), node, file.map(|file| (file, path)))?;
        }
        self.send(None)
    }

    fn hand_over(&mut self, depth: usize, node: Node, file: Option<(Opened, PathBuf)>) -> Result<(), RepositoryError> {
        let before = self.parent.find(depth, &node.name())?;
        let is_unchanged = match &before {
            Some(before) => self.parent.has_unchanged(before, &node)?,
            None => false,
        };
        let compared = match &before {
            None => Compared::New,
            Some(_) if is_unchanged => Compared::Unmodified,
            Some(_) => Compared::Changed,
        };
        let content = match (&node.node_type, before, file) {
            (NodeType::Dir, before, _) => {
                let before = before.and_then(|before| before.subtree);
                self.parent.enter(before)?;
                EntryContent::Folder(before)
            }
            (NodeType::File, Some(before), _) if is_unchanged => {
                EntryContent::Known(before.content.unwrap_or_default())
            }
            (NodeType::File, _, Some((opened, path))) => {
                let (read, awaited) = oneshot::channel();
                self.files.send(ToRead { opened, path, read }).map_err(|_| self.packer.cancelled())?;
                EntryContent::Awaited(awaited)
            }
            _ => EntryContent::None,
        };
        self.send(Some(Entry { depth, node, content, compared }))
    }

    fn send(&self, entry: Option<Entry>) -> Result<(), RepositoryError> {
        // Whoever took them has failed, and said why.
        self.entries.send(entry).map_err(|_| self.packer.cancelled())
    }
}

/// A reader's thread.
fn read_files(
    mut saver: FileSaver<'_>,
    files: &Mutex<Receiver<ToRead>>,
    ledger: &Ledger,
    packer: &Packer,
) -> Result<(), RepositoryError> {
    loop {
        let next = files.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(ToRead { opened, path, read }) = next else { return Ok(()) };
        packer.check()?;
        let content = match saver.save(&opened) {
            Ok(stored) => {
                if let Some(Changed { how, .. }) = &stored.changed {
                    ledger.changed(&path, how);
                }
                Some(stored)
            }
            Err(Failure::Vanished) => {
                ledger.vanished(&path, false);
                None
            }
            Err(Failure::File(error)) => {
                ledger.unreadable(&path, format!("failed to read: {error}"));
                None
            }
            Err(Failure::Run(error)) => return Err(error),
        };
        // Nobody waits for it if the run has failed.
        let _ = read.send(content);
    }
}

/// A folder whose entries are still coming.
struct Level {
    node: Node,
    /// Its tree in the snapshot before.
    before: Option<TreeId>,
    compared: Compared,
    tree: TreeWriter,
}

struct Building<'a> {
    packer: &'a Packer,
    root: TreeWriter,
    levels: Vec<Level>,
    summary: SnapshotSummary,
}

/// Builds trees until the walk has ended; that it has, it says.
fn build(entries: Receiver<Option<Entry>>, packer: &Packer) -> Result<(TreeId, SnapshotSummary), RepositoryError> {
    let (root, summary) = (TreeWriter::new(packer.version()), SnapshotSummary::default());
    let mut building = Building { packer, root, levels: Vec::new(), summary };
    for entry in entries {
        match entry {
            Some(entry) => building.add(entry)?,
            None => return building.finish(),
        }
    }
    Err(packer.cancelled())
}

impl Building<'_> {
    fn add(&mut self, entry: Entry) -> Result<(), RepositoryError> {
        let Entry { depth, mut node, content, compared } = entry;
        while self.levels.len() > depth {
            self.close()?;
        }
        if self.levels.len() < depth {
            return Err(self.packer.internal("an entry came before its folder"));
        }
        match content {
            EntryContent::None => {}
            EntryContent::Folder(before) => {
                let tree = TreeWriter::new(self.packer.version());
                self.levels.push(Level { node, before, compared, tree });
                return Ok(());
            }
            EntryContent::Known(content) => node.content = Some(content),
            EntryContent::Awaited(awaited) => match awaited.blocking_recv() {
                Ok(Some(Saved { content, size, changed })) => {
                    node.content = Some(content);
                    if let Some(Changed { stat, .. }) = changed {
                        metadata::set_changed(&mut node.meta, &stat, size, Timestamp::now());
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => return Err(self.packer.cancelled()),
            },
        }
        let summary = &mut self.summary;
        summary.total_files_processed += 1;
        summary.total_bytes_processed += node.meta.size;
        match compared {
            Compared::New => summary.files_new += 1,
            Compared::Changed => summary.files_changed += 1,
            Compared::Unmodified => summary.files_unmodified += 1,
        }
        self.append(&node)
    }

    /// Ends the innermost folder.
    fn close(&mut self) -> Result<(), RepositoryError> {
        let Some(Level { mut node, before, compared, tree }) = self.levels.pop() else { return Ok(()) };
        let id = self.save(tree)?;
        match compared {
            Compared::New => self.summary.dirs_new += 1,
            _ if before == Some(id) => self.summary.dirs_unmodified += 1,
            _ => self.summary.dirs_changed += 1,
        }
        self.summary.total_dirs_processed += 1;
        node.subtree = Some(id);
        self.append(&node)
    }

    fn append(&mut self, node: &Node) -> Result<(), RepositoryError> {
        let tree = self.levels.last_mut().map_or(&mut self.root, |level| &mut level.tree);
        tree.add(node)
    }

    fn save(&mut self, tree: TreeWriter) -> Result<TreeId, RepositoryError> {
        let tree = tree.finish()?;
        self.summary.total_dirsize_processed += tree.length();
        self.packer.save_tree(tree).map(TreeId::from)
    }

    fn finish(mut self) -> Result<(TreeId, SnapshotSummary), RepositoryError> {
        while !self.levels.is_empty() {
            self.close()?;
        }
        let root = mem::replace(&mut self.root, TreeWriter::new(self.packer.version()));
        Ok((self.save(root)?, self.summary))
    }
}

//! Stores a folder as trees. One thread walks the folder, several threads read files, and one builds the trees from
//! their results in the order of the walk. The queues between them are short, so that memory use does not grow with the
//! folder.

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
use tokio::sync::oneshot;

use super::{
    backup_stats::BackupStats,
    file::{Changed, Failure, FileSaver, Saved},
    metadata,
    opened::Opened,
    parent::Parent,
    walk::{Found, Walk},
};
use crate::{
    Progress, RepositoryError,
    chunker::Chunker,
    format::{DataId, Node, NodeType, SnapshotSummary, TreeId},
    packer::{Packer, workers},
    trees::tree::{self, TreeWriter},
};

/// Limits of entries which the walk found and which are in no tree yet. The second limit is for files, because each is
/// open while it waits for a reader.
const ENTRIES_AHEAD: usize = 256;
const FILES_AHEAD: usize = 8;

/// A folder which is to be stored.
pub(super) struct FolderJob {
    pub walk: Walk,
    /// The components of the folder's path in the snapshot. The last one is also the name of the walk's root.
    pub names: Vec<String>,
    /// The times of the folders above it.
    pub time: Timestamp,
    pub stats: Arc<BackupStats>,
    pub progress: Arc<Progress>,
}

/// An entry which is being added to a tree.
struct Entry {
    /// The number of folders between the root and the entry.
    depth: usize,
    node: Node,
    content: EntryContent,
    change: ChangeState,
}

enum EntryContent {
    /// For links, devices, pipes and sockets.
    None,
    /// For a folder, whose own entries follow, with the id of its tree in the parent snapshot.
    Folder(Option<TreeId>),
    Known(Vec<DataId>),
    /// A reader sends the content, or `None` if the file could not be read or was deleted.
    Pending(oneshot::Receiver<Option<Saved>>),
}

/// How an entry compares with the parent snapshot.
#[derive(Clone, Copy)]
enum ChangeState {
    New,
    Changed,
    Unmodified,
}

/// A file which waits for a reader.
struct ToRead {
    opened: Opened,
    path: PathBuf,
    read: oneshot::Sender<Option<Saved>>,
}

impl FolderJob {
    /// Stores the folder. Returns the id of the root tree and the statistics of its content.
    pub fn archive(
        self,
        packer: &Arc<Packer>,
        chunker: &Chunker,
        parent: Parent<'_>,
    ) -> Result<(TreeId, SnapshotSummary), RepositoryError> {
        let (entries_sender, entries) = sync_channel(ENTRIES_AHEAD);
        let (files_sender, files) = sync_channel(FILES_AHEAD);
        let (stats, progress) = (Arc::clone(&self.stats), Arc::clone(&self.progress));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            // Only the readers own the receiver, so that the walk's `send` fails instead of blocking when no reader is
            // left.
            let files = Arc::new(Mutex::new(files));
            for _ in 0..workers() {
                let saver = FileSaver::new(packer, chunker.clone(), &progress);
                let (files, stats) = (Arc::clone(&files), &stats);
                threads.push(scope.spawn(move || read_files(saver, &files, stats, packer)));
            }
            drop(files);
            let walk_thread = WalkThread { parent, packer, entries: entries_sender, files: files_sender };
            threads.push(scope.spawn(|| walk_thread.walk(self)));
            // If this fails, the receiver is dropped, which ends the walk, and the walk's end ends the readers.
            let built = build(entries, packer);
            for thread in threads {
                thread.join().map_err(|_| packer.internal("a thread that reads the folder has panicked"))??;
            }
            built
        })
    }
}

/// The state of the walk's thread.
struct WalkThread<'a> {
    parent: Parent<'a>,
    packer: &'a Packer,
    entries: SyncSender<Option<Entry>>,
    files: SyncSender<ToRead>,
}

impl WalkThread<'_> {
    fn walk(mut self, job: FolderJob) -> Result<(), RepositoryError> {
        let above = job.names.len().saturating_sub(1);
        for (depth, name) in job.names.iter().take(above).enumerate() {
            let node = Node::new_node(name.as_ref(), NodeType::Dir, tree::folder_metadata(job.time));
            self.queue_entry(depth, node, None)?;
        }
        for found in job.walk {
            self.packer.check()?;
            let Found { path, node, file } = found?;
            self.queue_entry(above + path.components().count(), node, file.map(|file| (file, path)))?;
        }
        self.send(None)
    }

    fn queue_entry(
        &mut self,
        depth: usize,
        node: Node,
        file: Option<(Opened, PathBuf)>,
    ) -> Result<(), RepositoryError> {
        let before = self.parent.find(depth, &node.name())?;
        let is_unchanged = match &before {
            Some(before) => self.parent.has_unchanged(before, &node)?,
            None => false,
        };
        let change = match &before {
            None => ChangeState::New,
            Some(_) if is_unchanged => ChangeState::Unmodified,
            Some(_) => ChangeState::Changed,
        };
        let content = match (&node.kind, before, file) {
            (NodeType::Dir, before, _) => {
                let before = before.and_then(|before| before.subtree);
                self.parent.enter(before)?;
                EntryContent::Folder(before)
            }
            (NodeType::File, Some(before), _) if is_unchanged => {
                EntryContent::Known(before.content.unwrap_or_default())
            }
            (NodeType::File, _, Some((opened, path))) => {
                let (read, pending) = oneshot::channel();
                self.files.send(ToRead { opened, path, read }).map_err(|_| self.packer.cancelled())?;
                EntryContent::Pending(pending)
            }
            _ => EntryContent::None,
        };
        self.send(Some(Entry { depth, node, content, change }))
    }

    fn send(&self, entry: Option<Entry>) -> Result<(), RepositoryError> {
        // The receiver is gone because its thread failed; that thread returns the cause.
        self.entries.send(entry).map_err(|_| self.packer.cancelled())
    }
}

/// Runs in each reader's thread.
fn read_files(
    mut saver: FileSaver<'_>,
    files: &Mutex<Receiver<ToRead>>,
    stats: &BackupStats,
    packer: &Packer,
) -> Result<(), RepositoryError> {
    loop {
        let next = files.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(ToRead { opened, path, read }) = next else { return Ok(()) };
        packer.check()?;
        let content = match saver.save(&opened) {
            Ok(stored) => {
                if let Some(Changed { how, .. }) = &stored.changed {
                    stats.changed(&path, how);
                }
                Some(stored)
            }
            Err(Failure::Vanished) => {
                stats.vanished(&path, false);
                None
            }
            Err(Failure::File(error)) => {
                stats.unreadable(&path, format!("failed to read: {error}"));
                None
            }
            Err(Failure::Run(error)) => return Err(error),
        };
        // The receiver is gone if the run has failed.
        let _ = read.send(content);
    }
}

/// A folder whose entries are still being added.
struct Level {
    node: Node,
    /// The id of its tree in the parent snapshot.
    before: Option<TreeId>,
    change: ChangeState,
    tree: TreeWriter,
}

struct TreeBuilder<'a> {
    packer: &'a Packer,
    root: TreeWriter,
    levels: Vec<Level>,
    summary: SnapshotSummary,
}

/// Builds trees until the walk reports its end with `None`. A walk which stops without it has failed.
fn build(entries: Receiver<Option<Entry>>, packer: &Packer) -> Result<(TreeId, SnapshotSummary), RepositoryError> {
    let (root, summary) = (TreeWriter::new(packer.version()), SnapshotSummary::default());
    let mut builder = TreeBuilder { packer, root, levels: Vec::new(), summary };
    for entry in entries {
        match entry {
            Some(entry) => builder.add(entry)?,
            None => return builder.finish(),
        }
    }
    Err(packer.cancelled())
}

impl TreeBuilder<'_> {
    fn add(&mut self, entry: Entry) -> Result<(), RepositoryError> {
        let Entry { depth, mut node, content, change } = entry;
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
                self.levels.push(Level { node, before, change, tree });
                return Ok(());
            }
            EntryContent::Known(content) => node.content = Some(content),
            EntryContent::Pending(pending) => match pending.blocking_recv() {
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
        match change {
            ChangeState::New => summary.files_new += 1,
            ChangeState::Changed => summary.files_changed += 1,
            ChangeState::Unmodified => summary.files_unmodified += 1,
        }
        self.append(&node)
    }

    /// Completes the innermost folder.
    fn close(&mut self) -> Result<(), RepositoryError> {
        let Some(Level { mut node, before, change, tree }) = self.levels.pop() else { return Ok(()) };
        let id = self.save(tree)?;
        match change {
            ChangeState::New => self.summary.dirs_new += 1,
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

//! Finds the blobs which snapshots use, from their root trees down to every data blob, and the snapshots which use a
//! lost blob. Trees are read in batches, each tree once, from a copy which is intact. Their format is specified in
//! restic's design document, section "Trees and Data".

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{
    findings::{Finding, Findings, hex_id},
    index::Index,
    snapshots::SnapshotRoot,
};
use crate::{
    RepositoryError,
    format::{BlobKind, Id},
    index::{
        blob_location::BlobLocation,
        blob_table::{Copy, KEY_BYTES, Marks, key},
        fetcher::Fetcher,
    },
    scratch::{self, GrowingSet},
    trees::tree_nodes::{TreeNodes, fetch_batch, next_batch},
};

/// The fields of a tree's node which are needed here.
#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: String,
    content: Option<Vec<Id>>,
    subtree: Option<Id>,
}

/// Blobs which snapshots need and of which no copy is left, by kind and id.
#[derive(Debug, Default)]
pub(super) struct LostBlobs(GrowingSet<KEY_BYTES>);

impl LostBlobs {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a blob. Returns false if it was already in the set.
    pub fn insert(&mut self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        self.0.insert(key(kind, id)).map_err(scratch::failed)
    }

    fn contains(&self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        self.0.contains(&key(kind, id)).map_err(scratch::failed)
    }
}

/// Finds used blobs.
pub(super) struct UsedBlobScan<'a> {
    pub index: &'a Index,
    pub fetcher: Fetcher,
}

/// The state of [`UsedBlobScan::mark`].
struct ScanState<'a> {
    marks: Marks,
    lost: &'a mut LostBlobs,
    findings: &'a mut Findings,
    /// Row numbers of trees which must be read. The list is a stack, because reading the most recently found tree first
    /// keeps it short.
    waiting: Vec<usize>,
}

impl UsedBlobScan<'_> {
    /// Marks all blobs which the snapshots use, at the row numbers of their first copies. Each lost blob becomes one
    /// finding.
    pub async fn mark(
        &self,
        snapshots: &[SnapshotRoot],
        lost: &mut LostBlobs,
        findings: &mut Findings,
    ) -> Result<Marks, RepositoryError> {
        let mut state = ScanState { marks: Marks::new(self.index.len()), lost, findings, waiting: Vec::new() };
        for snapshot in snapshots {
            self.visit_blob(BlobKind::Tree, snapshot.tree, &mut state)?;
        }
        while !state.waiting.is_empty() {
            let batch = next_batch(&mut state.waiting, |row_number| self.part_at(row_number))?;
            match fetch_batch::<Node>(&self.fetcher, &batch).await {
                Ok(trees) => {
                    for (row_number, tree) in trees {
                        self.visit_tree(row_number, tree, &mut state)?;
                    }
                }
                // Reads the trees one by one, to find the damaged one, and another copy of it.
                Err(RepositoryError::Damaged { .. }) => {
                    for (row_number, part) in batch {
                        let tree = self.read_any_copy(part.id, &mut state.findings.damaged_packs).await?;
                        self.visit_tree(row_number, tree, &mut state)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(state.marks)
    }

    /// Visits all blobs which a tree names.
    fn visit_tree(
        &self,
        row_number: usize,
        tree: Result<TreeNodes<Node>, String>,
        state: &mut ScanState<'_>,
    ) -> Result<(), RepositoryError> {
        let mut nodes = match tree {
            Ok(nodes) => nodes,
            Err(why) => return self.record_damaged_tree(row_number, why, state),
        };
        loop {
            match nodes.next()?.and_then(|node| node.map(content_of).transpose()) {
                Ok(Some(Content { data, tree })) => {
                    for id in data {
                        self.visit_blob(BlobKind::Data, id, state)?;
                    }
                    if let Some(id) = tree {
                        self.visit_blob(BlobKind::Tree, id, state)?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(why) => return self.record_damaged_tree(row_number, why, state),
            }
        }
    }

    fn record_damaged_tree(
        &self,
        row_number: usize,
        why: String,
        state: &mut ScanState<'_>,
    ) -> Result<(), RepositoryError> {
        let id = self.index.at(row_number)?.blob.id;
        state.lost.insert(BlobKind::Tree, id)?;
        state.findings.damaged_packs.extend(self.copies(id)?.iter().map(|copy| self.index.pack_of(copy).id));
        state.findings.add(Finding::DamagedTree { id: hex_id(id), why });
        Ok(())
    }

    fn visit_blob(&self, kind: BlobKind, id: Id, state: &mut ScanState<'_>) -> Result<(), RepositoryError> {
        let copies = self.index.copies(kind, id)?;
        let first = copies.first().filter(|_| copies.iter().any(|copy| self.index.pack_of(copy).size.is_some()));
        match first {
            None => {
                if state.lost.insert(kind, id)? {
                    state.findings.add(Finding::missing(kind, id));
                }
            }
            Some(first) => {
                if state.marks.set(first.row_number) && kind == BlobKind::Tree {
                    state.waiting.push(first.row_number);
                }
            }
        }
        Ok(())
    }

    /// The best copy of the blob whose first copy has this row number.
    fn part_at(&self, row_number: usize) -> Result<BlobLocation, RepositoryError> {
        let row = self.index.at(row_number)?;
        let best = self.copies(row.blob.id)?.first().map_or(row, |copy| copy.row);
        Ok(self.index.part(&best))
    }

    /// The copies of a tree which are in the store, best first.
    fn copies(&self, id: Id) -> Result<Vec<Copy>, RepositoryError> {
        Ok(self.index.present(self.index.copies(BlobKind::Tree, id)?))
    }

    /// Reads a tree from the first copy that is intact. The packs of damaged copies are added to `damaged`.
    async fn read_any_copy(
        &self,
        id: Id,
        damaged: &mut BTreeSet<Id>,
    ) -> Result<Result<TreeNodes<Node>, String>, RepositoryError> {
        let mut why = "the store has no copy of it".to_owned();
        for copy in self.copies(id)? {
            match TreeNodes::fetch(&self.fetcher, self.index.part(&copy.row)).await {
                Ok(nodes) => return Ok(Ok(nodes)),
                Err(RepositoryError::Damaged { what, .. }) => {
                    damaged.insert(self.index.pack_of(&copy).id);
                    why = what;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Err(why))
    }

    /// Returns the snapshots which use a lost blob. This reads all trees again, one at a time, so it must only be
    /// called if a blob is lost.
    pub async fn damaged_snapshots<'s>(
        &self,
        snapshots: &'s [SnapshotRoot],
        lost: &LostBlobs,
    ) -> Result<Vec<&'s SnapshotRoot>, RepositoryError> {
        let (seen, damaged) = (Marks::new(self.index.len()), Marks::new(self.index.len()));
        let mut walk = DamageWalk { scan: self, lost, seen, damaged };
        let mut found = Vec::new();
        for snapshot in snapshots {
            if walk.is_damaged(snapshot.tree).await? {
                found.push(snapshot);
            }
        }
        Ok(found)
    }
}

/// A depth-first walk which remembers for each tree whether it is damaged.
struct DamageWalk<'a> {
    scan: &'a UsedBlobScan<'a>,
    lost: &'a LostBlobs,
    seen: Marks,
    damaged: Marks,
}

/// A tree between the root and the current tree.
struct Step {
    row_number: usize,
    below: Vec<Id>,
}

impl DamageWalk<'_> {
    async fn is_damaged(&mut self, root: Id) -> Result<bool, RepositoryError> {
        let mut steps: Vec<Step> = Vec::new();
        let mut is_lost = self.enter(root, &mut steps).await?;
        while let Some(step) = steps.last_mut() {
            let row_number = step.row_number;
            if is_lost {
                self.damaged.set(row_number);
            }
            match step.below.pop() {
                Some(id) => is_lost = self.enter(id, &mut steps).await?,
                None => {
                    // All subtrees are known, and their result now counts for the parent tree.
                    is_lost = self.damaged.has(row_number);
                    steps.pop();
                }
            }
        }
        Ok(is_lost)
    }

    /// Whether the tree is known to be damaged. A tree which was not seen before is pushed as the next step.
    async fn enter(&mut self, id: Id, steps: &mut Vec<Step>) -> Result<bool, RepositoryError> {
        if self.lost.contains(BlobKind::Tree, id)? {
            return Ok(true);
        }
        let Some(Copy { row_number, .. }) = self.scan.index.copies(BlobKind::Tree, id)?.first().copied() else {
            return Ok(true);
        };
        if !self.seen.set(row_number) {
            return Ok(self.damaged.has(row_number));
        }
        let mut below = Vec::new();
        let mut is_damaged = false;
        match self.scan.read_any_copy(id, &mut BTreeSet::new()).await? {
            Ok(mut nodes) => loop {
                match nodes.next()?.and_then(|node| node.map(content_of).transpose()) {
                    Ok(Some(Content { data, tree })) => {
                        for id in data {
                            is_damaged |= self.lost.contains(BlobKind::Data, id)?;
                        }
                        below.extend(tree);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        is_damaged = true;
                        break;
                    }
                }
            },
            Err(_) => is_damaged = true,
        }
        if is_damaged {
            self.damaged.set(row_number);
        }
        steps.push(Step { row_number, below });
        Ok(false)
    }
}

/// The blobs which a node names: data, or a subtree.
struct Content {
    data: Vec<Id>,
    tree: Option<Id>,
}

fn content_of(node: Node) -> Result<Content, String> {
    match (node.kind.as_str(), node.subtree) {
        ("dir", Some(tree)) => Ok(Content { data: Vec::new(), tree: Some(tree) }),
        ("dir", None) => Err("a folder in it has no tree".to_owned()),
        _ => Ok(Content { data: node.content.unwrap_or_default(), tree: None }),
    }
}

//! What snapshots reach: from their trees down to every blob; and which of them reach something that is lost.
//!
//! Trees are read in batches, each of them once, from whichever copy is whole. It must not know what becomes of what no
//! snapshot reaches. Format of trees: restic's design document, section "Trees and Data".

use rustic_core::Id;
use serde::Deserialize;

use super::{
    findings::{Finding, Findings, text},
    index::Index,
    snapshots::Known,
};
use crate::repository::{
    RepositoryError,
    blob_table::{Copy, KEY_BYTES, Marks, key},
    pack::BlobKind,
    part::{Fetcher, Part},
    scratch::{self, GrowingSet},
    tree_nodes::{TreeNodes, fetch_batch, next_batch},
};

/// What is needed of an entry of a tree.
#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: String,
    content: Option<Vec<Id>>,
    subtree: Option<Id>,
}

/// Blobs that snapshots need, and of which no copy is left; by kind and id.
#[derive(Debug, Default)]
pub(super) struct Lost(GrowingSet<KEY_BYTES>);

impl Lost {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a blob; false if it was there.
    pub fn insert(&mut self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        self.0.insert(key(kind, id)).map_err(scratch::failed)
    }

    fn contains(&self, kind: BlobKind, id: Id) -> Result<bool, RepositoryError> {
        self.0.contains(&key(kind, id)).map_err(scratch::failed)
    }
}

/// Reads trees by an index.
pub(super) struct Reach<'a> {
    pub index: &'a Index,
    pub fetcher: Fetcher,
}

/// What was reached so far.
struct Reached<'a> {
    marks: Marks,
    lost: &'a mut Lost,
    findings: &'a mut Findings,
    /// Places of trees that are to be read. A stack: what is found last is read first, so that it stays short.
    waiting: Vec<usize>,
}

impl Reach<'_> {
    /// Marks, by the places of their first copies, all blobs that the snapshots reach. What is lost becomes a finding, each
    /// once.
    pub async fn mark(
        &self,
        snapshots: &[Known],
        lost: &mut Lost,
        findings: &mut Findings,
    ) -> Result<Marks, RepositoryError> {
        let mut reached = Reached { marks: Marks::new(self.index.len()), lost, findings, waiting: Vec::new() };
        for snapshot in snapshots {
            self.reach(BlobKind::Tree, snapshot.tree, &mut reached)?;
        }
        while !reached.waiting.is_empty() {
            let batch = next_batch(&mut reached.waiting, |place| self.part_at(place))?;
            match fetch_batch::<Node>(&self.fetcher, &batch).await {
                Ok(trees) => {
                    for (place, tree) in trees {
                        self.reach_all(place, tree, &mut reached)?;
                    }
                }
                // One by one, to see which, and whether another copy is whole.
                Err(RepositoryError::Damaged { .. }) => {
                    for (place, part) in batch {
                        let tree = self.read_any_copy(part.id).await?;
                        self.reach_all(place, tree, &mut reached)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(reached.marks)
    }

    /// Reaches all that a tree names.
    fn reach_all(
        &self,
        place: usize,
        tree: Result<TreeNodes<Node>, String>,
        reached: &mut Reached<'_>,
    ) -> Result<(), RepositoryError> {
        let mut nodes = match tree {
            Ok(nodes) => nodes,
            Err(why) => return self.lose_tree(place, why, reached),
        };
        loop {
            match nodes.next()?.and_then(|node| node.map(content_of).transpose()) {
                Ok(Some(Content { data, tree })) => {
                    for id in data {
                        self.reach(BlobKind::Data, id, reached)?;
                    }
                    if let Some(id) = tree {
                        self.reach(BlobKind::Tree, id, reached)?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(why) => return self.lose_tree(place, why, reached),
            }
        }
    }

    fn lose_tree(&self, place: usize, why: String, reached: &mut Reached<'_>) -> Result<(), RepositoryError> {
        let id = self.index.at(place)?.blob.id;
        reached.lost.insert(BlobKind::Tree, id)?;
        reached.findings.add(Finding::DamagedTree { id: text(id), why });
        Ok(())
    }

    fn reach(&self, kind: BlobKind, id: Id, reached: &mut Reached<'_>) -> Result<(), RepositoryError> {
        let copies = self.index.copies(kind, id)?;
        let first = copies.first().filter(|_| copies.iter().any(|copy| self.index.pack_of(copy).size.is_some()));
        match first {
            None => {
                if reached.lost.insert(kind, id)? {
                    reached.findings.add(Finding::missing(kind, id));
                }
            }
            Some(first) => {
                if reached.marks.set(first.place) && kind == BlobKind::Tree {
                    reached.waiting.push(first.place);
                }
            }
        }
        Ok(())
    }

    /// The best copy of the blob whose first copy is at that place.
    fn part_at(&self, place: usize) -> Result<Part, RepositoryError> {
        let row = self.index.at(place)?;
        let best = self.copies(row.blob.id)?.first().map_or(row, |copy| copy.row);
        Ok(self.index.part(&best))
    }

    /// The copies of a tree that are in the store, the best one first.
    fn copies(&self, id: Id) -> Result<Vec<Copy>, RepositoryError> {
        Ok(self.index.present(self.index.copies(BlobKind::Tree, id)?))
    }

    async fn read_any_copy(&self, id: Id) -> Result<Result<TreeNodes<Node>, String>, RepositoryError> {
        let mut why = "no copy of it is there".to_owned();
        for copy in self.copies(id)? {
            match TreeNodes::fetch(&self.fetcher, self.index.part(&copy.row)).await {
                Ok(nodes) => return Ok(Ok(nodes)),
                Err(RepositoryError::Damaged { what, .. }) => why = what,
                Err(error) => return Err(error),
            }
        }
        Ok(Err(why))
    }

    /// The snapshots that reach something that is lost. Reads all trees once more, one at a time: only for the case that
    /// something is.
    pub async fn harmed<'s>(&self, snapshots: &'s [Known], lost: &Lost) -> Result<Vec<&'s Known>, RepositoryError> {
        let (seen, harmed) = (Marks::new(self.index.len()), Marks::new(self.index.len()));
        let mut walk = HarmWalk { reach: self, lost, seen, harmed };
        let mut found = Vec::new();
        for snapshot in snapshots {
            if walk.is_harmed(snapshot.tree).await? {
                found.push(snapshot);
            }
        }
        Ok(found)
    }
}

/// A walk from the bottom up, which keeps what it found out about each tree.
struct HarmWalk<'a> {
    reach: &'a Reach<'a>,
    lost: &'a Lost,
    seen: Marks,
    harmed: Marks,
}

/// A tree on the way down.
struct Step {
    place: usize,
    below: Vec<Id>,
}

impl HarmWalk<'_> {
    async fn is_harmed(&mut self, root: Id) -> Result<bool, RepositoryError> {
        let mut steps: Vec<Step> = Vec::new();
        let mut is_lost = self.enter(root, &mut steps).await?;
        while let Some(step) = steps.last_mut() {
            let place = step.place;
            if is_lost {
                self.harmed.set(place);
            }
            match step.below.pop() {
                Some(id) => is_lost = self.enter(id, &mut steps).await?,
                None => {
                    // What is below is known, and counts for the tree above.
                    is_lost = self.harmed.has(place);
                    steps.pop();
                }
            }
        }
        Ok(is_lost)
    }

    /// Whether that tree is known to be harmed; if nothing is known yet, it is the next step.
    async fn enter(&mut self, id: Id, steps: &mut Vec<Step>) -> Result<bool, RepositoryError> {
        if self.lost.contains(BlobKind::Tree, id)? {
            return Ok(true);
        }
        let Some(Copy { place, .. }) = self.reach.index.copies(BlobKind::Tree, id)?.first().copied() else {
            return Ok(true);
        };
        if !self.seen.set(place) {
            return Ok(self.harmed.has(place));
        }
        let mut below = Vec::new();
        let mut is_harmed = false;
        match self.reach.read_any_copy(id).await? {
            Ok(mut nodes) => loop {
                match nodes.next()?.and_then(|node| node.map(content_of).transpose()) {
                    Ok(Some(Content { data, tree })) => {
                        for id in data {
                            is_harmed |= self.lost.contains(BlobKind::Data, id)?;
                        }
                        below.extend(tree);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        is_harmed = true;
                        break;
                    }
                }
            },
            Err(_) => is_harmed = true,
        }
        if is_harmed {
            self.harmed.set(place);
        }
        steps.push(Step { place, below });
        Ok(false)
    }
}

/// What an entry holds: data, or a tree below it.
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

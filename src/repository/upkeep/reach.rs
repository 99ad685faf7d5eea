//! What snapshots reach: from their trees down to every blob; and which of them reach something that is lost.
//!
//! Trees are read in batches, each of them once, from whichever copy is whole. It must not know what becomes of what no
//! snapshot reaches. Format of trees: restic's design document, section "Trees and Data".

use std::collections::HashSet;

use bytes::Bytes;
use rustic_core::Id;
use serde::Deserialize;

use super::{
    findings::{Finding, Findings, text},
    index::{Index, Marks},
    snapshots::Known,
};
use crate::repository::{RepositoryError, pack::BlobKind, part::Fetcher};

/// How many trees are read at once, and how long they are together, before compression; a single one may be longer.
const BATCH_TREES: usize = 512;
const BATCH_BYTES: u64 = 8 << 20;

/// What is needed of a tree.
#[derive(Debug, Deserialize)]
struct Tree {
    nodes: Option<Vec<Node>>,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: String,
    content: Option<Vec<Id>>,
    subtree: Option<Id>,
}

/// Blobs that snapshots need, and nobody has.
pub(super) type Lost = HashSet<(BlobKind, Id)>;

/// Reads trees by an index.
pub(super) struct Reach<'a> {
    pub index: &'a Index,
    pub fetcher: Fetcher,
}

/// What a tree holds: data, and trees below it.
struct Content {
    data: Vec<Id>,
    trees: Vec<Id>,
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
        let mut reached = Marks::new(self.index.rows().len());
        // A stack: what is found last is read first, so that it stays short.
        let mut waiting = Vec::new();
        for snapshot in snapshots {
            self.reach(BlobKind::Tree, snapshot.tree, &mut reached, lost, findings, &mut waiting);
        }
        while !waiting.is_empty() {
            for (id, content) in self.read(self.next_batch(&mut waiting)).await? {
                let content = match content {
                    Ok(content) => content,
                    Err(why) => {
                        lost.insert((BlobKind::Tree, id));
                        findings.add(Finding::DamagedTree { id: text(id), why });
                        continue;
                    }
                };
                for id in content.data {
                    self.reach(BlobKind::Data, id, &mut reached, lost, findings, &mut Vec::new());
                }
                for id in content.trees {
                    self.reach(BlobKind::Tree, id, &mut reached, lost, findings, &mut waiting);
                }
            }
        }
        Ok(reached)
    }

    fn reach(
        &self,
        kind: BlobKind,
        id: Id,
        reached: &mut Marks,
        lost: &mut Lost,
        findings: &mut Findings,
        waiting: &mut Vec<Id>,
    ) {
        let copies = self.index.copies(kind, id);
        if copies.is_empty() || self.index.present_copies(copies.clone()).next().is_none() {
            if lost.insert((kind, id)) {
                findings.add(Finding::missing(kind, id));
            }
        } else if reached.set(copies.start) && kind == BlobKind::Tree {
            waiting.push(id);
        }
    }

    fn next_batch(&self, waiting: &mut Vec<Id>) -> Vec<Id> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_TREES
            && let Some(id) = waiting.pop()
        {
            let copies = self.index.copies(BlobKind::Tree, id);
            let length = self.index.rows()[copies].first().map_or(0, |row| self.index.part(row).plain_length);
            bytes += u64::from(length);
            if bytes > BATCH_BYTES && !batch.is_empty() {
                waiting.push(id);
                break;
            }
            batch.push(id);
        }
        batch
    }

    /// Reads trees; the inner error says why one cannot be read.
    async fn read(&self, ids: Vec<Id>) -> Result<Vec<(Id, Result<Content, String>)>, RepositoryError> {
        let parts = ids.iter().filter_map(|id| {
            let row = self.index.present_copies(self.index.copies(BlobKind::Tree, *id)).next()?;
            Some(self.index.part(row))
        });
        match self.fetcher.clone().fetch_all(parts.collect()).await {
            Ok(trees) => Ok(ids
                .into_iter()
                .filter_map(|id| {
                    let plain = trees.get(&id)?;
                    Some((id, parse(plain)))
                })
                .collect()),
            // One by one, to see which, and whether another copy is whole.
            Err(RepositoryError::Damaged { .. }) => {
                let mut trees = Vec::new();
                for id in ids {
                    let tree = self.read_any_copy(id).await?;
                    trees.push((id, tree.and_then(|plain| parse(&plain))));
                }
                Ok(trees)
            }
            Err(error) => Err(error),
        }
    }

    async fn read_any_copy(&self, id: Id) -> Result<Result<Bytes, String>, RepositoryError> {
        let mut why = "no copy of it is there".to_owned();
        for row in self.index.present_copies(self.index.copies(BlobKind::Tree, id)) {
            match self.fetcher.fetch(self.index.part(row)).await {
                Ok(plain) => return Ok(Ok(plain)),
                Err(RepositoryError::Damaged { what, .. }) => why = what,
                Err(error) => return Err(error),
            }
        }
        Ok(Err(why))
    }

    /// The snapshots that reach something that is lost. Reads all trees once more, one at a time: only for the case that
    /// something is.
    pub async fn harmed<'s>(&self, snapshots: &'s [Known], lost: &Lost) -> Result<Vec<&'s Known>, RepositoryError> {
        let mut walk = HarmWalk {
            reach: self,
            lost,
            seen: Marks::new(self.index.rows().len()),
            harmed: Marks::new(self.index.rows().len()),
        };
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
                    // What is below is known; it is told to the tree above.
                    is_lost = self.harmed.has(place);
                    steps.pop();
                }
            }
        }
        Ok(is_lost)
    }

    /// Whether that tree is known to be harmed; if nothing is known yet, it is the next step.
    async fn enter(&mut self, id: Id, steps: &mut Vec<Step>) -> Result<bool, RepositoryError> {
        let place = self.reach.index.copies(BlobKind::Tree, id).start;
        if self.lost.contains(&(BlobKind::Tree, id)) {
            return Ok(true);
        }
        if !self.seen.set(place) {
            return Ok(self.harmed.has(place));
        }
        let below = match self.reach.read_any_copy(id).await?.and_then(|plain| parse(&plain)) {
            Ok(content) => {
                if content.data.iter().any(|id| self.lost.contains(&(BlobKind::Data, *id))) {
                    self.harmed.set(place);
                }
                content.trees
            }
            Err(_) => {
                self.harmed.set(place);
                Vec::new()
            }
        };
        steps.push(Step { place, below });
        Ok(false)
    }
}

fn parse(plain: &[u8]) -> Result<Content, String> {
    let tree: Tree = serde_json::from_slice(plain).map_err(|error| format!("it is no tree: {error}"))?;
    let mut content = Content { data: Vec::new(), trees: Vec::new() };
    for node in tree.nodes.unwrap_or_default() {
        match (node.kind.as_str(), node.subtree) {
            ("dir", Some(subtree)) => content.trees.push(subtree),
            ("dir", None) => return Err("a folder in it has no tree".to_owned()),
            _ => content.data.extend(node.content.unwrap_or_default()),
        }
    }
    Ok(content)
}

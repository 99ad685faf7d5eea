//! What a folder is compared with: the last good snapshot of its source, and how much that holds.
//!
//! It must not know what follows from the comparison.

use jiff::Timestamp;
use rustic_core::{
    TreeId,
    repofile::{Node, NodeType, SnapshotFile, SnapshotSummary as Counts},
};

use super::Shrunken;
use crate::{
    model::{
        Shrinkage, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, VolumeExtent, latest_restorable,
        shrinkage,
    },
    repository::{
        RepositoryError, SnapshotSummary, known::Known, pack::BlobKind, part::Fetcher, tree_nodes::TreeNodes,
    },
};

/// The snapshot that a restore would take now.
pub(in crate::repository) struct LastGood {
    id: String,
    /// Of the stream, if it is one file that Stowaway stored.
    digest: Option<String>,
    time: Timestamp,
    is_of_other_cluster: bool,
    extent: VolumeExtent,
}

impl LastGood {
    /// Looks for it. None if the source has no good snapshot yet, or if the identity names no source: then there is nothing
    /// to compare with.
    pub async fn find(
        snapshots: &[SnapshotFile],
        identity: &SnapshotIdentity,
        now: Timestamp,
        trees: (&Known, &Fetcher),
    ) -> Result<Option<Self>, RepositoryError> {
        let source = identity.tag(SnapshotIdentity::SOURCE).and_then(|source| source.parse::<SourceName>().ok());
        let Some(source) = source.filter(|_| !identity.has_tag(SnapshotIdentity::SAFETY)) else { return Ok(None) };
        let summaries: Vec<SnapshotSummary> = snapshots.iter().map(SnapshotSummary::of).collect();
        let records: Vec<SnapshotRecord<'_>> = summaries.iter().map(SnapshotSummary::record).collect();
        let cluster = identity.tag(SnapshotIdentity::CLUSTER).unwrap_or_default();
        let query = SnapshotQuery { source: &source, host: Some(&identity.host), as_of: None, cluster, now };
        let Ok(found) = latest_restorable(&records, &query) else { return Ok(None) };
        let Some(file) = snapshots.iter().zip(&summaries).find(|(_, summary)| summary.id == found.snapshot.id) else {
            return Ok(None);
        };
        let depth = found.snapshot.identity.path.split('/').filter(|name| !name.is_empty()).count();
        let extent = match &file.0.summary {
            Some(counts) => extent_of(counts, depth),
            // restic before 0.17 did not record it.
            None => extent_of_trees(file.0.tree, depth, trees).await?,
        };
        Ok(Some(Self {
            id: found.snapshot.id.to_owned(),
            digest: found.snapshot.identity.tag(SnapshotIdentity::DIGEST).map(str::to_owned),
            time: found.snapshot.time,
            is_of_other_cluster: found.other_cluster.is_some(),
            extent,
        }))
    }

    /// How a folder that holds so much compares with it, where that is a reason for doubt. Another cluster's volume of the
    /// same name may well be bigger, but hardly the only one with content.
    pub fn compare(&self, now: VolumeExtent, is_accepted: bool) -> Option<Shrunken> {
        let kind = shrinkage(self.extent, now)?;
        let counts = kind == Shrinkage::Emptied || !self.is_of_other_cluster;
        counts.then(|| Shrunken {
            kind,
            now,
            before: self.extent,
            last_good: self.id.clone(),
            last_good_time: self.time,
            is_accepted,
        })
    }

    /// Whether it is a stream with that SHA-256.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.digest.as_deref() == Some(digest)
    }
}

impl Shrunken {
    /// Tags the snapshot: as suspect, unless the loss is accepted.
    pub(in crate::repository) fn tag(&self, snapshot: &mut SnapshotFile) {
        snapshot.tags.add(SnapshotIdentity::SHRUNKEN.to_owned());
        if !self.is_accepted {
            snapshot.tags.add(SnapshotIdentity::SUSPECT.to_owned());
        }
    }
}

/// How much a snapshot holds below the folder of its path, which has so many parts.
pub(super) fn extent_of(counts: &Counts, depth: usize) -> VolumeExtent {
    VolumeExtent {
        files: counts.total_files_processed,
        // Those that lead to the folder, and the folder itself, are counted as well.
        folders: (counts.dirs_new + counts.dirs_changed + counts.dirs_unmodified).saturating_sub(depth as u64),
        bytes: counts.total_bytes_processed,
    }
}

/// The same by its trees. What cannot be read counts as nothing: then the snapshot would not come back, either.
async fn extent_of_trees(
    root: TreeId,
    depth: usize,
    (known, fetcher): (&Known, &Fetcher),
) -> Result<VolumeExtent, RepositoryError> {
    let (mut extent, mut trees) = (VolumeExtent::default(), vec![root]);
    while let Some(tree) = trees.pop() {
        let Some(blob) = known.find(BlobKind::Tree, *tree)? else { continue };
        let mut nodes: TreeNodes<Node> = match TreeNodes::fetch(fetcher, blob.part).await {
            Ok(nodes) => nodes,
            Err(RepositoryError::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        while let Ok(Some(node)) = nodes.next()? {
            if node.node_type == NodeType::Dir {
                extent.folders += 1;
                trees.extend(node.subtree);
            } else {
                extent.files += 1;
                extent.bytes = extent.bytes.saturating_add(node.meta.size);
            }
        }
    }
    extent.folders = extent.folders.saturating_sub(depth as u64);
    Ok(extent)
}

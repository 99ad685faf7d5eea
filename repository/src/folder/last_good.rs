//! The last good snapshot of a source and its extent, with which a new backup of a folder is compared.

use jiff::Timestamp;
use rustic_core::{
    TreeId,
    repofile::{Node, NodeType, SnapshotFile, SnapshotSummary as Counts},
};

use super::Shrunken;
use crate::{
    RepositoryError, SnapshotSummary, blob_location::Fetcher, known_blobs::KnownBlobs, pack::BlobKind,
    tree_nodes::TreeNodes,
};
use stowaway_model::{
    Shrinkage, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, VolumeExtent, latest_restorable, shrinkage,
};

/// The snapshot which a restore would use now.
pub(crate) struct LastGood {
    id: String,
    /// The SHA-256 of the content, if the snapshot is a stream which Stowaway stored.
    digest: Option<String>,
    time: Timestamp,
    is_of_other_cluster: bool,
    extent: VolumeExtent,
}

impl LastGood {
    /// Finds the last good snapshot. Returns none if the source has no good snapshot yet, or if the identity has no
    /// source, because then there is nothing to compare with.
    pub async fn find(
        snapshots: &[SnapshotFile],
        identity: &SnapshotIdentity,
        now: Timestamp,
        trees: (&KnownBlobs, &Fetcher),
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
            // restic before 0.17 did not record a summary.
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

    /// Compares a folder of this extent with the snapshot. Returns a result only if the folder shrank suspiciously. A
    /// volume of the same name in another cluster may be much bigger, so for a snapshot of another cluster only an
    /// emptied folder counts.
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

    /// Whether the snapshot is a stream with this SHA-256.
    pub fn has_digest(&self, digest: &str) -> bool {
        self.digest.as_deref() == Some(digest)
    }
}

impl Shrunken {
    /// Tags the snapshot as shrunken, and also as suspect unless the loss is accepted.
    pub(crate) fn tag(&self, snapshot: &mut SnapshotFile) {
        snapshot.tags.add(SnapshotIdentity::SHRUNKEN.to_owned());
        if !self.is_accepted {
            snapshot.tags.add(SnapshotIdentity::SUSPECT.to_owned());
        }
    }
}

/// The extent of a snapshot below the folder at its path, which has `depth` components.
pub(super) fn extent_of(counts: &Counts, depth: usize) -> VolumeExtent {
    VolumeExtent {
        files: counts.total_files_processed,
        // The counts include the folder itself and the folders above it.
        folders: (counts.dirs_new + counts.dirs_changed + counts.dirs_unmodified).saturating_sub(depth as u64),
        bytes: counts.total_bytes_processed,
    }
}

/// Counts the extent from the snapshot's trees. A tree which cannot be read counts as empty, because a restore could
/// not return its content either.
async fn extent_of_trees(
    root: TreeId,
    depth: usize,
    (known, fetcher): (&KnownBlobs, &Fetcher),
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

//! The last good snapshot of a source and its extent, with which a new backup of a folder is compared.

use jiff::{SignedDuration, Timestamp};

use super::report::Shrunken;
use crate::{
    RepositoryError, SnapshotSummary,
    format::{BlobKind, Node, NodeType, SnapshotFile, SnapshotSummary as Counts, TreeId},
    index::{fetcher::Fetcher, known_blobs::KnownBlobs},
    trees::tree_nodes::TreeNodes,
};
use stowaway_model::{
    Quality, Shrinkage, SnapshotIdentity, SnapshotQuery, SnapshotRecord, SourceName, VolumeExtent, latest_restorable,
    shrinkage,
};

/// The time over which a loss that is spread over several backups is reported.
const DECLINE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A good snapshot which is older than the last one.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Earlier {
    id: String,
    time: Timestamp,
    extent: VolumeExtent,
}

/// The good snapshots of the same history since [`DECLINE`], and since the last loss which was accepted.
fn earlier(
    all: &[(SnapshotRecord<'_>, Option<VolumeExtent>)],
    last: &SnapshotRecord<'_>,
    now: Timestamp,
) -> Vec<Earlier> {
    let history = last.history();
    let good = |record: &SnapshotRecord<'_>| record.quality(now) == Quality::Proven && record.history() == history;
    let accepted = all.iter().map(|(record, _)| record);
    let accepted = accepted.filter(|record| good(record) && record.identity.has_tag(SnapshotIdentity::SHRUNKEN));
    let since = now.saturating_sub(DECLINE).unwrap_or(Timestamp::MIN);
    let since = accepted.map(|record| record.time).max().map_or(since, |accepted| accepted.max(since));
    all.iter()
        .filter(|(record, _)| good(record) && record.time >= since && record.id != last.id)
        .filter_map(|(record, extent)| {
            Some(Earlier { id: record.id.to_owned(), time: record.time, extent: (*extent)? })
        })
        .collect()
}

/// The snapshot which a restore would use now.
pub(crate) struct LastGood {
    id: String,
    /// The SHA-256 of the content, if the snapshot is a stream which Stowaway stored.
    digest: Option<String>,
    time: Timestamp,
    is_of_other_cluster: bool,
    extent: VolumeExtent,
    earlier: Vec<Earlier>,
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
        let depth = depth_of(&found.snapshot);
        let extents = snapshots.iter().zip(&records).map(|(file, record)| {
            let extent = file.summary.as_ref().map(|counts| extent_of(counts, depth_of(record)));
            (*record, extent)
        });
        let earlier = earlier(&extents.collect::<Vec<_>>(), &found.snapshot, now);
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
            earlier,
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

    /// Compares a folder of this extent with the older good snapshots. Returns a result if the folder has shrunk
    /// suspiciously since one of them, although each backup alone lost less.
    pub fn compare_earlier(&self, now: VolumeExtent) -> Option<Shrunken> {
        let earlier = self.earlier.iter().filter(|_| !self.is_of_other_cluster);
        let larger = earlier.filter_map(|earlier| Some((earlier, shrinkage(earlier.extent, now)?)));
        let (earlier, kind) = larger.max_by_key(|(earlier, _)| earlier.time)?;
        Some(Shrunken {
            kind,
            now,
            before: earlier.extent,
            last_good: earlier.id.clone(),
            last_good_time: earlier.time,
            is_accepted: false,
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
        snapshot.tags.insert(SnapshotIdentity::SHRUNKEN.to_owned());
        if !self.is_accepted {
            snapshot.tags.insert(SnapshotIdentity::SUSPECT.to_owned());
        }
    }
}

/// The number of components of a snapshot's path.
fn depth_of(record: &SnapshotRecord<'_>) -> usize {
    record.identity.path.split('/').filter(|name| !name.is_empty()).count()
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
            if node.kind == NodeType::Dir {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(tags: &[&str]) -> SnapshotIdentity {
        let tags = ["source=pvc/claim"].iter().chain(tags).map(|&tag| tag.to_owned()).collect();
        SnapshotIdentity { host: "shop".into(), path: "/data/claim".into(), tags }
    }

    /// Ids and extents of the snapshots with which a volume is compared beside the last one.
    fn compared(tags: [&[&str]; 4]) -> Vec<String> {
        let now = "2026-05-10T00:00:00Z".parse().unwrap();
        let times = ["2026-05-02T00:00:00Z", "2026-05-04T00:00:00Z", "2026-05-06T00:00:00Z", "2026-05-09T00:00:00Z"];
        let identities = tags.map(identity);
        let ids = ["0", "1", "2", "3"];
        let all: Vec<_> = (0..4)
            .map(|index| {
                let (identity, time) = (&identities[index], times[index].parse().unwrap());
                let record = SnapshotRecord { id: ids[index], time, identity, paths: &[], bytes: None };
                (record, Some(VolumeExtent::default()))
            })
            .collect();
        earlier(&all, &all[3].0, now).into_iter().map(|earlier| earlier.id).collect()
    }

    #[test]
    fn slow_loss_is_seen_by_the_good_snapshots_of_a_week_since_the_last_consent() {
        assert_eq!(compared([&[], &[], &[], &[]]), ["1", "2"], "the first one is too old");
        assert_eq!(compared([&[], &["suspect", "shrunken"], &[], &[]]), ["2"]);
        assert_eq!(compared([&[], &["incomplete"], &["safety"], &[]]), Vec::<String>::new());
        assert_eq!(compared([&[], &[], &["shrunken"], &[]]), ["2"], "the loss was accepted");
        assert_eq!(compared([&[], &[], &[], &["shrunken"]]), Vec::<String>::new());
        let other = SnapshotIdentity { host: "elsewhere".into(), ..identity(&[]) };
        let (own, time) = (identity(&[]), "2026-05-09T00:00:00Z".parse().unwrap());
        let record = |id, identity| SnapshotRecord { id, time, identity, paths: &[], bytes: None };
        let all = [(record("0", &other), Some(VolumeExtent::default())), (record("1", &own), None)];
        assert_eq!(earlier(&all, &record("2", &own), time), [], "another history, and a snapshot without counts");
    }

    #[test]
    fn newest_snapshot_that_was_twice_as_large_is_named() {
        let extent = |files| VolumeExtent { files, folders: 0, bytes: 0 };
        let snapshot =
            |id: &str, time: &str, files| Earlier { id: id.into(), time: time.parse().unwrap(), extent: extent(files) };
        let last_good = LastGood {
            id: "last".into(),
            digest: None,
            time: "2026-05-09T00:00:00Z".parse().unwrap(),
            is_of_other_cluster: false,
            extent: extent(36),
            earlier: vec![
                snapshot("a", "2026-05-05T00:00:00Z", 150),
                snapshot("b", "2026-05-07T00:00:00Z", 100),
                snapshot("c", "2026-05-08T00:00:00Z", 40),
            ],
        };
        assert_eq!(last_good.compare(extent(22), false), None);
        let found = last_good.compare_earlier(extent(22)).unwrap();
        assert_eq!((found.last_good.as_str(), found.before, found.kind), ("b", extent(100), Shrinkage::LostMost));
        assert_eq!(last_good.compare_earlier(extent(90)), None);
    }
}

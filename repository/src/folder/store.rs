//! Stores a folder as a snapshot. The content of files which have not changed since the parent snapshot is reused, and
//! all other files are read.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use jiff::Timestamp;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::{
    archive::FolderJob,
    backup_stats::BackupStats,
    last_good::{LastGood, extent_of},
    parent::Parent,
    report::StoredFolder,
    restore_marks::unfinished_restore,
    rules::FolderRules,
    walk::Walk,
};
use crate::{
    Progress, Repository, RepositoryError,
    archive::store_with,
    commit::{self, Commit},
    format::{Id, SnapshotFile},
    index::{
        fetcher::Fetcher,
        known_blobs::{self, KnownBlobs},
    },
    store::Store,
    trees::tree,
};
use stowaway_model::{DamagedPacks, Proof, SnapshotIdentity};

/// How often the folder is read, if packs are found damaged after the run has relied on them. The first reading finds
/// all of them, unless a pack gets damaged meanwhile.
const MAX_READINGS: usize = 3;

/// See [`Repository::store_folder`].
pub(super) async fn store_folder(
    repository: &Repository,
    store: &Store,
    identity: &SnapshotIdentity,
    rules: &FolderRules,
    folder: &Path,
    progress: Arc<Progress>,
) -> Result<StoredFolder, RepositoryError> {
    let mut distrusted = repository.damaged_packs.clone();
    let mut readings = 1;
    loop {
        let reading = (rules, folder, &distrusted);
        let outcome = read_and_store(repository, store, identity, reading, Arc::clone(&progress)).await?;
        match outcome {
            ControlFlow::Break(stored) => return Ok(stored),
            ControlFlow::Continue(harmed) if readings == MAX_READINGS => {
                return Err(known_blobs::used_damage(store, &harmed));
            }
            ControlFlow::Continue(harmed) => {
                tracing::warn!(
                    "{} found to be damaged after this run had relied on data in it; the folder is read again, and the \
                     data is stored again",
                    known_blobs::were_packs(&harmed)
                );
                let ids = harmed.iter().map(|id| id.to_hex().as_str().to_owned()).collect();
                distrusted = distrusted.and(DamagedPacks { ids, more_in: None });
                readings += 1;
            }
        }
    }
}

/// Reads the folder, and stores it as a snapshot. Stores no snapshot if packs on which the snapshot would rely were
/// found damaged, and returns these packs. Data in `distrusted` packs is stored again.
async fn read_and_store(
    repository: &Repository,
    store: &Store,
    identity: &SnapshotIdentity,
    (rules, folder, distrusted): (&FolderRules, &Path, &DamagedPacks),
    progress: Arc<Progress>,
) -> Result<ControlFlow<StoredFolder, Vec<Id>>, RepositoryError> {
    let started = Timestamp::now();
    let names = tree::checked_path(&identity.path)?;
    refuse_unfinished(identity, folder)?;
    let stats = Arc::new(BackupStats::default());
    let walk = {
        let (folder, rules, stats) = (folder.to_owned(), (rules.excludes.clone(), rules.settle), Arc::clone(&stats));
        let name = names.last().copied().unwrap_or_default().to_owned();
        spawn_blocking(move || Walk::new(&folder, name.as_ref(), rules, stats))
            .await
            .map_err(|panic| store.internal(panic))??
    };
    let (snapshots, _) = repository.snapshot_files().await?;
    let parent = newest(&snapshots, &identity.host, &identity.path);
    let known = Arc::new(KnownBlobs::read_to_store(&repository.cipher, store, distrusted, &snapshots).await?);
    let depth = names.len();
    let names = names.into_iter().map(str::to_owned).collect();
    let job = FolderJob { walk, names, time: rules.time, stats: Arc::clone(&stats), progress: Arc::clone(&progress) };
    let fetcher = Fetcher::new(store, &repository.cipher).with_copies(&known);
    let last_good = LastGood::find(&snapshots, identity, rules.time, (known.as_ref(), &fetcher)).await?;
    drop(snapshots);
    let (before, runtime) = (parent.as_ref().map(|parent| parent.tree), Handle::current());
    let known_blobs = Arc::clone(&known);
    let (path, patterns) = (identity.path.clone(), rules.excludes.patterns().to_vec());
    let task = move |packer: &Arc<_>, chunker| {
        let parent = Parent::new(&known_blobs, fetcher, runtime, before)?;
        let (root, found) = job.archive(packer, &chunker, parent)?;
        let collected = stats.take();
        // Before the packer lists the trees, because that would look like the data of a lost snapshot.
        if found.total_files_processed == 0 && collected.left_out > 0 {
            return Err(nothing_left(&path, collected.left_out, &patterns));
        }
        Ok((root, found, collected, packer.finish()?))
    };
    let (root, found, collected, written) =
        store_with(repository, store, Arc::clone(&known), (progress, Arc::default()), task).await?;
    let lacking = known.lacking_now();
    let harmed = known.damaged_after_use();
    if !harmed.is_empty() {
        return Ok(ControlFlow::Continue(harmed));
    }

    let files = found.total_files_processed;
    let now = extent_of(&found, depth);
    let summary = commit::completed(found, &written, started);
    let (bytes, added_bytes) = (summary.total_bytes_processed, summary.data_added_packed);
    let commit = Commit { repository, store, identity, time: rules.time };
    let mut snapshot = commit.labelled(root, summary);
    snapshot.parent = parent.map(|parent| parent.id);
    snapshot.excludes = rules.excludes.patterns().to_vec();
    let shrunken = last_good.as_ref().and_then(|last_good| last_good.compare(now, rules.accept_shrunken));
    let declined = last_good.filter(|_| shrunken.is_none() && !rules.accept_shrunken);
    let declined = declined.and_then(|last_good| last_good.compare_earlier(now));
    if collected.without_attributes.count > 0 {
        snapshot.tags.insert(SnapshotIdentity::WITHOUT_ATTRIBUTES.to_owned());
    }
    if collected.unreadable.count == 0 && collected.mounts.count == 0 {
        // The folder is read directly and not through an exec connection, and every failed read is counted.
        snapshot.tags.insert(format!("{}={}", SnapshotIdentity::PROOF, Proof::Sealed));
    } else {
        snapshot.tags.insert(SnapshotIdentity::INCOMPLETE.to_owned());
    }
    if let Some(shrunken) = &shrunken {
        shrunken.tag(&mut snapshot);
    }
    // A restore may have begun after the first check, and may have moved entries which were read.
    refuse_unfinished(identity, folder)?;
    let snapshot = commit.publish(&snapshot, &written).await?;
    Ok(ControlFlow::Break(StoredFolder {
        snapshot,
        files,
        bytes,
        added_bytes,
        lacking,
        shrunken,
        declined,
        ..collected
    }))
}

/// The error of a folder of which the patterns leave no file.
fn nothing_left(path: &str, left_out: u64, patterns: &[String]) -> RepositoryError {
    let (entries, are) = if left_out == 1 { ("entry", "is") } else { ("entries", "are") };
    let (pattern, patterns) = (if patterns.len() == 1 { "pattern" } else { "patterns" }, patterns.join(", "));
    RepositoryError::AllExcluded(format!(
        "no file of {path} is left to store, because {left_out} {entries} {are} excluded by the {pattern} {patterns} (a \
         folder counts once); nothing was stored"
    ))
}

/// Rejects a folder into which a restore is running or was interrupted. A safety copy is exempt, because the restore
/// itself makes it before it overwrites data.
fn refuse_unfinished(identity: &SnapshotIdentity, folder: &Path) -> Result<(), RepositoryError> {
    if identity.has_tag(SnapshotIdentity::SAFETY) {
        return Ok(());
    }
    let path = folder.display().to_string();
    match unfinished_restore(folder) {
        Ok(None) => Ok(()),
        Ok(Some(mark)) => Err(RepositoryError::RestoreUnfinished { path, mark }),
        Err(source) => Err(RepositoryError::Unreadable { path, source }),
    }
}

/// The newest snapshot of this host and path, which becomes the parent.
fn newest(snapshots: &[SnapshotFile], host: &str, path: &str) -> Option<SnapshotFile> {
    let same = snapshots
        .iter()
        .filter(|snapshot| snapshot.hostname == host && snapshot.paths.iter().eq([path]) && is_exact(snapshot));
    same.max_by(|one, other| (one.time, one.id).cmp(&(other.time, other.id))).cloned()
}

/// Whether the recorded sizes of files are those of the stored contents. rustic records the size before it reads a
/// file.
fn is_exact(snapshot: &SnapshotFile) -> bool {
    !snapshot.program_version.starts_with("rustic")
}

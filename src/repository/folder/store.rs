//! A folder into a snapshot: what did not change since the last one is taken from there, the rest is read.
//!
//! It must not know how a folder is read.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use rustic_core::repofile::SnapshotFile;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::{
    FolderRules, StoredFolder,
    archive::FolderJob,
    last_good::{LastGood, extent_of},
    ledger::Ledger,
    parent::Parent,
    restore_marks::unfinished_restore,
    walk::Walk,
};
use crate::{
    model::{Proof, SnapshotIdentity},
    repository::{
        Progress, Repository, RepositoryError,
        archive::{internal, store_with},
        commit::{self, Commit},
        known::Known,
        part::Fetcher,
        store::Store,
        tree,
    },
};

/// See [`Repository::store_folder`].
pub(super) async fn store_folder(
    repository: &Repository,
    store: &Store,
    identity: &SnapshotIdentity,
    rules: &FolderRules,
    folder: &Path,
    progress: Arc<Progress>,
) -> Result<StoredFolder, RepositoryError> {
    let started = Timestamp::now();
    let names = tree::checked_path(&identity.path)?;
    refuse_unfinished(identity, folder)?;
    let ledger = Arc::new(Ledger::default());
    let walk = {
        let (folder, rules, ledger) = (folder.to_owned(), (rules.excludes.clone(), rules.settle), Arc::clone(&ledger));
        let name = names.last().copied().unwrap_or_default().to_owned();
        spawn_blocking(move || Walk::new(&folder, name.as_ref(), rules, ledger))
            .await
            .map_err(|panic| internal(store, panic))??
    };
    let (snapshots, _) = repository.snapshot_files().await?;
    let parent = newest(&snapshots, &identity.host, &identity.path);
    let known = Arc::new(Known::read_to_store(&repository.cipher, store).await?);
    let lacking = known.lacking.clone();
    let depth = names.len();
    let names = names.into_iter().map(str::to_owned).collect();
    let job = FolderJob { walk, names, time: rules.time, ledger: Arc::clone(&ledger), progress: Arc::clone(&progress) };
    let fetcher = Fetcher { store: store.clone(), cipher: repository.cipher.clone() };
    let last_good = LastGood::find(&snapshots, identity, rules.time, (known.as_ref(), &fetcher)).await?;
    drop(snapshots);
    let (before, runtime, there) = (parent.as_ref().map(|parent| parent.tree), Handle::current(), Arc::clone(&known));
    let task = move |packer: &Arc<_>, chunker| {
        let parent = Parent::new(&there, fetcher, runtime, before)?;
        let (root, found) = job.archive(packer, &chunker, parent)?;
        Ok((root, found, packer.finish()?))
    };
    let (root, found, written) = store_with(repository, store, known, (progress, Arc::default()), task).await?;

    let files = found.total_files_processed;
    let noted = ledger.take();
    let left_out = noted.left_out;
    if files == 0 && left_out > 0 {
        let patterns = rules.excludes.patterns().join(", ");
        let text = format!("of {} no file is left by what is to be left out: {patterns}", folder.display());
        return Err(RepositoryError::InvalidRequest(text));
    }
    let now = extent_of(&found, depth);
    let summary = commit::completed(found, &written, started);
    let (bytes, added_bytes) = (summary.total_bytes_processed, summary.data_added_packed);
    let commit = Commit { repository, store, identity, time: rules.time };
    let mut snapshot = commit.labelled(root, summary);
    snapshot.parent = parent.map(|parent| parent.id);
    let shrunken = last_good.and_then(|last_good| last_good.compare(now, rules.accept_shrunken));
    if noted.without_attributes.count > 0 {
        snapshot.tags.add(SnapshotIdentity::WITHOUT_ATTRIBUTES.to_owned());
    }
    if noted.unreadable.count == 0 && noted.mounts.count == 0 {
        // No network lies between the folder and us, and every failed read is counted.
        snapshot.tags.add(format!("{}={}", SnapshotIdentity::PROOF, Proof::Sealed));
    } else {
        snapshot.tags.add(SnapshotIdentity::INCOMPLETE.to_owned());
    }
    if let Some(shrunken) = &shrunken {
        shrunken.tag(&mut snapshot);
    }
    // A restore may have begun after the first look, and have moved what was read.
    refuse_unfinished(identity, folder)?;
    let snapshot = commit.publish(&snapshot, rules.excludes.patterns(), &written).await?;
    Ok(StoredFolder { snapshot, files, bytes, added_bytes, lacking, shrunken, ..noted })
}

/// Refuses a folder that is in the middle of a restore. What a restore keeps before it overwrites is no such folder.
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

/// The newest snapshot of that host and path, whose unchanged files are not read again.
fn newest(snapshots: &[SnapshotFile], host: &str, path: &str) -> Option<SnapshotFile> {
    let same = snapshots
        .iter()
        .filter(|snapshot| snapshot.hostname == host && snapshot.paths.iter().eq([path]) && is_exact(snapshot));
    same.max_by(|one, other| (&one.time, one.id).cmp(&(&other.time, other.id))).cloned()
}

/// Whether the lengths in its trees are those of the contents: rustic records what a file had before it was read.
fn is_exact(snapshot: &SnapshotFile) -> bool {
    !snapshot.program_version.starts_with("rustic")
}

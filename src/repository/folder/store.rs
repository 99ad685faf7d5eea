//! A folder into a snapshot: the engine archives it, what it left out without a word is found out, and only then a snapshot
//! is made.
//!
//! It must not know how a folder is read.

use std::{path::Path, sync::Arc};

use rustic_core::{OpenStatus, ParentOptions, RusticResult, repofile::SnapshotFile};
use tokio::task::spawn_blocking;

use super::{
    FolderRules, StoredFolder,
    ledger::Ledger,
    source::{FolderSource, Shared},
    walk::Walk,
};
use crate::{
    model::{Proof, SnapshotIdentity},
    repository::{
        Progress, Repository, RepositoryError,
        archive::{archive, internal},
        commit::Commit,
        gate::{Gate, Trees, Verdict},
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
    let names = tree::checked_path(&identity.path)?;
    let ledger = Arc::new(Ledger::default());
    let walk = {
        let (folder, excludes, ledger) = (folder.to_owned(), rules.excludes.clone(), Arc::clone(&ledger));
        let name = names.last().copied().unwrap_or_default().to_owned();
        spawn_blocking(move || Walk::new(&folder, name.as_ref(), excludes, ledger))
            .await
            .map_err(|panic| internal(store, panic))?
    };
    let walk = walk.map_err(|source| RepositoryError::Unreadable { path: folder.display().to_string(), source })?;
    let shared = Shared {
        ledger: Arc::clone(&ledger),
        progress: Arc::clone(&progress),
        verdict: Verdict::default(),
        first_error: Arc::default(),
        cancel: store.cancel().clone(),
    };
    let (verdict, first_error) = (shared.verdict.clone(), Arc::clone(&shared.first_error));
    let gate = Gate::new(store, verdict.clone(), Trees::Written, Arc::clone(&progress), Arc::clone(&first_error));
    let gate = Arc::new(gate);
    let source = FolderSource::new(walk, &names, rules.time, shared);
    let (host, path) = (identity.host.clone(), identity.path.clone());
    let parent = move |engine: &rustic_core::Repository<OpenStatus>| parent(engine, &host, &path);
    let engines = archive(repository, store, &gate, first_error, source, names.iter().collect(), parent).await?;

    if verdict.get().is_none() {
        return Err(RepositoryError::Cancelled { place: store.place().to_owned() });
    }
    let summary = engines.summary.unwrap_or_default();
    // The engine's own root comes on top.
    let (folders, files) = (ledger.folders() + 1, ledger.files());
    if (summary.total_dirs_processed, summary.total_files_processed) != (folders, files) {
        let stored = format!("{} folders and {} files", summary.total_dirs_processed, summary.total_files_processed);
        return Err(internal(store, format!("the engine stored {stored} of {folders} and {files}")));
    }
    let (vanished, left_out) = (ledger.count_vanished(), ledger.count_left_out());
    if files == 0 && left_out > 0 {
        let patterns = rules.excludes.patterns().join(", ");
        let text = format!("of {} no file is left by what is to be left out: {patterns}", folder.display());
        return Err(RepositoryError::InvalidRequest(text));
    }
    let (bytes, added_bytes) = (summary.total_bytes_processed, summary.data_added_packed);
    let commit = Commit { repository, store, identity, time: rules.time, progress: &progress };
    let mut snapshot = commit.labelled(engines.tree, summary);
    snapshot.parent = engines.parent;
    let unreadable = ledger.take_unreadable();
    if unreadable.count == 0 {
        // No network lies between the folder and us, and every failed read is counted.
        snapshot.tags.add(format!("{}={}", SnapshotIdentity::PROOF, Proof::Sealed));
    } else {
        snapshot.tags.add(SnapshotIdentity::INCOMPLETE.to_owned());
    }
    let snapshot = commit.publish(&snapshot, rules.excludes.patterns(), &gate.passed().written).await?;
    Ok(StoredFolder { snapshot, files, bytes, added_bytes, unreadable, vanished, left_out })
}

/// What the engine may take for unchanged: files that have the length, times and inode number which they had in the newest
/// snapshot of the same host and path.
fn parent(engine: &rustic_core::Repository<OpenStatus>, host: &str, path: &str) -> RusticResult<ParentOptions> {
    let newest = engine
        .get_all_snapshots()?
        .into_iter()
        .filter(|snapshot| snapshot.hostname == host && snapshot.paths.iter().eq([path]) && is_exact(snapshot))
        .max_by(|one, other| (&one.time, one.id).cmp(&(&other.time, other.id)));
    let options = ParentOptions::default();
    Ok(match newest {
        // The engine has this one the wrong way round (`rustic_core` 0.13): inode numbers are compared if "ignored".
        Some(parent) => options.ignore_inode(true).parents(vec![parent.id.to_hex().as_str().to_owned()]),
        None => options.force(true),
    })
}

/// Whether the lengths in its trees are those of the contents: rustic records what a file had before it was read.
fn is_exact(snapshot: &SnapshotFile) -> bool {
    !snapshot.program_version.starts_with("rustic")
}

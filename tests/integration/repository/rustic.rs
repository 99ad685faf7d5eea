//! Compatibility with rustic, used as a library: rustic checks and restores what Stowaway wrote, and Stowaway checks
//! and restores what rustic wrote and pruned.

use std::{collections::BTreeSet, fs, path::Path};

use rustic_backend::BackendOptions;
use rustic_core::{
    BackupOptions, CheckOptions, Credentials, LocalDestination, LsOptions, PathList, PruneOptions,
    Repository as Rustic, RepositoryOptions, RestoreOptions, SnapshotOptions, repofile::SnapshotFile,
};
use stowaway::{
    model::DataPart,
    repository::{Forget, open, open_exclusively},
};

use super::{
    folders::{at, claim},
    prune::none_unused,
    restic::newest,
    torture::{assert_same_below, folder_in},
    *,
};

fn opened(location: &Path) -> Rustic<rustic_core::OpenStatus> {
    let backends = BackendOptions::default().repository(location.to_str().unwrap()).to_backends().unwrap();
    let unopened = Rustic::new(&RepositoryOptions::default().no_cache(true), &backends).unwrap();
    unopened.open(&Credentials::password(PASSWORD)).unwrap()
}

fn check(location: &Path) {
    let results = opened(location).check(CheckOptions::default().trust_cache(true).read_data(true)).unwrap();
    results.is_ok().unwrap();
}

fn restore(location: &Path, snapshot: &str, target: &Path) {
    let repository = opened(location).to_indexed().unwrap();
    let node = repository.node_from_snapshot_path(snapshot, |_| true).unwrap();
    let entries = repository.ls(&node, &LsOptions::default()).unwrap();
    let target = LocalDestination::new(target.to_str().unwrap(), true, false).unwrap();
    let options = RestoreOptions::default();
    let plan = repository.prepare_restore(&options, entries.clone(), &target, false).unwrap();
    repository.restore(plan, &options, entries, &target).unwrap();
}

fn backup(location: &Path, source: &Path) -> SnapshotFile {
    let repository = opened(location).to_indexed_ids().unwrap();
    let source = PathList::from_string(source.to_str().unwrap()).unwrap().sanitize().unwrap();
    let snapshot = SnapshotOptions::default().add_tags("source=pvc/claim").unwrap().to_snapshot().unwrap();
    repository.backup(&BackupOptions::default(), &source, snapshot).unwrap()
}

/// Some files, part of which differ between versions.
fn write_files(folder: &Path, version: u64) {
    for number in 0..40 {
        let seed = if number % 4 == 0 { number } else { number + 100 * version };
        let below = folder.join((number % 3).to_string());
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(number.to_string()), noise(200_000, seed)).unwrap();
    }
}

/// Asserts that Stowaway reads every byte without a finding, and restores the snapshot.
async fn is_whole_for_us(location: &Path, snapshot: &str, path: &str, source: &Path) {
    let repository = open(folder(location), never()).await.unwrap();
    let report = repository.check(Some(DataPart::ALL)).await.unwrap();
    assert!(report.is_sound(), "{}", report.findings);
    let target = tempfile::tempdir().unwrap();
    repository.restore_folder(snapshot, path, target.path(), Arc::default()).await.unwrap();
    assert_same_below(source, target.path());
    repository.close().await;
    newest().check(location);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_that_stowaway_writes_and_prunes_is_checked_and_restored_by_rustic() {
    let temporary = tempfile::tempdir().unwrap();
    let (location, source) = (temporary.path().join("repository"), folder_in(temporary.path(), "source"));
    let repository = new_repository(&location).await;
    let dump = noise(5 << 20, 9);
    let stream = store(&repository, "/db.sql", &dump).await.snapshot;
    let mut folders = Vec::new();
    for version in 0..2 {
        write_files(&source, version);
        let rules = at(&format!("2026-05-0{}T03:02:01Z", 4 + version));
        folders.push(repository.store_folder(&claim(), &rules, &source, Arc::default()).await.unwrap().snapshot);
    }
    repository.close().await;
    for is_pruned in [false, true] {
        if is_pruned {
            let repository = open_exclusively(folder(&location), never()).await.unwrap();
            let forget = Forget { snapshots: BTreeSet::from([folders[0].clone()]), ..Forget::default() };
            super::forget(&repository, forget).await.unwrap();
            assert!(repository.prune(&none_unused()).await.unwrap().packs_repacked > 0);
            repository.close().await;
        }
        let target = temporary.path().join(format!("restored {is_pruned}"));
        let (location, stream, newest) = (location.clone(), stream.clone(), folders[1].clone());
        tokio::task::spawn_blocking(move || {
            check(&location);
            restore(&location, &format!("{newest}:/data/claim"), &target.join("folder"));
            restore(&location, &stream, &target.join("stream"));
        })
        .await
        .unwrap();
        let target = temporary.path().join(format!("restored {is_pruned}"));
        assert_same_below(&source, &target.join("folder"));
        assert!(fs::read(target.join("stream/db.sql")).unwrap() == dump);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_that_rustic_writes_and_prunes_is_checked_and_restored_by_stowaway() {
    // rustic marks packs first and removes them later, or removes them at once.
    for is_instant in [false, true] {
        let temporary = tempfile::tempdir().unwrap();
        let (location, source) = (temporary.path().join("repository"), folder_in(temporary.path(), "source"));
        new_repository(&location).await.close().await;
        let (repository_path, folder) = (location.clone(), source.clone());
        let (first, second) = tokio::task::spawn_blocking(move || {
            write_files(&folder, 0);
            let first = backup(&repository_path, &folder);
            write_files(&folder, 1);
            (first, backup(&repository_path, &folder))
        })
        .await
        .unwrap();
        let id = second.id.to_hex().as_str().to_owned();
        let path = source.to_str().unwrap();
        is_whole_for_us(&location, &id, path, &source).await;
        let repository_path = location.clone();
        tokio::task::spawn_blocking(move || {
            let repository = opened(&repository_path);
            repository.delete_snapshots(&[first.id]).unwrap();
            let mut options = PruneOptions::default();
            options.instant_delete = is_instant;
            options.max_unused = "0".parse().unwrap();
            let plan = repository.prune_plan(&options).unwrap();
            repository.prune(&options, plan).unwrap();
        })
        .await
        .unwrap();
        is_whole_for_us(&location, &id, path, &source).await;
        // rustic accepts the repository after a prune of Stowaway.
        let repository = open_exclusively(super::folder(&location), never()).await.unwrap();
        repository.prune(&none_unused()).await.unwrap();
        repository.close().await;
        is_whole_for_us(&location, &id, path, &source).await;
        let repository_path = location.clone();
        tokio::task::spawn_blocking(move || check(&repository_path)).await.unwrap();
    }
}

//! rustic, as its library has it, and a repository of ours: it checks and restores what we wrote, and we what it wrote and
//! pruned.

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

fn opened(place: &Path) -> Rustic<rustic_core::OpenStatus> {
    let backends = BackendOptions::default().repository(place.to_str().unwrap()).to_backends().unwrap();
    let unopened = Rustic::new(&RepositoryOptions::default().no_cache(true), &backends).unwrap();
    unopened.open(&Credentials::password(PASSWORD)).unwrap()
}

fn check(place: &Path) {
    let results = opened(place).check(CheckOptions::default().trust_cache(true).read_data(true)).unwrap();
    results.is_ok().unwrap();
}

fn restore(place: &Path, snapshot: &str, target: &Path) {
    let repository = opened(place).to_indexed().unwrap();
    let node = repository.node_from_snapshot_path(snapshot, |_| true).unwrap();
    let entries = repository.ls(&node, &LsOptions::default()).unwrap();
    let target = LocalDestination::new(target.to_str().unwrap(), true, false).unwrap();
    let options = RestoreOptions::default();
    let plan = repository.prepare_restore(&options, entries.clone(), &target, false).unwrap();
    repository.restore(plan, &options, entries, &target).unwrap();
}

fn backup(place: &Path, source: &Path) -> SnapshotFile {
    let repository = opened(place).to_indexed_ids().unwrap();
    let source = PathList::from_string(source.to_str().unwrap()).unwrap().sanitize().unwrap();
    let snapshot = SnapshotOptions::default().add_tags("source=pvc/claim").unwrap().to_snapshot().unwrap();
    repository.backup(&BackupOptions::default(), &source, snapshot).unwrap()
}

/// Some files, of which a later version has others.
fn write_files(folder: &Path, version: u64) {
    for number in 0..40 {
        let seed = if number % 4 == 0 { number } else { number + 100 * version };
        let below = folder.join((number % 3).to_string());
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(number.to_string()), noise(200_000, seed)).unwrap();
    }
}

/// What we see in it: every byte read, nothing wrong, and that snapshot restored.
async fn is_whole_for_us(place: &Path, snapshot: &str, path: &str, source: &Path) {
    let repository = open(folder(place), never()).await.unwrap();
    let report = repository.check(Some(DataPart::ALL)).await.unwrap();
    assert!(report.is_sound(), "{}", report.findings);
    let target = tempfile::tempdir().unwrap();
    repository.restore_folder(snapshot, path, target.path(), Arc::default()).await.unwrap();
    assert_same_below(source, target.path());
    repository.close().await;
    newest().check(place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_write_and_prune_is_checked_and_restored_by_rustic() {
    let temporary = tempfile::tempdir().unwrap();
    let (place, source) = (temporary.path().join("repository"), folder_in(temporary.path(), "source"));
    let repository = new_repository(&place).await;
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
            let repository = open_exclusively(folder(&place), never()).await.unwrap();
            let forget = Forget { snapshots: BTreeSet::from([folders[0].clone()]), ..Forget::default() };
            repository.forget(&forget).await.unwrap();
            assert!(repository.prune(&none_unused()).await.unwrap().packs_repacked > 0);
            repository.close().await;
        }
        let target = temporary.path().join(format!("restored {is_pruned}"));
        let (place, stream, newest) = (place.clone(), stream.clone(), folders[1].clone());
        tokio::task::spawn_blocking(move || {
            check(&place);
            restore(&place, &format!("{newest}:/data/claim"), &target.join("folder"));
            restore(&place, &stream, &target.join("stream"));
        })
        .await
        .unwrap();
        let target = temporary.path().join(format!("restored {is_pruned}"));
        assert_same_below(&source, &target.join("folder"));
        assert!(fs::read(target.join("stream/db.sql")).unwrap() == dump);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rustic_writes_and_prunes_is_checked_and_restored_by_us() {
    // Marks packs first, and removes them later; or at once.
    for is_instant in [false, true] {
        let temporary = tempfile::tempdir().unwrap();
        let (place, source) = (temporary.path().join("repository"), folder_in(temporary.path(), "source"));
        new_repository(&place).await.close().await;
        let (theirs, folder) = (place.clone(), source.clone());
        let (first, second) = tokio::task::spawn_blocking(move || {
            write_files(&folder, 0);
            let first = backup(&theirs, &folder);
            write_files(&folder, 1);
            (first, backup(&theirs, &folder))
        })
        .await
        .unwrap();
        let id = second.id.to_hex().as_str().to_owned();
        let path = source.to_str().unwrap();
        is_whole_for_us(&place, &id, path, &source).await;
        let theirs = place.clone();
        tokio::task::spawn_blocking(move || {
            let repository = opened(&theirs);
            repository.delete_snapshots(&[first.id]).unwrap();
            let mut options = PruneOptions::default();
            options.instant_delete = is_instant;
            options.max_unused = "0".parse().unwrap();
            let plan = repository.prune_plan(&options).unwrap();
            repository.prune(&options, plan).unwrap();
        })
        .await
        .unwrap();
        is_whole_for_us(&place, &id, path, &source).await;
        // And what we do then, it takes.
        let repository = open_exclusively(super::folder(&place), never()).await.unwrap();
        repository.prune(&none_unused()).await.unwrap();
        repository.close().await;
        is_whole_for_us(&place, &id, path, &source).await;
        let theirs = place.clone();
        tokio::task::spawn_blocking(move || check(&theirs)).await.unwrap();
    }
}

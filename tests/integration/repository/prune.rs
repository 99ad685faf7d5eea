//! Forget and prune: data which a snapshot needs stays, the rest is removed, and restic finds no error, whichever
//! program wrote the repository.

use std::{collections::BTreeSet, fs};

use futures::future::BoxFuture;
use stowaway::{
    model::DataPart,
    repository::{
        FolderRules, Forget, FoundLock, Liveness, LockOwnerProbe, PruneReport, PruneRules, Unused, open,
        open_exclusively,
    },
};

use super::{
    fake_s3::{FakeS3, Fault},
    restic::{Restic, both, newest},
    torture::{Mounted, assert_same},
    *,
};

use crate::at_once;

pub async fn store_folder(repository: &Repository, folder: &Path) -> String {
    let rules = FolderRules::whole(Timestamp::now());
    repository.store_folder(&identity("/data/x"), &rules, folder, Arc::default()).await.unwrap().snapshot
}

pub fn none_unused() -> PruneRules {
    PruneRules { max_unused: Unused::Bytes(0), ..PruneRules::default() }
}

/// Forgets these snapshots and prunes.
pub async fn forget_and_prune(access: OpenOptions, ids: &[&str], rules: &PruneRules) -> PruneReport {
    let repository = open_exclusively(access, never()).await.unwrap();
    let snapshots: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let forgotten = forget(&repository, Forget { snapshots, ..Forget::default() }).await.unwrap();
    assert_eq!(forgotten, ids.len() as u64);
    let report = repository.prune(rules).await.unwrap();
    repository.close().await;
    report
}

pub async fn is_sound(path: &Path) {
    let repository = open(folder(path), never()).await.unwrap();
    let report = repository.check(Some(DataPart::ALL)).await.unwrap();
    assert!(report.is_sound() && report.unreferenced_packs == 0, "{}", report.findings);
    repository.close().await;
}

/// Asserts that restic finds no error, and restores the snapshot as the source folder is.
pub fn is_whole_to_restic(path: &Path, snapshot: &str, source: &Path) {
    for restic in both() {
        restic.check(path);
        let target = tempfile::tempdir().unwrap();
        restic.ok(path, &["restore", snapshot, "--target", target.path().to_str().unwrap()]);
        assert_same(source, &target.path().join("data/x"));
    }
}

pub fn bytes_in(repository: &Path) -> u64 {
    files_in(repository, "data").iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// Stores two states of a folder with many small files and one long file, which have little data in common. Returns
/// both ids.
pub async fn two_states(repository: &Repository, source: &Path) -> [String; 2] {
    let mut ids = Vec::new();
    for state in 0..2 {
        for number in 0..300_u64 {
            fs::create_dir_all(source.join((number % 7).to_string())).unwrap();
            let seed = if number % 3 == 0 { number } else { 1000 * (state + 1) + number };
            fs::write(source.join((number % 7).to_string()).join(number.to_string()), noise(20_000, seed)).unwrap();
        }
        fs::write(source.join("long"), noise(5 << 20, state)).unwrap();
        ids.push(store_folder(repository, source).await);
    }
    ids.try_into().unwrap()
}

#[tokio::test]
async fn data_that_a_prune_keeps_is_whole_and_the_rest_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
    let repository = new_repository(&path).await;
    let [first, second] = two_states(&repository, &source).await;
    repository.close().await;
    let before = bytes_in(&path);
    let report = forget_and_prune(folder(&path), &[&first], &none_unused()).await;
    assert_eq!((report.bytes_before, report.bytes_after), (before, bytes_in(&path)), "{report:?}");
    assert_eq!(report.packs_after, files_in(&path, "data").len() as u64);
    assert!(report.packs_repacked > 0 && report.packs_removed > 0, "{report:?}");
    // The first state has 6 MB in small files, of which a third is also in the second state, and 5 MB in the long file.
    // About 9 MB of it are removed.
    assert!(report.freed_bytes() > 8 << 20, "{report:?}");
    assert_eq!(report.unused_bytes, 0);
    is_sound(&path).await;
    is_whole_to_restic(&path, &second, &source);
    let again = forget_and_prune(folder(&path), &[], &none_unused()).await;
    assert_eq!((again.freed_bytes(), again.packs_repacked, again.packs_removed), (0, 0, 0), "{again:?}");
}

#[tokio::test]
async fn repository_of_restic_is_pruned_and_restic_finds_nothing_to_add() {
    for restic in both() {
        for version in ["1", "2"] {
            let dir = tempfile::tempdir().unwrap();
            let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
            restic.ok(&path, &["init", "--repository-version", version]);
            fs::create_dir_all(source.join("below")).unwrap();
            for state in 0..3_u64 {
                for number in 0..100 {
                    let seed = if number % 2 == 0 { number } else { number + 1000 * state };
                    fs::write(source.join("below").join(number.to_string()), noise(9_000, seed)).unwrap();
                }
                restic.ok(&path, &["backup", source.to_str().unwrap()]);
            }
            let snapshots = restic.json(&path, &["snapshots", "--json"]);
            let ids: Vec<&str> = (0..3).map(|number| snapshots[number]["id"].as_str().unwrap()).collect();
            let report = forget_and_prune(folder(&path), &ids[..2], &none_unused()).await;
            assert!(report.freed_bytes() > 500_000, "{report:?}");
            restic.check(&path);
            let target = dir.path().join("target");
            restic.ok(&path, &["restore", ids[2], "--target", target.to_str().unwrap()]);
            assert_same(&source, &target.join(source.strip_prefix("/").unwrap()));
            let stdout = String::from_utf8(restic.ok(&path, &["prune", "--max-unused", "0"])).unwrap();
            assert!(stdout.contains("total prune") && stdout.contains("0 blobs / 0 B"), "{stdout}");
            // restic can continue to use the repository.
            restic.ok(&path, &["backup", source.to_str().unwrap()]);
            restic.check(&path);
        }
    }
}

#[tokio::test]
async fn repository_that_restic_has_pruned_is_sound_to_us() {
    for restic in both() {
        let dir = tempfile::tempdir().unwrap();
        let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
        let repository = new_repository(&path).await;
        let [first, second] = two_states(&repository, &source).await;
        repository.close().await;
        restic.ok(&path, &["forget", &first, "--prune", "--max-unused", "0"]);
        is_sound(&path).await;
        let report = forget_and_prune(folder(&path), &[], &none_unused()).await;
        assert_eq!(report.packs_removed, 0, "{report:?}");
        let repository = open(folder(&path), never()).await.unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        repository.restore_folder(&second, "/data/x", &target, Arc::default()).await.unwrap();
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn many_small_packs_and_indexes_become_few() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let mut last = String::new();
    for number in 0..20 {
        last = store(&repository, "/db.sql", &noise(5000, number)).await.snapshot;
    }
    repository.close().await;
    assert_eq!((files_in(dir.path(), "data").len(), files_in(dir.path(), "index").len()), (40, 20));
    let report = forget_and_prune(folder(dir.path()), &[], &PruneRules::default()).await;
    assert_eq!((report.snapshots, report.packs_repacked, report.packs_after), (20, 40, 2), "{report:?}");
    assert_eq!((files_in(dir.path(), "data").len(), files_in(dir.path(), "index").len()), (2, 1));
    newest().check(dir.path());
    let repository = open(folder(dir.path()), never()).await.unwrap();
    assert!(collect(repository.read_file(&last, "/db.sql").await.unwrap()).await == noise(5000, 19));
}

#[tokio::test]
async fn unused_data_within_the_limit_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
    let repository = new_repository(&path).await;
    let [first, _] = two_states(&repository, &source).await;
    repository.close().await;
    let dry = PruneRules { dry_run: true, ..none_unused() };
    let would = forget_and_prune(folder(&path), &[&first], &dry).await;
    assert_eq!(would.bytes_before, bytes_in(&path), "nothing was done");
    let rules = PruneRules { max_unused: Unused::Unlimited, ..PruneRules::default() };
    let report = forget_and_prune(folder(&path), &[], &rules).await;
    assert!(report.unused_bytes > 0 && report.packs_repacked == 0 && report.packs_removed > 0, "{report:?}");
    newest().check(&path);
    let report = forget_and_prune(folder(&path), &[], &none_unused()).await;
    assert!(report.packs_repacked > 0 && report.unused_bytes == 0, "{report:?}");
    // The estimate of the dry run includes headers, so it is near the result.
    assert!(report.bytes_after.abs_diff(would.bytes_after) < 100_000, "{report:?} {would:?}");
    newest().check(&path);
}

#[tokio::test]
async fn repacking_has_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
    let repository = new_repository(&path).await;
    let [first, _] = two_states(&repository, &source).await;
    repository.close().await;
    let rules = PruneRules { max_repack: Some(0), ..none_unused() };
    let report = forget_and_prune(folder(&path), &[&first], &rules).await;
    assert!(report.packs_repacked == 0 && report.unused_bytes > 0, "{report:?}");
}

#[tokio::test]
async fn nothing_is_removed_without_an_exclusive_lock() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let stored = store(&repository, "/db.sql", b"x").await;
    let forget = Forget { snapshots: [stored.snapshot].into(), ..Forget::default() };
    for error in [
        super::forget(&repository, forget).await.unwrap_err(),
        repository.prune(&PruneRules::default()).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::InvalidRequest(_)), "{error}");
    }
}

#[tokio::test]
async fn newest_proven_snapshot_is_never_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let stored = store(&repository, "/db.sql", b"x").await;
    repository.close().await;
    let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
    let forget = Forget { snapshots: [stored.snapshot.clone()].into(), ..Forget::default() };
    let error = super::forget(&repository, forget).await.unwrap_err();
    assert!(error.to_string().contains("newest good snapshot of deployment/shop/db"), "{error}");
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    let forget = Forget { snapshots: ["0".repeat(64), stored.snapshot].into(), ..Forget::default() };
    let error = super::forget(&repository, forget).await.unwrap_err();
    assert!(error.to_string().contains("1 of the snapshots to forget do not exist"), "{error}");
}

#[tokio::test]
async fn damaged_repository_is_not_pruned() {
    for lose in ["index", "snapshots", "data"] {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        for number in 0..3 {
            store(&repository, "/db.sql", &noise(100_000, number)).await;
        }
        let damaged = files_in(dir.path(), lose).remove(1);
        if lose == "snapshots" {
            fs::write(damaged, "").unwrap();
        } else {
            fs::remove_file(damaged).unwrap();
        }
        repository.close().await;
        let left = files_in(dir.path(), "data").len();
        let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
        let error = repository.prune(&none_unused()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{lose}: {error}");
        assert_eq!(files_in(dir.path(), "data").len(), left, "{lose}");
    }
}

#[tokio::test]
async fn data_without_any_snapshot_is_not_rubbish() {
    for bytes in [70 << 20, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        store(&repository, "/db.sql", &noise(bytes, 1)).await;
        repository.close().await;
        fs::remove_file(files_in(dir.path(), "snapshots").remove(0)).unwrap();
        let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
        let error = repository.prune(&PruneRules::default()).await.unwrap_err();
        assert!(error.to_string().contains("holds no snapshot"), "{error}");
        let rules = PruneRules { allow_no_snapshots: true, ..PruneRules::default() };
        let report = repository.prune(&rules).await.unwrap();
        assert_eq!((report.packs_after, bytes_in(dir.path())), (0, 0), "{report:?}");
        repository.close().await;
        newest().check(dir.path());
    }
}

#[tokio::test]
async fn packs_that_a_failed_first_backup_left_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", &noise(100_000, 1)).await;
    repository.close().await;
    for folder in ["index", "snapshots"] {
        fs::remove_file(files_in(dir.path(), folder).remove(0)).unwrap();
    }
    let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
    repository.prune(&PruneRules::default()).await.unwrap();
    assert_eq!(bytes_in(dir.path()), 0);
    repository.close().await;
}

#[tokio::test]
async fn store_that_fails_while_pruning_is_left_sound() {
    for (method, part) in
        [("PUT", "data/"), ("PUT", "index/"), ("DELETE", "index/"), ("DELETE", "data/"), ("GET", "data/")]
    {
        for fault in [Fault::Status(503), Fault::Lie] {
            if method == "GET" && fault == Fault::Lie {
                continue;
            }
            let store = FakeS3::start().await;
            let timeouts = Timeouts {
                request: std::time::Duration::from_secs(2),
                retries: std::time::Duration::ZERO,
                outage: std::time::Duration::ZERO,
            };
            let access = OpenOptions { timeouts, ..store.access() };
            let repository = create(access.clone(), never()).await.unwrap();
            let mut ids = Vec::new();
            for number in 0..25 {
                ids.push(store_pieces(&repository, "/db.sql", whole(&noise(5000, number))).await.unwrap().snapshot);
            }
            repository.close().await;
            // All snapshots have the same time, so the highest id is the newest.
            ids.sort();
            let repository = open_exclusively(access.clone(), never()).await.unwrap();
            let snapshots = ids[..5].iter().cloned().collect();
            forget(&repository, Forget { snapshots, ..Forget::default() }).await.unwrap();
            store.fail(method, part, fault, usize::MAX);
            let pruned = repository.prune(&none_unused()).await;
            // A pack which the store only claims to have deleted is removed by the next prune.
            let is_fine = (method, part, fault) == ("DELETE", "data/", Fault::Lie);
            assert_eq!(pruned.is_ok(), is_fine, "{method} {part} {fault:?}: {pruned:?}");
            store.heal();
            let report = repository.check(Some(DataPart::ALL)).await.unwrap();
            assert!(report.is_sound(), "{method} {part} {fault:?}: {}", report.findings);
            let report = repository.prune(&none_unused()).await.unwrap();
            assert_eq!((report.snapshots, report.packs_after), (20, 2), "{method} {part} {fault:?}: {report:?}");
            assert!(repository.check(Some(DataPart::ALL)).await.unwrap().is_sound());
            repository.close().await;
        }
    }
}

#[tokio::test]
async fn full_store_is_pruned_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repository");
    fs::create_dir(&path).unwrap();
    let _mounted = Mounted::tmpfs(&path, "size=34m");
    let source = dir.path().join("source");
    let repository = new_repository(&path).await;
    let [first, _] = two_states(&repository, &source).await;
    repository.close().await;
    let room = 34 * (1 << 20) - bytes_in(&path);
    fs::write(path.join("filler"), vec![0; usize::try_from(room).unwrap() - 300_000]).unwrap();
    let report = forget_and_prune(folder(&path), &[&first], &none_unused()).await;
    assert!(report.packs_repacked == 0 && report.packs_removed > 0 && report.unused_bytes > 0, "{report:?}");
    assert_eq!(report.bytes_after, bytes_in(&path), "what did not fit is removed");
    newest().check(&path);
    fs::remove_file(path.join("filler")).unwrap();
    let report = forget_and_prune(folder(&path), &[], &none_unused()).await;
    assert!(report.packs_repacked > 0 && report.unused_bytes == 0, "{report:?}");
    is_sound(&path).await;
}

#[tokio::test]
async fn lost_lock_ends_a_prune() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let repository = new_repository(path).await;
    let stored = store(&repository, "/db.sql", &noise(100_000, 1)).await;
    repository.close().await;
    fs::remove_file(path.join("snapshots").join(stored.snapshot)).unwrap();
    let repository = open_exclusively(folder(path), never()).await.unwrap();
    let packs = files_in(path, "data").len();
    Restic::ok(&newest(), path, &["unlock", "--remove-all"]);
    let rules = PruneRules { allow_no_snapshots: true, ..none_unused() };
    let error = repository.prune(&rules).await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
    assert_eq!(files_in(path, "data").len(), packs);
}

/// Reports every lock holder as dead, as a cluster does for deleted pods.
#[derive(Debug)]
struct AllAreDead;

impl LockOwnerProbe for AllAreDead {
    fn probe<'a>(&'a self, _: &'a FoundLock) -> BoxFuture<'a, Liveness> {
        Box::pin(async { Liveness::Dead })
    }
}

#[tokio::test]
async fn prune_that_ends_at_any_change_leaves_a_sound_repository_that_the_next_one_prunes() {
    let begun = FakeS3::start().await;
    let timeouts = Timeouts {
        request: std::time::Duration::from_secs(2),
        retries: std::time::Duration::ZERO,
        outage: std::time::Duration::ZERO,
    };
    let locks = LockRules { probe: Arc::new(AllAreDead), wait: std::time::Duration::ZERO };
    let access = |store: &FakeS3| OpenOptions { timeouts, locks: locks.clone(), ..store.access() };
    let repository = create(access(&begun), never()).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(store_pieces(&repository, "/db.sql", whole(&noise(3000, number))).await.unwrap().snapshot);
    }
    repository.close().await;
    // All snapshots have the same time, so the highest id is the newest.
    ids.sort();
    let repository = open_exclusively(access(&begun), never()).await.unwrap();
    forget(&repository, Forget { snapshots: ids[..3].iter().cloned().collect(), ..Forget::default() }).await.unwrap();
    repository.close().await;

    let mut cases = Vec::new();
    // A lock is written, 20 indexes and 40 packs are replaced by 1 and 2, and the lock is removed.
    for changes in 0..70 {
        cases.push((changes, begun.copy().await));
    }
    at_once(cases, async |(changes, store)| {
        store.fail_after(changes);
        let opened = open_exclusively(access(&store), never()).await;
        let ended = match &opened {
            Ok(repository) => repository.prune(&none_unused()).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(ended, changes >= 64, "{changes}");
        if let Ok(repository) = opened {
            repository.close().await;
        }
        store.heal();
        let repository = open_exclusively(access(&store), never()).await.unwrap();
        assert_eq!(store.keys("locks/").len(), 1, "the own lock only");
        let report = repository.check(Some(DataPart::ALL)).await.unwrap();
        assert!(report.is_sound(), "{changes}: {}", report.findings);
        let report = repository.prune(&none_unused()).await.unwrap();
        assert_eq!((report.snapshots, report.packs_after, report.unused_bytes), (17, 2, 0), "{changes}: {report:?}");
        assert_eq!(store.keys("index/").len(), 1, "{changes}");
        let report = repository.check(Some(DataPart::ALL)).await.unwrap();
        assert!(report.is_sound() && report.unreferenced_packs == 0, "{changes}: {}", report.findings);
        repository.close().await;
    })
    .await;
}

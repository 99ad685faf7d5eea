//! Repacking ahead of a prune: other clients write meanwhile, and whatever they write stays intact.

use std::{collections::BTreeSet, fs};

use stowaway::{
    model::DataPart,
    repository::{PruneReport, RepackReport, open},
};

use super::{
    fake_s3::FakeS3,
    prune::{bytes_in, forget_and_prune, is_sound, is_whole_to_restic, none_unused, store_folder, two_states},
    restic::{both, newest},
    torture::Mounted,
    *,
};
use crate::at_once;

async fn ahead(repository: &Repository, going: &[&str]) -> RepackReport {
    let going: BTreeSet<String> = going.iter().map(|id| (*id).to_owned()).collect();
    repository.repack(&going, &none_unused()).await.unwrap()
}

#[tokio::test]
async fn packs_replaced_ahead_of_a_prune_stay_for_it_and_nothing_is_repacked_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
    let repository = new_repository(&path).await;
    let [first, second] = two_states(&repository, &source).await;
    let before = bytes_in(&path);
    let report = ahead(&repository, &[&first]).await;
    assert!(report.packs > 0 && report.new_bytes > 0, "{report:?}");
    assert_eq!(bytes_in(&path), before + report.new_bytes, "nothing is removed");
    assert_eq!(repository.snapshots().await.unwrap().len(), 2);
    assert_eq!(ahead(&repository, &[&first]).await, RepackReport::default(), "nothing is left to repack");
    repository.close().await;
    for restic in both() {
        restic.check(&path);
    }

    let pruned = forget_and_prune(folder(&path), &[&first], &none_unused()).await;
    assert_eq!((pruned.packs_repacked, pruned.unused_bytes, pruned.bytes_after), (0, 0, bytes_in(&path)), "{pruned:?}");
    let both_in_one = pruned.after(report);
    assert_eq!((both_in_one.bytes_before, both_in_one.packs_repacked), (before, report.packs), "{both_in_one:?}");
    assert!(both_in_one.freed_bytes() > 8 << 20, "{both_in_one:?}");
    is_sound(&path).await;
    is_whole_to_restic(&path, &second, &source);
}

#[tokio::test]
async fn backup_between_the_two_keeps_what_was_about_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let (path, source) = (dir.path().join("repository"), dir.path().join("source"));
    let repository = new_repository(&path).await;
    let [first, _] = two_states(&repository, &source).await;
    // Stores the first state again. All file contents exist already; only the metadata of the folders differs.
    let target = tempfile::tempdir().unwrap();
    newest().ok(&path, &["restore", &first, "--target", target.path().to_str().unwrap()]);
    let state = target.path().join("data/x");
    let beside = open(folder(&path), never()).await.unwrap();
    let before = bytes_in(&path);
    let report = ahead(&repository, &[&first]).await;
    let again = store_folder(&beside, &state).await;
    let new = bytes_in(&path) - before - report.new_bytes;
    assert!(new < 100_000, "{new} bytes of it are new");
    beside.close().await;
    repository.close().await;

    let pruned = forget_and_prune(folder(&path), &[&first], &none_unused()).await;
    assert_eq!(pruned.snapshots, 2);
    is_sound(&path).await;
    is_whole_to_restic(&path, &again, &state);
}

#[tokio::test]
async fn without_room_nothing_is_repacked_ahead_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repository");
    fs::create_dir(&path).unwrap();
    let _mounted = Mounted::tmpfs(&path, "size=34m");
    let repository = new_repository(&path).await;
    let [first, _] = two_states(&repository, &dir.path().join("source")).await;
    let before = bytes_in(&path);
    let room = 34 * (1 << 20) - before;
    fs::write(path.join("filler"), vec![0; usize::try_from(room).unwrap() - 300_000]).unwrap();
    assert_eq!(ahead(&repository, &[&first]).await, RepackReport::default());
    assert_eq!(bytes_in(&path), before);
    repository.close().await;
    is_sound(&path).await;
}

#[tokio::test]
async fn ending_ahead_of_a_prune_at_any_change_harms_nothing() {
    let begun = FakeS3::start().await;
    let timeouts = Timeouts {
        request: std::time::Duration::from_secs(2),
        retries: std::time::Duration::ZERO,
        outage: std::time::Duration::ZERO,
    };
    let access = |store: &FakeS3| OpenOptions { timeouts, ..store.access() };
    let repository = create(access(&begun), never()).await.unwrap();
    for number in 0..20 {
        store_pieces(&repository, "/db.sql", whole(&noise(3000, number))).await.unwrap();
    }
    repository.close().await;
    let mut cases = Vec::new();
    // Two new packs and their index are written between the creation and the removal of a lock.
    for changes in 0..6 {
        cases.push((changes, begun.copy().await));
    }
    at_once(cases, async |(changes, store)| {
        let repository = open(access(&store), never()).await.unwrap();
        store.fail_after(changes);
        let ended = repository.repack(&BTreeSet::new(), &none_unused()).await;
        assert_eq!(ended.is_ok(), changes > 3, "{changes}: {ended:?}");
        store.heal();
        let report = repository.check(Some(DataPart::ALL)).await.unwrap();
        assert!(report.is_sound(), "{changes}: {}", report.findings);
        repository.close().await;
        let report: PruneReport = forget_and_prune(access(&store), &[], &none_unused()).await;
        assert_eq!((report.snapshots, report.packs_after, report.unused_bytes), (20, 2, 0), "{changes}: {report:?}");
        let repository = open(access(&store), never()).await.unwrap();
        let report = repository.check(Some(DataPart::ALL)).await.unwrap();
        assert!(report.is_sound() && report.unreferenced_packs == 0, "{changes}: {}", report.findings);
        repository.close().await;
    })
    .await;
}

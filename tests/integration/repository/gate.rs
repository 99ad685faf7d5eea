//! Guarantees of a repository in a folder: complete streams or nothing, typed failures, and no silent loss.

use std::sync::Arc;

use bytes::Bytes;
use stowaway::{
    model::{Failure, Proof, Reason, Secret, SourceName},
    repository::{Progress, RepositoryError, StoreRules, create, open, open_or_create},
    stream::{End, StreamItem, pieces},
};

use super::*;

#[tokio::test]
async fn stream_that_closes_without_an_end_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let mut sent = whole(&noise(3 << 20, 1));
    sent.pop();
    let error = store_pieces(&repository, "/db.sql", sent).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StreamCut);
    assert!(repository.snapshots().await.unwrap().is_empty());
    assert!(files_in(dir.path(), "snapshots").is_empty());
}

#[tokio::test]
async fn broken_stream_leaves_no_snapshot_and_hands_its_failure_on() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let failure = Failure::new(Reason::CommandFailed, "pg_dump exited with 1").with_exit_code(1);
    let mut sent = whole(&noise(3 << 20, 1));
    *sent.last_mut().unwrap() = StreamItem::Broken(failure.clone());
    let error = store_pieces(&repository, "/db.sql", sent).await.unwrap_err();
    assert_eq!(Failure::from(error), failure);
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn stream_with_a_wrong_byte_count_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    for claimed in [0, 9, 11, u64::MAX] {
        let sent = vec![StreamItem::Data(Bytes::from_static(b"0123456789")), end(claimed)];
        let error = store_pieces(&repository, "/db.sql", sent).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StreamCut, "{claimed}");
    }
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn empty_stream_is_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let error = store_pieces(&repository, "/db.sql", vec![end(0)]).await.unwrap_err();
    assert_eq!(error.reason(), Reason::EmptyStream);
    assert!(repository.snapshots().await.unwrap().is_empty());

    let allowed = StoreRules { allow_empty: true, ..rules() };
    let progress = Arc::new(Progress::default());
    let stored =
        repository.store_stream(&identity("/db.sql"), &allowed, stream_of(vec![end(0)]), progress).await.unwrap();
    assert_eq!(collect(repository.read_file(&stored.snapshot, "/db.sql").await.unwrap()).await, b"");
}

#[tokio::test]
async fn source_that_panics_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let (sender, receiver) = pieces();
    let source = tokio::spawn(async move {
        sender.send(StreamItem::Data(Bytes::from_static(b"half"))).await.unwrap();
        panic!("on purpose");
    });
    let stored = repository.store_stream(&identity("/db.sql"), &rules(), receiver, Arc::new(Progress::default())).await;
    assert!(source.await.unwrap_err().is_panic());
    assert_eq!(stored.unwrap_err().reason(), Reason::StreamCut);
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn cancelled_stream_ends_and_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    let cancel = never();
    let repository = open(folder(dir.path()), cancel.clone()).await.unwrap();
    let (sender, receiver) = pieces();
    let (label, rules) = (identity("/db.sql"), rules());
    let storing = repository.store_stream(&label, &rules, receiver, Arc::new(Progress::default()));
    let cancelling = async {
        sender.send(StreamItem::Data(noise(64 * 1024, 2).into())).await.unwrap();
        // The sender stays connected and sends nothing, so only the token ends the run.
        cancel.cancel();
    };
    let (stored, ()) = tokio::join!(storing, cancelling);
    assert_eq!(stored.unwrap_err().reason(), Reason::Cancelled);
    drop(sender);
    repository.close().await;
    assert!(files_in(dir.path(), "locks").is_empty(), "a cancelled run removes its lock");
    let repository = open(folder(dir.path()), never()).await.unwrap();
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn stored_stream_comes_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = [noise(20 << 20, 3), vec![0; 9 << 20], (0..=255).cycle().take(1 << 20).collect()].concat();
    let progress = Arc::new(Progress::default());
    let stored = repository
        .store_stream(&identity("/a/b.sql"), &rules(), stream_of(whole(&data)), Arc::clone(&progress))
        .await
        .unwrap();
    assert_eq!((stored.bytes, stored.proof), (data.len() as u64, Proof::Acknowledged));
    assert_eq!(progress.bytes_read(), data.len() as u64);
    assert!(progress.bytes_uploaded() > 20 << 20);
    assert!(collect(repository.read_file(&stored.snapshot, "/a/b.sql").await.unwrap()).await == data);

    let entries = entries_of(&repository, &stored.snapshot).await;
    assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["/a", "/a/b.sql"]);
    let file = &entries[1];
    assert_eq!((file.size, file.mode, file.modified), (data.len() as u64, Some(0o600), Some(rules().time)));
    let snapshot = repository.find(&stored.snapshot[..8]).await.unwrap();
    assert_eq!(snapshot.identity.tag("sha256"), Some(stored.digest.as_str()));
    assert_eq!(snapshot.bytes, Some(data.len() as u64));
}

#[tokio::test]
async fn second_stream_of_the_same_name_is_read() {
    // A comparison by name alone would reuse the first stream without reading the second one.
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let first = store(&repository, "/db.sql", b"monday").await;
    let second = store(&repository, "/db.sql", b"tuesday").await;
    assert_eq!(collect(repository.read_file(&first.snapshot, "/db.sql").await.unwrap()).await, b"monday");
    assert_eq!(collect(repository.read_file(&second.snapshot, "/db.sql").await.unwrap()).await, b"tuesday");
}

#[tokio::test]
async fn unchanged_stream_adds_nothing_but_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = noise(4 << 20, 4);
    let first = store(&repository, "/db.sql", &data).await;
    let packs = files_in(dir.path(), "data").len();
    let second = store(&repository, "/db.sql", &data).await;
    assert!(first.added_bytes > 4 << 20 && second.added_bytes == 0, "{first:?} {second:?}");
    assert_eq!(files_in(dir.path(), "data").len(), packs);
    assert_eq!(files_in(dir.path(), "index").len(), 1);
    assert_eq!(files_in(dir.path(), "snapshots").len(), 2);
}

#[tokio::test]
async fn unproven_snapshot_is_never_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let proven = store(&repository, "/db.sql", b"proven").await;
    let sent =
        vec![StreamItem::Data(Bytes::from_static(b"unproven")), StreamItem::End(End { proof: Proof::None, bytes: 8 })];
    let later = StoreRules { time: rules().time + jiff::SignedDuration::from_hours(1), ..rules() };
    repository
        .store_stream(&identity("/db.sql"), &later, stream_of(sent), Arc::new(Progress::default()))
        .await
        .unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 2);
    let source: SourceName = "deployment/shop/db".parse().unwrap();
    assert_eq!(newest_of(&snapshots, &source).unwrap().id, proven.snapshot);
    assert!(newest_of(&snapshots, &"deployment/shop/other".parse().unwrap()).is_none());
}

#[tokio::test]
async fn accepted_unproven_snapshot_is_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", b"proven").await;
    let sent =
        vec![StreamItem::Data(Bytes::from_static(b"accepted")), StreamItem::End(End { proof: Proof::None, bytes: 8 })];
    let time = rules().time + jiff::SignedDuration::from_hours(1);
    let accepting = StoreRules { accept_unproven: true, time, ..rules() };
    let accepted = repository
        .store_stream(&identity("/db.sql"), &accepting, stream_of(sent), Arc::new(Progress::default()))
        .await
        .unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    let newest = newest_of(&snapshots, &"deployment/shop/db".parse().unwrap()).unwrap();
    assert_eq!(newest.id, accepted.snapshot);
    assert!(newest.record().note_of_consent().is_some(), "{newest:?}");
}

#[tokio::test]
async fn missing_repository_wrong_password_and_second_creation_are_distinguished() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(folder(dir.path()), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::NotFound { .. }), "{error}");
    open_or_create(folder(dir.path()), never()).await.unwrap().close().await;
    let error = create(folder(dir.path()), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::AlreadyExists { .. }), "{error}");
    let mut access = folder(dir.path());
    access.password = Secret::new("wrong".to_owned());
    let error = open(access, never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::WrongPassword { .. }), "{error}");
    assert_eq!(files_in(dir.path(), "keys").len(), 1);
}

#[tokio::test]
async fn interrupted_creation_is_taken_up_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    std::fs::remove_file(dir.path().join("config")).unwrap();
    let keys = files_in(dir.path(), "keys");

    let mut other = folder(dir.path());
    other.password = Secret::new("another".to_owned());
    let error = create(other, never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::WrongPassword { .. }), "{error}");

    create(folder(dir.path()), never()).await.unwrap().close().await;
    assert_eq!(files_in(dir.path(), "keys"), keys);
    open(folder(dir.path()), never()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_creations_leave_one_repository_that_opens() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let racers: Vec<_> = (0..4).map(|_| tokio::spawn(open_or_create(folder(dir.path()), never()))).collect();
        let mut ids = Vec::new();
        for racer in racers {
            let repository = racer.await.unwrap().unwrap();
            ids.push(repository.id().to_owned());
            store(&repository, "/db.sql", b"data").await;
            repository.close().await;
        }
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let repository = open(folder(dir.path()), never()).await.unwrap();
        assert_eq!(repository.snapshots().await.unwrap().len(), 4);
        repository.close().await;
        restic::newest().check(dir.path());
    }
}

#[tokio::test]
async fn vanished_volume_is_no_empty_repository() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("volume");
    let repository = new_repository(&root).await;
    store(&repository, "/db.sql", b"data").await;
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let error = repository.snapshots().await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryNotFound, "{error}");
}

async fn is_broken(repository: &Repository, snapshot: &str) {
    let mut restored = match repository.read_file(snapshot, "/db.sql").await {
        Ok(restored) => restored,
        Err(error) => return assert_eq!(error.reason(), Reason::RepositoryDamaged, "{error}"),
    };
    let last = loop {
        match restored.pieces.recv().await {
            Some(StreamItem::Data(_)) => {}
            other => break other,
        }
    };
    let Some(StreamItem::Broken(failure)) = last else { panic!("{last:?}") };
    assert_eq!(failure.reason, Reason::RepositoryDamaged, "{failure}");
}

#[tokio::test]
async fn truncated_pack_breaks_the_restore() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let stored = store(&repository, "/db.sql", &noise(6 << 20, 5)).await;
    let packs = files_in(dir.path(), "data");
    let pack = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(pack).unwrap();
    file.set_len(2 << 20).unwrap();
    is_broken(&repository, &stored.snapshot).await;
}

#[tokio::test]
async fn changed_byte_in_a_pack_breaks_the_restore() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let stored = store(&repository, "/db.sql", &noise(1 << 20, 6)).await;
    let packs = files_in(dir.path(), "data");
    let pack = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut content = std::fs::read(pack).unwrap();
    content[1000] ^= 1;
    std::fs::write(pack, content).unwrap();
    is_broken(&repository, &stored.snapshot).await;
}

#[tokio::test]
async fn unknown_snapshot_and_file_are_distinguished() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let stored = store(&repository, "/db.sql", b"data").await;
    let error = repository.find("00000000").await.unwrap_err();
    assert!(matches!(error, RepositoryError::SnapshotNotFound { .. }), "{error}");
    assert!(matches!(repository.find("0000").await.unwrap_err(), RepositoryError::InvalidRequest(_)));
    let error = repository.read_file(&stored.snapshot, "/other.sql").await.unwrap_err();
    assert!(matches!(error, RepositoryError::FileNotFound { .. }), "{error}");
    let error = repository.read_file(&"0".repeat(64), "/db.sql").await.unwrap_err();
    assert!(matches!(error, RepositoryError::SnapshotNotFound { .. }), "{error}");
}

#[tokio::test]
async fn lock_that_was_removed_stops_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    for lock in files_in(dir.path(), "locks") {
        std::fs::remove_file(lock).unwrap();
    }
    let error = store_pieces(&repository, "/db.sql", whole(b"data")).await.unwrap_err();
    assert!(matches!(error, RepositoryError::LockLost { .. }), "{error}");
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn dropped_repository_takes_its_lock_away() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    assert_eq!(files_in(dir.path(), "locks").len(), 1);
    drop(repository);
    // The lock is removed by a task of its own. The test would hang if that never happened.
    while !files_in(dir.path(), "locks").is_empty() {
        tokio::task::yield_now().await;
    }
}

/// A file system of 24 MiB, until it is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a small tmpfs, which takes root");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn full_disk_is_reported_and_leaves_no_snapshot() {
    let disk = SmallDisk::new();
    let dir = disk.0.path().join("repository");
    let repository = new_repository(&dir).await;
    store(&repository, "/db.sql", &noise(1 << 20, 1)).await;
    let error = store_pieces(&repository, "/db.sql", whole(&noise(60 << 20, 2))).await.unwrap_err();
    assert!(matches!(error, RepositoryError::StoreFull { .. }), "{error}");
    assert_eq!(error.reason(), Reason::StoreFull);
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    repository.close().await;
    assert!(
        files_in(&dir, "").iter().all(|path| !path.to_string_lossy().ends_with(".part")),
        "no partial file is left"
    );
    restic::newest().check(&dir);
}

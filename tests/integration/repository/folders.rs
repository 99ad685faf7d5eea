//! Folders go in and come out as they were: compared by tar and find, and in the hands of the real restic.

use std::{fs, io::Write, path::Path, sync::Arc};

use stowaway::{
    model::SnapshotIdentity,
    repository::{FolderRules, RestoredFolder, StoredFolder, newest_of},
};

use super::{
    restic::{both, newest, oldest},
    torture::*,
    *,
};

pub const PATH: &str = "/data/claim";

pub fn claim() -> SnapshotIdentity {
    SnapshotIdentity { host: "shop".to_owned(), path: PATH.to_owned(), tags: vec!["source=pvc/claim".to_owned()] }
}

pub fn at(time: &str) -> FolderRules {
    FolderRules { time: time.parse().unwrap() }
}

pub async fn store_folder(repository: &Repository, folder: &Path) -> StoredFolder {
    let rules = at("2026-05-04T03:02:01Z");
    repository.store_folder(&claim(), &rules, folder, Arc::default()).await.unwrap()
}

pub async fn restore_folder(repository: &Repository, snapshot: &str, target: &Path) -> RestoredFolder {
    repository.restore_folder(snapshot, PATH, target, Arc::default()).await.unwrap()
}

#[tokio::test]
async fn folder_comes_back_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let source = folder_in(place.path(), "source");
    fill(&source);
    add_what_only_we_restore(&source);
    let stored = store_folder(&repository, &source).await;
    assert_eq!((stored.unreadable.count, stored.vanished), (0, 0), "{:?}", stored.unreadable);
    let target = folder_in(place.path(), "target");
    let restored = restore_folder(&repository, &stored.snapshot, &target).await;
    assert_eq!(restored.not_kept.count, 0, "{:?}", restored.not_kept);
    assert_eq!(restored.files, stored.files);
    assert_same(&source, &target);
    for (name, most) in [("sparse", 1 << 20), ("hole", 0)] {
        let taken = allocated(&target.join("contents").join(name));
        assert!(taken <= most, "{name} takes {taken} bytes");
    }
}

#[tokio::test]
async fn restic_checks_and_restores_what_we_stored() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(place.path(), "source");
    fill(&source);
    let stored = store_folder(&repository, &source).await;
    repository.close().await;
    for (index, restic) in both().into_iter().enumerate() {
        restic.check(&at);
        let target = folder_in(place.path(), &format!("target-{index}"));
        restic.ok(&at, &["restore", &stored.snapshot, "--target", target.to_str().unwrap()]);
        assert_same(&source, &target.join("data/claim"));
        let found = restic.json(&at, &["snapshots", "--json", "--host", "shop", "--path", PATH]);
        assert_eq!(found[0]["id"], stored.snapshot.as_str());
    }
}

#[tokio::test]
async fn what_restic_stored_is_restored() {
    for (index, restic) in both().into_iter().enumerate() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("repository");
        let repository = new_repository(&at).await;
        let source = folder_in(place.path(), "source");
        fill(&source);
        restic.ok(&at, &["backup", "--host", "shop", source.to_str().unwrap()]);
        let snapshots = repository.snapshots().await.unwrap();
        let target = folder_in(place.path(), "target");
        let path = source.to_str().unwrap();
        let restored = repository.restore_folder(&snapshots[0].id, path, &target, Arc::default()).await.unwrap();
        assert_eq!(restored.not_kept.count, 0, "{index}: {:?}", restored.not_kept);
        assert_same(&source, &target);
    }
}

/// Waits until a change would show in the ctime of what is in the folder; see `folder::metadata`.
async fn settled(folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    let youngest = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().ctime()).max().unwrap();
    let until = jiff::Timestamp::from_second(youngest + 3).unwrap();
    tokio::time::sleep(until.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default()).await;
}

#[tokio::test]
async fn second_run_reads_only_what_changed() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(place.path(), "source");
    for number in 0..100 {
        fs::write(source.join(format!("file-{number}")), noise(10_000, number)).unwrap();
    }
    settled(&source).await;
    let first = store_folder(&repository, &source).await;
    // The same length and the same time of modification: only the ctime tells.
    let changed = source.join("file-7");
    let times = fs::metadata(&changed).unwrap().modified().unwrap();
    let mut file = fs::File::options().write(true).open(&changed).unwrap();
    file.write_all(b"changed").unwrap();
    file.set_modified(times).unwrap();
    drop(file);

    let progress = Arc::new(Progress::default());
    let rules = super::folders::at("2026-05-04T04:00:00Z");
    let second = repository.store_folder(&claim(), &rules, &source, Arc::clone(&progress)).await.unwrap();
    assert_eq!(progress.bytes_read(), 10_000);
    assert_eq!((second.bytes, second.files), (first.bytes, first.files));
    assert!(second.added_bytes < 40_000, "{}", second.added_bytes);
    let target = folder_in(place.path(), "target");
    restore_folder(&repository, &second.snapshot, &target).await;
    assert_same(&source, &target);
    repository.close().await;
    newest().check(&at);
}

#[tokio::test]
async fn file_changed_a_moment_ago_is_read_again() {
    // Two writes within one tick of the file system's clock leave one ctime.
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let source = folder_in(place.path(), "source");
    fs::write(source.join("file"), "monday").unwrap();
    store_folder(&repository, &source).await;
    let progress = Arc::new(Progress::default());
    let rules = at("2026-05-04T04:00:00Z");
    repository.store_folder(&claim(), &rules, &source, Arc::clone(&progress)).await.unwrap();
    assert_eq!(progress.bytes_read(), 6);
}

#[tokio::test]
async fn snapshot_of_restic_spares_reading() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(place.path(), "source");
    for number in 0..10 {
        fs::write(source.join(format!("file-{number}")), noise(10_000, number)).unwrap();
    }
    settled(&source).await;
    oldest().ok(&at, &["backup", "--host", "shop", source.to_str().unwrap()]);
    let identity = SnapshotIdentity { path: source.to_str().unwrap().to_owned(), ..claim() };
    let progress = Arc::new(Progress::default());
    let rules = super::folders::at("2036-05-04T04:00:00Z");
    let stored = repository.store_folder(&identity, &rules, &source, Arc::clone(&progress)).await.unwrap();
    assert_eq!((progress.bytes_read(), stored.bytes), (0, 100_000));
}

#[tokio::test]
async fn incomplete_snapshot_is_never_the_newest() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let source = folder_in(place.path(), "source");
    fs::write(source.join("good"), "good").unwrap();
    let whole = store_folder(&repository, &source).await;
    // A file that says it is shorter than it is cannot be stored whole, not even by root.
    let lying = source.join("lying");
    fs::create_dir(&lying).unwrap();
    let mounted = std::process::Command::new("mount").args(["--bind", "/proc/sys/kernel"]).arg(&lying).status();
    assert!(mounted.unwrap().success(), "this test mounts, and needs root");
    let _unmounted = Unmount(lying.clone());
    let rules = at("2036-05-04T04:00:00Z");
    let stored = repository.store_folder(&claim(), &rules, &lying, Arc::default()).await.unwrap();
    assert!(stored.unreadable.count > 20, "{:?}", stored.unreadable);
    assert_eq!(stored.unreadable.first.len(), stowaway::repository::LISTED);
    assert!(stored.unreadable.first.iter().all(|trouble| trouble.reason.contains("bytes")), "{:?}", stored.unreadable);
    let snapshots = repository.snapshots().await.unwrap();
    let named = |id: &str| snapshots.iter().find(|snapshot| snapshot.id == id).unwrap();
    assert!(named(&stored.snapshot).is_incomplete() && !named(&whole.snapshot).is_incomplete());
    assert_eq!(newest_of(&snapshots, &"pvc/claim".parse().unwrap()).unwrap().id, whole.snapshot);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn other_file_systems_and_entries_of_ours_are_left_out() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let source = folder_in(place.path(), "source");
    let expected = folder_in(place.path(), "expected");
    for folder in [&source, &expected] {
        fs::create_dir_all(folder.join("below/lost+found")).unwrap();
        fs::write(folder.join("below/.stowaway-restore.part"), "the app's own").unwrap();
        fs::create_dir(folder.join("mounted")).unwrap();
    }
    fs::create_dir(source.join("lost+found")).unwrap();
    fs::create_dir(source.join(".stowaway-restore.part")).unwrap();
    fs::write(source.join(".stowaway-restore.lock"), "").unwrap();
    let mounted = is_root().then(|| Mounted::tmpfs(&source.join("mounted"), "size=1m"));
    if mounted.is_some() {
        fs::write(source.join("mounted/elsewhere"), "").unwrap();
    }
    let stored = store_folder(&repository, &source).await;
    assert_eq!((stored.files, stored.unreadable.count), (1, 0), "{:?}", stored.unreadable);
    let target = folder_in(place.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    let names = |folder: &Path| (names_in(folder), names_in(&folder.join("below")), names_in(&folder.join("mounted")));
    assert_eq!(names(&target), names(&expected));
}

#[tokio::test]
async fn lost_and_found_with_something_in_it_is_stored() {
    let place = tempfile::tempdir().unwrap();
    let repository = new_repository(&place.path().join("repository")).await;
    let source = folder_in(place.path(), "source");
    fs::create_dir(source.join("lost+found")).unwrap();
    fs::write(source.join("lost+found/#12"), "found").unwrap();
    let stored = store_folder(&repository, &source).await;
    let target = folder_in(place.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    assert_eq!(fs::read(target.join("lost+found/#12")).unwrap(), b"found");
}

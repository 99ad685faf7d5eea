//! Folders are restored unchanged, as compared by tar and find, also between Stowaway and the real restic.

use std::{fs, io::Write, path::Path, sync::Arc};

use stowaway::{
    model::SnapshotIdentity,
    repository::{FolderRules, RestoredFolder, StoredFolder, open},
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
    // The clocks of the file system and of the test are the same, so a short settle time suffices.
    FolderRules { settle: jiff::SignedDuration::from_secs(2), ..FolderRules::whole(time.parse().unwrap()) }
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
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fill(&source);
    add_what_only_we_restore(&source);
    let stored = store_folder(&repository, &source).await;
    assert_eq!((stored.unreadable.count, stored.vanished), (0, 0), "{:?}", stored.unreadable);
    let target = folder_in(dir.path(), "target");
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
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fill(&source);
    let stored = store_folder(&repository, &source).await;
    repository.close().await;
    for (index, restic) in both().into_iter().enumerate() {
        restic.check(&at);
        let target = folder_in(dir.path(), &format!("target-{index}"));
        restic.ok(&at, &["restore", &stored.snapshot, "--target", target.to_str().unwrap()]);
        assert_same(&source, &target.join("data/claim"));
        let found = restic.json(&at, &["snapshots", "--json", "--host", "shop", "--path", PATH]);
        assert_eq!(found[0]["id"], stored.snapshot.as_str());
    }
}

#[tokio::test]
async fn snapshot_of_restic_is_restored() {
    for (index, restic) in both().into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("repository");
        let repository = new_repository(&at).await;
        let source = folder_in(dir.path(), "source");
        fill(&source);
        restic.ok(&at, &["backup", "--host", "shop", source.to_str().unwrap()]);
        let snapshots = repository.snapshots().await.unwrap();
        let target = folder_in(dir.path(), "target");
        let path = source.to_str().unwrap();
        let restored = repository.restore_folder(&snapshots[0].id, path, &target, Arc::default()).await.unwrap();
        assert_eq!(restored.not_kept.count, 0, "{index}: {:?}", restored.not_kept);
        assert_same(&source, &target);
    }
}

/// Waits until a change would show in the ctime of the folder's entries; see `folder::metadata`.
pub async fn settled(folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    let youngest = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().ctime()).max().unwrap();
    let until = jiff::Timestamp::from_second(youngest + 3).unwrap();
    tokio::time::sleep(until.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default()).await;
}

#[tokio::test]
async fn second_run_reads_only_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    for number in 0..100 {
        fs::write(source.join(format!("file-{number}")), noise(10_000, number)).unwrap();
    }
    settled(&source).await;
    let first = store_folder(&repository, &source).await;
    // The length and the modification time stay the same; only the ctime shows the change.
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
    let target = folder_in(dir.path(), "target");
    restore_folder(&repository, &second.snapshot, &target).await;
    assert_same(&source, &target);
    repository.close().await;
    newest().check(&at);
}

#[tokio::test]
async fn file_of_a_server_whose_clock_is_behind_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("file"), "monday").unwrap();
    // By the local clock the change happened long before the run.
    settled(&source).await;
    for bytes_read in [6, 6] {
        let rules = FolderRules::whole("2026-05-04T03:02:01Z".parse().unwrap());
        let progress = Arc::new(Progress::default());
        repository.store_folder(&claim(), &rules, &source, Arc::clone(&progress)).await.unwrap();
        assert_eq!(progress.bytes_read(), bytes_read);
    }
}

#[tokio::test]
async fn file_changed_a_moment_ago_is_read_again() {
    // Two writes within one tick of the file system's clock leave the same ctime.
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("file"), "monday").unwrap();
    store_folder(&repository, &source).await;
    let progress = Arc::new(Progress::default());
    let rules = at("2026-05-04T04:00:00Z");
    repository.store_folder(&claim(), &rules, &source, Arc::clone(&progress)).await.unwrap();
    assert_eq!(progress.bytes_read(), 6);
}

#[tokio::test]
async fn snapshot_of_restic_spares_reading() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
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
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("good"), "good").unwrap();
    let whole = store_folder(&repository, &source).await;
    // A file which reports a size smaller than its content cannot be stored whole, not even by root.
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

/// The variable which makes this process run only the one test, in this folder.
const WITHOUT_RIGHTS: &str = "STOWAWAY_TEST_WITHOUT_RIGHTS";

#[test]
fn entries_that_may_not_be_read_are_listed_and_make_the_snapshot_incomplete() {
    use std::os::unix::fs::PermissionsExt;
    if let Some(dir) = std::env::var_os(WITHOUT_RIGHTS) {
        return tokio::runtime::Runtime::new().unwrap().block_on(store_without_rights(Path::new(&dir)));
    }
    assert!(is_root(), "this test gives up being root");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("good"), "good").unwrap();
    fs::write(source.join("closed-file"), "secret").unwrap();
    fs::write(folder_in(&source, "closed-folder").join("inside"), "secret").unwrap();
    folder_in(&folder_in(&source, "listed-only"), "x");
    // Owned by root with mode 0, as in an ext4 volume.
    let has_lost_and_found = make_lost_and_found(&source);
    let owned = std::process::Command::new("chown").args(["-R", "65532"]).arg(dir.path()).status().unwrap();
    assert!(owned.success());
    let lost_and_found = has_lost_and_found.then_some(("lost+found", 0));
    for (name, mode) in
        [("closed-file", 0), ("closed-folder", 0), ("listed-only", 0o400)].into_iter().chain(lost_and_found)
    {
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::entries_that_may_not_be_read_are_listed_and_make_the_snapshot_incomplete");
    let alone = std::process::Command::new("setpriv")
        .args(["--reuid", "65532", "--regid", "65532", "--clear-groups"])
        .arg(&program)
        .args(["--exact", &test, "--nocapture"])
        .env(WITHOUT_RIGHTS, dir.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}

async fn store_without_rights(dir: &Path) {
    let repository = new_repository(&dir.join("repository")).await;
    let stored = store_folder(&repository, &dir.join("source")).await;
    let paths: Vec<&str> = stored.unreadable.first.iter().map(|trouble| trouble.path.as_str()).collect();
    assert_eq!(paths, ["closed-file", "closed-folder", "listed-only/x"], "{:?}", stored.unreadable);
    assert!(stored.unreadable.first.iter().all(|trouble| trouble.reason.contains("Permission denied")));
    assert_eq!((stored.unreadable.count, stored.files), (3, 1));
    assert!(newest_of(&repository.snapshots().await.unwrap(), &"pvc/claim".parse().unwrap()).is_none());
    let closed = dir.join("source/closed-folder");
    let (label, rules) = (claim(), at("2036-05-04T04:00:00Z"));
    let error = repository.store_folder(&label, &rules, &closed, Arc::default()).await.unwrap_err();
    assert_eq!(error.reason(), stowaway::model::Reason::SourceUnreadable);
}

/// Stores a file of 40 MiB, and changes it after the first bytes were read, long before its end.
async fn store_while(change: impl FnOnce(&Path) + Send + 'static) -> (tempfile::TempDir, Repository, StoredFolder) {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("file"), noise(40 << 20, 1)).unwrap();
    let progress = Arc::new(Progress::default());
    let changing = {
        let (file, progress) = (source.join("file"), Arc::clone(&progress));
        std::thread::spawn(move || {
            while progress.bytes_read() == 0 {
                std::thread::yield_now();
            }
            change(&file);
        })
    };
    let rules = at("2026-05-04T03:02:01Z");
    let stored = repository.store_folder(&claim(), &rules, &source, progress).await.unwrap();
    changing.join().unwrap();
    (dir, repository, stored)
}

#[tokio::test]
async fn file_that_shrinks_while_it_is_read_is_stored_as_long_as_it_is_then() {
    let (dir, repository, stored) =
        store_while(|file| fs::File::options().write(true).open(file).unwrap().set_len(1 << 20).unwrap()).await;
    assert_eq!((stored.unreadable.count, stored.files, stored.bytes), (0, 1, 1 << 20), "{stored:?}");
    assert_eq!((stored.changed.count, stored.changed.first[0].path.as_str()), (1, "file"), "{stored:?}");
    assert!(stored.changed.first[0].reason.contains("it shrank from 41943040 to 1048576 bytes"), "{stored:?}");
    let target = folder_in(dir.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    // The stored time may be that of a moment at which the file was already short, but its time not yet new.
    assert_eq!(fs::read(target.join("file")).unwrap(), fs::read(dir.path().join("source/file")).unwrap());
    let snapshots = repository.snapshots().await.unwrap();
    assert!(newest_of(&snapshots, &"pvc/claim".parse().unwrap()).is_some(), "one rotated log spoils no snapshot");
}

#[tokio::test]
async fn file_that_is_emptied_while_it_is_read_is_stored_empty() {
    let (_dir, _, stored) =
        store_while(|file| fs::File::options().write(true).open(file).unwrap().set_len(0).unwrap()).await;
    assert_eq!((stored.unreadable.count, stored.files, stored.bytes, stored.changed.count), (0, 1, 0, 1), "{stored:?}");
}

#[tokio::test]
async fn file_that_is_written_to_while_it_is_read_is_named_and_read_again_by_the_next_run() {
    for (how, named) in [(false, "it was written to"), (true, "it grew from 41943040 to 41943045 bytes")] {
        let (dir, repository, stored) = store_while(move |path| {
            let mut file = fs::File::options().write(true).append(how).open(path).unwrap();
            file.write_all(b"later").unwrap();
        })
        .await;
        assert_eq!((stored.unreadable.count, stored.bytes), (0, 40 << 20), "{stored:?}");
        assert_eq!((stored.changed.count, stored.changed.first[0].reason.as_str()), (1, named), "{stored:?}");
        let source = dir.path().join("source");
        settled(&source).await;
        let progress = Arc::new(Progress::default());
        let later = at("2036-05-04T04:00:00Z");
        let second = repository.store_folder(&claim(), &later, &source, Arc::clone(&progress)).await.unwrap();
        assert_eq!((second.changed.count, progress.bytes_read()), (0, second.bytes));
        let target = folder_in(dir.path(), "target");
        restore_folder(&repository, &second.snapshot, &target).await;
        assert_same(&source, &target);
    }
}

#[tokio::test]
async fn folder_in_use_is_stored_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("still"), "still").unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let (source, done) = (source.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut number = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                number += 1;
                let (file, folder) = (source.join(format!("file-{number}")), source.join(format!("folder-{number}")));
                fs::write(&file, "short-lived").unwrap();
                fs::create_dir(&folder).unwrap();
                fs::rename(&file, folder.join("moved")).unwrap();
                std::os::unix::fs::symlink("still", &file).unwrap();
                // Some entries stay, but their number is limited, or a slow machine would never finish the last runs.
                if number % 3 != 0 || number > 900 {
                    fs::remove_dir_all(folder).unwrap();
                    fs::remove_file(file).unwrap();
                }
            }
        })
    };
    for second in 0..10 {
        let rules = at(&format!("2026-05-04T03:02:{second:02}Z"));
        let stored = repository.store_folder(&claim(), &rules, &source, Arc::default()).await.unwrap();
        assert_eq!(stored.unreadable.count, 0, "{:?}", stored.unreadable);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
    repository.close().await;
    newest().check(&dir.path().join("repository"));
}

#[tokio::test]
async fn cancelled_folder_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let repository_path = dir.path().join("repository");
    new_repository(&repository_path).await.close().await;
    let cancel = never();
    let repository = stowaway::repository::open(folder(&repository_path), cancel.clone()).await.unwrap();
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("file"), noise(60 << 20, 1)).unwrap();
    let progress = Arc::new(Progress::default());
    let (label, rules) = (claim(), at("2026-05-04T03:02:01Z"));
    let storing = repository.store_folder(&label, &rules, &source, Arc::clone(&progress));
    let cancelling = async {
        while progress.bytes_read() == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (stored, ()) = tokio::join!(storing, cancelling);
    assert_eq!(stored.unwrap_err().reason(), stowaway::model::Reason::Cancelled);
    repository.close().await;
    assert!(files_in(&repository_path, "snapshots").is_empty() && files_in(&repository_path, "locks").is_empty());
}

#[tokio::test]
async fn other_file_systems_and_internal_files_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    let expected = folder_in(dir.path(), "expected");
    for folder in [&source, &expected] {
        fs::create_dir_all(folder.join("below/lost+found")).unwrap();
        fs::write(folder.join("below/.stowaway-restore.part"), "the app's own").unwrap();
        fs::create_dir(folder.join("mounted")).unwrap();
    }
    make_lost_and_found(&source);
    // A killed restore step may leave this file of a restore which had ended.
    fs::write(source.join(".stowaway-restore.lock"), "").unwrap();
    for folder in [&source, &expected] {
        fs::write(folder.join(".stowaway-restore-by-hand"), "the app's own").unwrap();
    }
    assert!(is_root(), "this test mounts, and needs root");
    let _mounted = Mounted::tmpfs(&source.join("mounted"), "size=1m");
    fs::write(source.join("mounted/elsewhere"), "").unwrap();
    let stored = store_folder(&repository, &source).await;
    assert_eq!((stored.files, stored.unreadable.count), (2, 0), "{:?}", stored.unreadable);
    assert_eq!((stored.mounts.count, stored.mounts.first[0].path.as_str()), (1, "mounted"));
    let newest = |snapshots: Vec<_>| newest_of(&snapshots, &"pvc/claim".parse().unwrap()).map(|found| found.id.clone());
    assert_eq!(newest(repository.snapshots().await.unwrap()), None, "a part of the volume is missing");
    // An exclude pattern for the mount point makes the snapshot complete.
    let excludes = stowaway::model::Excludes::new(&["/mounted".to_owned()]).unwrap();
    let rules = FolderRules { excludes, ..at("2026-05-04T04:00:00Z") };
    let without = repository.store_folder(&claim(), &rules, &source, Arc::default()).await.unwrap();
    assert_eq!((without.mounts.count, without.left_out), (0, 1));
    assert_eq!(newest(repository.snapshots().await.unwrap()), Some(without.snapshot));
    let target = folder_in(dir.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    let names = |folder: &Path| (names_in(folder), names_in(&folder.join("below")), names_in(&folder.join("mounted")));
    assert_eq!(names(&target), names(&expected));
}

#[tokio::test]
async fn lost_and_found_with_something_in_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fs::create_dir(source.join("lost+found")).unwrap();
    fs::write(source.join("lost+found/#12"), "found").unwrap();
    let stored = store_folder(&repository, &source).await;
    let target = folder_in(dir.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    assert_eq!(fs::read(target.join("lost+found/#12")).unwrap(), b"found");
}

#[tokio::test]
async fn content_that_the_repository_has_lost_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fs::write(source.join("kept"), noise(3 << 20, 1)).unwrap();
    settled(&source).await;
    store_folder(&repository, &source).await;
    let packs = files_in(&at, "data").into_iter();
    let longest = packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(longest).unwrap();
    repository.close().await;
    newest().ok(&at, &["repair", "index"]);

    let repository = open(folder(&at), never()).await.unwrap();
    let stored = store_folder(&repository, &source).await;
    assert!(stored.added_bytes > 3 << 20, "{stored:?}");
    let target = folder_in(dir.path(), "target");
    restore_folder(&repository, &stored.snapshot, &target).await;
    assert_same(&source, &target);
}

//! A successful run does not rely on missing data: lost packs are stored again, and one unreadable file blocks nothing
//! else.

use std::{fs, path::PathBuf, sync::Arc};

use stowaway::{
    exec::Limits,
    model::{Reason, SourceName, Verdict},
    repository::{Forget, PruneRules, open, open_exclusively},
    runner::{self, BackupInput, BackupRun},
    seal::ExecMode,
};

use super::{
    folders::{restore_folder, store_folder},
    restic::newest,
    torture::{assert_same, folder_in},
    *,
};

#[derive(Clone, Copy, Debug)]
enum Harm {
    Delete,
    Empty,
    CutOneByte,
    CutHalf,
}

const HARMS: [Harm; 4] = [Harm::Delete, Harm::Empty, Harm::CutOneByte, Harm::CutHalf];

impl Harm {
    fn to(self, path: &Path) {
        let content = fs::read(path).unwrap();
        match self {
            Self::Delete => fs::remove_file(path).unwrap(),
            Self::Empty => fs::write(path, "").unwrap(),
            Self::CutOneByte => fs::write(path, &content[..content.len() - 1]).unwrap(),
            Self::CutHalf => fs::write(path, &content[..content.len() / 2]).unwrap(),
        }
    }
}

/// The longest pack, which holds data, and the shortest pack, which holds trees.
pub fn packs(dir: &Path) -> [PathBuf; 2] {
    let mut packs = files_in(dir, "data");
    packs.sort_by_key(|path| fs::metadata(path).unwrap().len());
    [packs.last().unwrap().clone(), packs.first().unwrap().clone()]
}

async fn restored(repository: &Repository, snapshot: &str) -> Vec<u8> {
    collect(repository.read_file(snapshot, "/db.sql").await.unwrap()).await
}

#[tokio::test]
async fn stream_of_which_a_pack_was_lost_is_stored_again_and_comes_back() {
    let data = noise(9 << 20, 1);
    for harm in HARMS {
        for lost in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let repository = new_repository(dir.path()).await;
            let first = store(&repository, "/db.sql", &data).await;
            assert!(first.lacking.is_nothing());
            harm.to(&packs(dir.path())[lost]);
            let second = store(&repository, "/db.sql", &data).await;
            assert_eq!(second.lacking.packs, 1, "{harm:?}, {lost}");
            assert!(restored(&repository, &second.snapshot).await == data, "{harm:?}, {lost}");
            // The content is the same, so the old snapshot is complete again as well, and a third run stores nothing.
            assert!(restored(&repository, &first.snapshot).await == data, "{harm:?}, {lost}");
            repository.verify(&second.snapshot).await.unwrap();
            let third = store(&repository, "/db.sql", &data).await;
            assert!(third.lacking.is_nothing() && third.added_bytes < 10_000, "{harm:?}, {lost}: {third:?}");
        }
    }
}

/// Writes 40 files into 7 folders.
pub fn fill(source: &Path) {
    for number in 0..40 {
        let folder = source.join(format!("folder-{}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file-{number}")), noise(100_000, number)).unwrap();
    }
}

#[tokio::test]
async fn folder_of_which_a_pack_was_lost_is_stored_again_and_comes_back() {
    for harm in HARMS {
        for lost in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("repository");
            let repository = new_repository(&at).await;
            let source = folder_in(dir.path(), "source");
            fill(&source);
            super::folders::settled(&source.join("folder-0")).await;
            store_folder(&repository, &source).await;
            harm.to(&packs(&at)[lost]);
            let second = store_folder(&repository, &source).await;
            assert_eq!(second.lacking.packs, 1, "{harm:?}, {lost}");
            let target = folder_in(dir.path(), "target");
            restore_folder(&repository, &second.snapshot, &target).await;
            assert_same(&source, &target);
            let third = store_folder(&repository, &source).await;
            assert!(third.lacking.is_nothing() && third.added_bytes < 10_000, "{harm:?}, {lost}: {third:?}");
        }
    }
}

#[tokio::test]
async fn pack_that_is_lost_while_a_run_relies_on_it_fails_the_run() {
    let data = noise(9 << 20, 1);
    for harm in HARMS {
        let dir = tempfile::tempdir().unwrap();
        let repository = new_repository(dir.path()).await;
        store(&repository, "/db.sql", &data).await;
        let (sender, receiver) = pieces();
        let path = packs(dir.path())[0].clone();
        let sending = async {
            for piece in whole(&data) {
                if matches!(piece, StreamItem::End(_)) {
                    // By now more pieces were sent than the channel holds, so the run has read the index before.
                    harm.to(&path);
                }
                sender.send(piece).await.unwrap();
            }
        };
        let (label, rules) = (identity("/db.sql"), rules());
        let storing = repository.store_stream(&label, &rules, receiver, Arc::new(Progress::default()));
        let (stored, ()) = tokio::join!(storing, sending);
        let error = stored.unwrap_err();
        assert_eq!(error.reason(), Reason::RepositoryDamaged, "{harm:?}: {error}");
        assert!(error.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
        assert_eq!(repository.snapshots().await.unwrap().len(), 1, "{harm:?}");
        // The next run stores the lost data again.
        let healed = store(&repository, "/db.sql", &data).await;
        assert!(restored(&repository, &healed.snapshot).await == data, "{harm:?}");
    }
}

pub fn run_of(identity: SnapshotIdentity) -> BackupRun {
    BackupRun {
        skip_format_check: false,
        source: "deployment/shop/db".parse::<SourceName>().unwrap(),
        alternative_path: identity.path.clone(),
        identity,
        limits: Limits { timeout: None, idle_timeout: None },
        allow_empty: false,
        accept_unproven: false,
    }
}

#[tokio::test]
async fn snapshot_of_an_earlier_attempt_is_taken_over_only_if_it_is_whole_and_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let first = store(&repository, "/db.sql", b"monday").await;
    let attempt = async |identity: SnapshotIdentity| {
        let from = BackupInput::Local(ExecMode::Shell, vec!["echo".to_owned(), "tuesday".to_owned()]);
        runner::backup(&repository, run_of(identity), from, Arc::default(), never()).await
    };
    let adopted = attempt(identity("/db.sql")).await;
    assert_eq!((adopted.reason, adopted.snapshot.as_ref()), (Reason::Adopted, Some(&first.snapshot)));
    // Snapshots with the tag of this run but with another host, path or cluster.
    for other in [
        SnapshotIdentity { host: "mill".to_owned(), ..identity("/db.sql") },
        SnapshotIdentity { path: "/other.sql".to_owned(), ..identity("/db.sql") },
        SnapshotIdentity {
            tags: vec![
                "source=deployment/shop/db".to_owned(),
                "run=42/deployment/shop/db".to_owned(),
                "cluster=c".to_owned(),
            ],
            ..identity("/db.sql")
        },
    ] {
        let report = attempt(other.clone()).await;
        assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed), "{other:?}: {report:?}");
    }
    for path in packs(dir.path()) {
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let report = attempt(identity("/db.sql")).await;
        assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
        repository.verify(report.snapshot.as_ref().unwrap()).await.unwrap();
        fs::write(&path, content).unwrap();
    }
}

/// Unreadable files with names which a file of the repository could have.
fn rotten() -> Vec<(String, Vec<u8>)> {
    let contents: [&[u8]; 3] = [b"", b"x", &noise(300, 9)];
    contents.into_iter().enumerate().map(|(number, content)| (format!("{number:064x}"), content.to_vec())).collect()
}

#[tokio::test]
async fn rotten_file_stops_no_backup_and_no_restore_of_what_can_be_read() {
    for folder_name in ["snapshots", "index", "keys"] {
        for (name, content) in rotten() {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("repository");
            new_repository(&at).await.close().await;
            let source = folder_in(dir.path(), "source");
            fs::write(source.join("file"), "tuesday").unwrap();
            let path = at.join(folder_name).join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::write(at.join(folder_name).join("README"), "not of the repository").unwrap();
            let repository = open(folder(&at), never()).await.unwrap();
            let stored = store(&repository, "/db.sql", b"monday").await;
            assert_eq!(stored.lacking.index_files, u64::from(folder_name == "index"));
            let volume = store_folder(&repository, &source).await;
            assert_eq!(repository.snapshots().await.unwrap().len(), 2, "{path:?}");
            assert_eq!(restored(&repository, &stored.snapshot).await, b"monday", "{path:?}");
            let target = folder_in(dir.path(), "target");
            restore_folder(&repository, &volume.snapshot, &target).await;
            assert_same(&source, &target);
            assert_eq!(repository.count_keys().await.unwrap(), 1);
            let list = repository.list_snapshots().await.unwrap();
            assert_eq!(list.trouble().is_some(), folder_name == "snapshots");
            let found = repository.check(None).await.unwrap();
            assert!(!found.is_sound(), "{path:?}");
            repository.close().await;

            let repository = open_exclusively(folder(&at), never()).await.unwrap();
            let pruned = repository.prune(&PruneRules::default()).await;
            let forgotten = forget(&repository, Forget::default()).await;
            repository.close().await;
            if folder_name != "keys" {
                let error = pruned.unwrap_err().to_string();
                assert!(error.contains(&format!("{folder_name}/{name}")), "{error}");
            }
            if folder_name == "snapshots" {
                assert!(forgotten.unwrap_err().to_string().contains(&name));
                let repository = open(folder(&at), never()).await.unwrap();
                let error = repository.find(&name[..64]).await.unwrap_err();
                assert_eq!(error.reason(), Reason::RepositoryDamaged, "{error}");
                repository.close().await;
            }
            assert!(path.exists());
        }
    }
}

#[tokio::test]
async fn data_that_only_a_rotten_index_file_names_is_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let data = noise(3 << 20, 1);
    store(&repository, "/db.sql", &data).await;
    for index in files_in(dir.path(), "index") {
        fs::write(index, "").unwrap();
    }
    let second = store(&repository, "/db.sql", &data).await;
    assert_eq!(second.lacking.index_files, 1);
    assert!(restored(&repository, &second.snapshot).await == data);
}

#[tokio::test]
async fn old_and_empty_locks_that_cannot_be_read_stop_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    for (name, content) in rotten() {
        let path = dir.path().join("locks").join(name);
        fs::write(&path, &content).unwrap();
        if !content.is_empty() {
            let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
            fs::File::options().write(true).open(&path).unwrap().set_modified(hour_ago).unwrap();
        }
    }
    let repository = open(folder(dir.path()), never()).await.unwrap();
    store(&repository, "/db.sql", b"monday").await;
    repository.close().await;
    let error = open_exclusively(folder(dir.path()), never()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryLocked, "the empty one may become a lock any moment: {error}");
    // A command of restic which takes a lock fails if there is a lock which it cannot read.
    newest().ok(dir.path(), &["snapshots", "--no-lock"]);
}

#[tokio::test]
async fn repository_of_another_id_is_not_opened_and_nothing_is_written_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    let id = repository.id().to_owned();
    repository.close().await;
    let expecting = |ids: &[&str]| OpenOptions {
        expected_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ..folder(dir.path())
    };
    let other = "ab".repeat(32);
    for opened in [
        open(expecting(&[&other]), never()).await,
        open_exclusively(expecting(&[&other]), never()).await,
        stowaway::repository::open_or_create(expecting(&[&other]), never()).await,
    ] {
        let error = opened.unwrap_err();
        assert_eq!(error.reason(), Reason::RepositoryChanged, "{error}");
        assert!(error.to_string().contains(&id) && error.to_string().contains(&other), "{error}");
        assert!(files_in(dir.path(), "locks").is_empty());
    }
    open(expecting(&[&other, &id]), never()).await.unwrap().close().await;
    // A new repository gets an id of its own.
    let elsewhere = tempfile::tempdir().unwrap();
    let new = OpenOptions { backend: folder(elsewhere.path()).backend, ..expecting(&[&id]) };
    let error = open(new.clone(), never()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::RepositoryNotFound);
    let message = error.to_string();
    assert!(message.contains("there was one before: do not create one"), "{message}");
    assert!(files_in(elsewhere.path(), "").is_empty());
    stowaway::repository::open_or_create(new, never()).await.unwrap().close().await;
}

//! The snapshot of a volume which was emptied, or in which a restore is in progress, never replaces the last good
//! snapshot. Neither does a snapshot dated in the future. With restic a user can mark a suspect snapshot as good.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use stowaway::{
    model::{Reason, RunReport, Verdict, injected::RESTORE_MARKS},
    repository::{Forget, open, open_exclusively},
    runner::{VolumeRun, backup_device, backup_volume},
};

use super::{
    folders::claim,
    restic::{newest, oldest},
    torture::folder_in,
    *,
};

/// A volume, and the repository in which it is stored.
struct Fixture {
    dir: tempfile::TempDir,
    volume: PathBuf,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        new_repository(&dir.path().join("repository")).await.close().await;
        let volume = folder_in(dir.path(), "volume");
        let fixture = Self { dir, volume };
        fixture.fill();
        fixture
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    /// Opens the repository for one operation, because restic and `forget` need exclusive access in between.
    async fn open(&self) -> Repository {
        open(folder(&self.at()), never()).await.unwrap()
    }

    fn fill(&self) {
        for number in 0..12 {
            fs::write(self.volume.join(format!("file-{number}")), noise(10_000, number)).unwrap();
        }
    }

    fn keep(&self, files: u64) {
        for number in files..12 {
            fs::remove_file(self.volume.join(format!("file-{number}"))).unwrap();
        }
    }

    async fn back_up(&self) -> RunReport {
        self.back_up_with(false).await
    }

    async fn back_up_with(&self, accept_shrunken: bool) -> RunReport {
        let run = VolumeRun { identity: claim(), exclude: vec![], accept_shrunken, timeout: None };
        let repository = self.open().await;
        let report = backup_volume(&repository, run, &self.volume, Arc::default()).await;
        repository.close().await;
        report
    }

    async fn newest_good(&self) -> Option<String> {
        let repository = self.open().await;
        let snapshots = repository.snapshots().await.unwrap();
        repository.close().await;
        newest_of(&snapshots, &"pvc/claim".parse().unwrap()).map(|snapshot| snapshot.id.clone())
    }
}

fn is_suspect(report: &RunReport, reason: Reason, last_good: &str) {
    assert_eq!((report.verdict, report.reason), (Verdict::Suspect, reason), "{report:?}");
    assert!(report.message.contains(&last_good[..8]), "{report:?}");
}

fn stowaway(repository: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .env_clear()
        .envs([("RESTIC_PASSWORD", PASSWORD), ("USER", "tester"), ("TZ", "UTC")])
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(arguments)
        .arg("--repository")
        .arg(repository)
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

#[tokio::test]
async fn emptied_volume_is_never_the_newest_good_one_until_it_is_filled_again() {
    let fixture = Fixture::new().await;
    let full = fixture.back_up().await;
    assert_eq!((full.verdict, full.message.as_str()), (Verdict::Succeeded, ""), "{full:?}");
    let full = full.snapshot.unwrap();
    fixture.keep(0);
    for _ in 0..3 {
        // The volume is compared with the last good snapshot each time, and not with the previous empty one.
        let emptied = fixture.back_up().await;
        is_suspect(&emptied, Reason::VolumeEmptied, &full);
        assert_eq!(fixture.newest_good().await.as_ref(), Some(&full));
    }
    let (code, printed) = stowaway(&fixture.at(), &["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("2 snapshots would be forgotten") && printed.contains("it is suspect"), "{printed}");
    fixture.fill();
    let again = fixture.back_up().await;
    assert_eq!(again.verdict, Verdict::Succeeded, "{again:?}");
    assert_eq!(fixture.newest_good().await, again.snapshot);
}

#[tokio::test]
async fn volume_that_lost_most_is_suspect_and_consent_makes_it_good() {
    let fixture = Fixture::new().await;
    let full = fixture.back_up().await.snapshot.unwrap();
    fixture.keep(5);
    let shrunken = fixture.back_up().await;
    is_suspect(&shrunken, Reason::VolumeShrank, &full);
    assert!(shrunken.message.contains("holds 5 files of 50000 bytes"), "{shrunken:?}");
    assert!(shrunken.message.contains("holds 12 files of 120000 bytes"), "{shrunken:?}");
    let accepted = fixture.back_up_with(true).await;
    assert_eq!(accepted.verdict, Verdict::Succeeded, "{accepted:?}");
    assert!(accepted.message.contains("remove the annotation"), "{accepted:?}");
    assert_eq!(fixture.newest_good().await, accepted.snapshot);
    // From now on the volume is compared with this snapshot.
    let next = fixture.back_up().await;
    assert_eq!((next.verdict, next.message.as_str()), (Verdict::Succeeded, ""), "{next:?}");
}

#[tokio::test]
async fn volume_that_loses_its_files_in_several_backups_is_green_and_names_the_larger_snapshot() {
    let fixture = Fixture::new().await;
    let full = fixture.back_up().await.snapshot.unwrap();
    fixture.keep(7);
    let first = fixture.back_up().await;
    assert_eq!((first.verdict, first.message.as_str()), (Verdict::Succeeded, ""), "less than half is missing");
    for number in 4..7 {
        fs::remove_file(fixture.volume.join(format!("file-{number}"))).unwrap();
    }
    let second = fixture.back_up().await;
    assert_eq!(second.verdict, Verdict::Succeeded, "{second:?}");
    assert!(second.message.contains(&format!("restore {} before", &full[..8])), "{second:?}");
    assert!(second.message.contains("holds 12 files of 120000 bytes"), "{second:?}");
    assert_eq!(fixture.newest_good().await, second.snapshot);
    // The annotation accepts such a loss, too.
    let accepted = fixture.back_up_with(true).await;
    assert_eq!((accepted.verdict, accepted.message.as_str()), (Verdict::Succeeded, ""), "{accepted:?}");
}

#[tokio::test]
async fn volume_without_a_good_snapshot_is_not_suspect() {
    let fixture = Fixture::new().await;
    fixture.keep(0);
    for _ in 0..2 {
        assert_eq!(fixture.back_up().await.verdict, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn restic_clears_the_doubt_by_removing_the_tag() {
    let fixture = Fixture::new().await;
    let full = fixture.back_up().await.snapshot.unwrap();
    fixture.keep(2);
    let suspect = fixture.back_up().await;
    is_suspect(&suspect, Reason::VolumeShrank, &full);
    newest().ok(&fixture.at(), &["tag", "--remove", "suspect", &suspect.snapshot.unwrap()]);
    // restic writes the changed snapshot under a new id.
    let good = fixture.newest_good().await.unwrap();
    assert_ne!(good, full);
    let next = fixture.back_up().await;
    assert_eq!(next.verdict, Verdict::Succeeded, "{next:?}");
    assert_eq!(fixture.newest_good().await, next.snapshot);
    newest().check(&fixture.at());
}

#[tokio::test]
async fn volume_is_compared_with_what_restic_stored_whether_it_counted_or_not() {
    for restic in [oldest(), newest()] {
        let fixture = Fixture::new().await;
        restic.ok(
            &fixture.at(),
            &["backup", "--host", "shop", "--tag", "source=pvc/claim", fixture.volume.to_str().unwrap()],
        );
        let by_restic = fixture.newest_good().await.unwrap();
        fixture.keep(5);
        let shrunken = fixture.back_up().await;
        is_suspect(&shrunken, Reason::VolumeShrank, &by_restic);
        assert!(shrunken.message.contains("holds 12 files of 120000 bytes"), "{shrunken:?}");
    }
}

#[tokio::test]
async fn volume_in_the_middle_of_a_restore_is_refused_and_nothing_is_stored() {
    for mark in RESTORE_MARKS {
        let fixture = Fixture::new().await;
        fs::create_dir(fixture.volume.join(mark)).unwrap();
        let refused = fixture.back_up().await;
        assert_eq!((refused.verdict, refused.reason), (Verdict::Failed, Reason::RestoreUnfinished), "{refused:?}");
        assert!(refused.message.contains(mark) && refused.message.contains("remove"), "{refused:?}");
        assert_eq!(open_and_count(&fixture.at()).await, 0);
        fs::remove_dir(fixture.volume.join(mark)).unwrap();
        assert_eq!(fixture.back_up().await.verdict, Verdict::Succeeded);
    }
}

#[tokio::test]
async fn blank_device_is_suspect_and_one_that_was_always_blank_is_not() {
    let fixture = Fixture::new().await;
    // A plain file takes the role of the device.
    let device = fixture.dir.path().join("device");
    let back_up = async |content: &[u8], accept_shrunken| {
        fs::write(&device, content).unwrap();
        let run = VolumeRun { identity: claim(), exclude: vec![], accept_shrunken, timeout: None };
        let repository = fixture.open().await;
        let report = backup_device(&repository, run, &device, Arc::default()).await;
        repository.close().await;
        report
    };
    let blank = back_up(&[0; 100_000], false).await;
    assert_eq!(blank.verdict, Verdict::Succeeded, "there is nothing to compare with: {blank:?}");
    assert_eq!(back_up(&[0; 100_000], false).await.verdict, Verdict::Succeeded);
    let written = back_up(&noise(200_000, 7), false).await;
    assert_eq!(written.verdict, Verdict::Succeeded, "{written:?}");
    let good = written.snapshot.unwrap();
    is_suspect(&back_up(&[0; 200_000], false).await, Reason::VolumeEmptied, &good);
    is_suspect(&back_up(&noise(70_000, 7), false).await, Reason::VolumeShrank, &good);
    assert_eq!(fixture.newest_good().await, Some(good));
    assert_eq!(back_up(&[0; 200_000], true).await.verdict, Verdict::Succeeded);
    assert_eq!(back_up(&[0; 200_000], false).await.verdict, Verdict::Succeeded);
}

#[tokio::test]
async fn emptied_volume_of_a_new_cluster_does_not_hide_the_old_ones_snapshot() {
    let fixture = Fixture::new().await;
    let store = async |cluster: &str, time: &str| {
        let mut label = claim();
        label.push_tag(SnapshotIdentity::CLUSTER, cluster).unwrap();
        let rules = super::folders::at(time);
        let repository = fixture.open().await;
        let stored = repository.store_folder(&label, &rules, &fixture.volume, Arc::default()).await.unwrap();
        repository.close().await;
        stored
    };
    let old = store("old", "2026-05-04T03:00:00Z").await;
    fixture.keep(4);
    assert!(store("new", "2026-05-05T03:00:00Z").await.shrunken.is_none(), "another cluster's may be bigger");
    fixture.fill();
    fixture.keep(0);
    let emptied = store("third", "2026-05-06T03:00:00Z").await;
    assert!(emptied.shrunken.is_some());
    assert_ne!(fixture.newest_good().await, Some(emptied.snapshot));
    assert!(!old.snapshot.is_empty());
}

#[tokio::test]
async fn snapshot_from_the_future_wins_no_restore_and_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (at, folder) = (dir.path().join("repository"), folder_in(dir.path(), "folder"));
    new_repository(&at).await.close().await;
    let back_up = |content: &str, time: &[&str]| {
        fs::write(folder.join("file"), content).unwrap();
        let label = ["backup", "--host", "shop", "--tag", "source=pvc/claim"];
        newest().ok(&at, &[&label, time, &[folder.to_str().unwrap()]].concat());
    };
    for day in 1..=5 {
        back_up("past", &["--time", &format!("2026-05-0{day} 03:00:00")]);
    }
    back_up("future", &["--time", "2199-01-01 00:00:00"]);
    let (code, printed) = stowaway(&at, &["forget", "--keep-within", "30d", "--dry-run"]);
    assert!(code == Some(0) && printed.contains("0 snapshots would be forgotten"), "{printed}");
    assert!(printed.contains("dated in the future"), "{printed}");
    let kept = newest().json(&at, &["forget", "--keep-within", "30d", "--dry-run", "--json"]);
    assert_eq!(kept[0]["keep"].as_array().unwrap().len(), 6, "restic does not count back from it, either: {kept}");
    let target = dir.path().join("target");
    let source = ["restore", "--source", "pvc/claim", "--target", target.to_str().unwrap()];
    let (code, printed) = stowaway(&at, &source);
    assert!(code == Some(0) && printed.contains("1 newer not used"), "{printed}");
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "past");
}

#[tokio::test]
async fn last_snapshot_of_a_source_is_deleted_only_on_explicit_request() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let repository = new_repository(at).await;
    let stored = store(&repository, "/db.sql", b"the last").await;
    repository.close().await;
    let (code, printed) = stowaway(at, &["forget", &stored.snapshot]);
    assert!(code == Some(1) && printed.contains("--last-of-source"), "{code:?} {printed}");
    let (code, printed) = stowaway(at, &["forget", "--last-of-source", "--keep-last", "1"]);
    assert_eq!(code, Some(2), "rules never delete the last one: {printed}");
    let open = open_exclusively(folder(at), never()).await.unwrap();
    let snapshots = BTreeSet::from([stored.snapshot.clone()]);
    assert!(forget(&open, Forget { snapshots, ..Forget::default() }).await.is_err());
    open.close().await;
    let (code, printed) = stowaway(at, &["forget", "--last-of-source", &stored.snapshot]);
    assert!(code == Some(0) && printed.contains("1 snapshots forgotten"), "{printed}");
    assert_eq!(open_and_count(at).await, 0);
}

async fn open_and_count(at: &Path) -> usize {
    let repository = open(folder(at), never()).await.unwrap();
    let count = repository.snapshots().await.unwrap().len();
    repository.close().await;
    count
}

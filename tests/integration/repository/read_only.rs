//! Stores which refuse writes: everything that only reads works without a lock and reports that, and everything else
//! fails with the reason.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use stowaway::{
    model::{DataPart, Reason, RunReport},
    repository::{open, open_exclusively, open_to_read},
    runner::maintenance,
};

use super::{
    fake_s3::{FakeS3, Fault},
    restic::both,
    torture::is_root,
    *,
};

/// A service whose repository has one stream, and the id of its snapshot.
async fn filled() -> (FakeS3, String) {
    let s3 = FakeS3::start().await;
    let repository = create(s3.access(), never()).await.unwrap();
    let stored = store(&repository, "/dump", &noise(300_000, 1)).await;
    repository.close().await;
    (s3, stored.snapshot)
}

#[tokio::test]
async fn credentials_that_may_only_read_restore_without_a_lock_and_store_nothing() {
    let (s3, snapshot) = filled().await;
    let removed = s3.requests("DELETE", "locks/");
    for method in ["PUT", "POST", "DELETE"] {
        s3.fail(method, "", Fault::Status(403), usize::MAX);
    }
    let repository = open_to_read(s3.access(), never()).await.unwrap();
    assert!(repository.lock_note().unwrap().contains("without a lock"));
    assert!(s3.keys("locks/").is_empty());
    let file = repository.read_file(&snapshot, "/dump").await.unwrap();
    assert_eq!(collect(file).await, noise(300_000, 1));
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    assert!(repository.check(None).await.unwrap().is_sound());
    repository.close().await;
    assert_eq!(s3.requests("DELETE", "locks/"), removed, "there is no lock to remove");
    for opened in [open(s3.access(), never()).await, open_exclusively(s3.access(), never()).await] {
        let error = opened.unwrap_err();
        assert!(matches!(error, RepositoryError::AccessDenied { .. }), "{error}");
        assert!(error.to_string().contains("check the credentials and their permissions"), "{error}");
    }
}

#[tokio::test]
async fn check_without_a_lock_looks_twice_before_it_reports_damage() {
    let (s3, _) = filled().await;
    let check = async || maintenance::check(s3.access(), DataPart::ALL, &never()).await.unwrap();
    let reads = || s3.requests("GET", "bucket/pre/fix/data/");
    let lose_packs = |times| s3.fail("GET", "bucket/pre/fix/data/", Fault::Status(404), times);
    // With a lock, no prune can have removed the packs meanwhile.
    lose_packs(usize::MAX);
    let before = reads();
    assert_eq!(check().await.reason, Reason::RepositoryDamaged);
    let reads_of_one = reads() - before;
    s3.heal();
    lose_packs(reads_of_one);
    assert_eq!(check().await.reason, Reason::RepositoryDamaged);
    // Without a lock, only damage that the second look finds, too, is reported.
    for (reads_that_fail, reason) in [(reads_of_one, Reason::Completed), (2 * reads_of_one, Reason::RepositoryDamaged)]
    {
        s3.heal();
        s3.fail("PUT", "locks/", Fault::Status(403), usize::MAX);
        lose_packs(reads_that_fail);
        let report = check().await;
        assert_eq!(report.reason, reason, "{}", report.message);
        assert!(report.message.contains("without a lock"), "{}", report.message);
    }
}

#[tokio::test]
async fn exclusive_lock_of_another_client_counts_for_a_reader_that_cannot_lock() {
    let (s3, _) = filled().await;
    let pruning = open_exclusively(s3.access(), never()).await.unwrap();
    s3.fail("PUT", "locks/", Fault::Status(403), usize::MAX);
    let error = open_to_read(s3.access(), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    pruning.close().await;
    open_to_read(s3.access(), never()).await.unwrap().close().await;
}

#[tokio::test]
async fn lock_that_fails_for_another_reason_is_not_dispensed_with() {
    let (s3, _) = filled().await;
    let timeouts = Timeouts { retries: Duration::ZERO, outage: Duration::ZERO, ..Timeouts::default() };
    for fault in [Fault::Status(503), Fault::Status(500), Fault::Status(507), Fault::Cut, Fault::Status(404)] {
        s3.fail("PUT", "locks/", fault, usize::MAX);
        let access = OpenOptions { timeouts, ..s3.access() };
        let opened = open_to_read(access, never()).await;
        assert!(opened.is_err(), "{fault:?}");
        s3.heal();
    }
    let repository = open_to_read(s3.access(), never()).await.unwrap();
    assert_eq!(repository.lock_note(), None);
    assert_eq!(s3.keys("locks/").len(), 1);
    repository.close().await;
}

/// Runs Stowaway while the repository is mounted read-only. `None` if the machine cannot mount.
fn on_read_only(repository: &Path, arguments: &[&str]) -> Option<Output> {
    if !is_root() {
        crate::skipped("only root can mount the repository read-only");
        return None;
    }
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" || exit 77; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .arg(repository)
        .arg(env!("CARGO_BIN_EXE_stowaway"))
        .args(arguments)
        .arg("--repository")
        .arg(repository)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    if output.status.code() == Some(77) || output.stderr.starts_with(b"unshare:") {
        crate::skipped(&format!("this machine cannot mount: {}", String::from_utf8_lossy(&output.stderr)));
        return None;
    }
    Some(output)
}

#[tokio::test]
async fn repository_of_restic_on_a_read_only_medium_is_restored_listed_dumped_and_checked() {
    for restic in both() {
        let dir = tempfile::tempdir().unwrap();
        let (at, source, target) =
            (dir.path().join("repository"), dir.path().join("source"), dir.path().join("target"));
        restic.ok(&at, &["init"]);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), noise(300_000, 1)).unwrap();
        restic.ok(&at, &["backup", "--host", "shop", "--tag", "source=pvc/claim", source.to_str().unwrap()]);
        let snapshots = restic.json(&at, &["snapshots", "--json"]);
        let id = snapshots[0]["id"].as_str().unwrap();

        let restore = ["restore", "--source", "pvc/claim", "--snapshot", id, "--output", "json", "--target"];
        let restore = [&restore[..], &[target.to_str().unwrap()]].concat();
        let Some(output) = on_read_only(&at, &restore) else { return };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: RunReport =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!(report.verdict.to_string(), "Succeeded", "{}", report.message);
        for part in ["without a lock", "prune", "compared with its hash"] {
            assert!(report.message.contains(part) && stderr.contains(part), "{part}: {}; {stderr}", report.message);
        }
        assert_eq!(fs::read(target.join("file")).unwrap(), noise(300_000, 1));

        let path = source.join("file");
        let dump = on_read_only(&at, &["dump", id, path.to_str().unwrap()]).unwrap();
        assert_eq!(dump.stdout, noise(300_000, 1));
        for arguments in [&["snapshots"][..], &["ls", id], &["check"], &["key", "list"]] {
            let output = on_read_only(&at, arguments).unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for arguments in [&["forget", id][..], &["prune"]] {
            let output = on_read_only(&at, arguments).unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && stderr.contains("Read-only file system"), "{arguments:?}: {stderr}");
        }
        assert!(files_in(&at, "locks").is_empty());
    }
}

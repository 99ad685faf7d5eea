//! A repository whose snapshot files are lost, but not its data, starts no app on an empty volume.

use super::*;

#[tokio::test]
async fn lost_snapshot_files_hold_the_app_up_until_they_are_back() {
    let pod = Pod::with_snapshot().await;
    let repository = pod.dir.path().join("repository");
    let (snapshots, kept) = (repository.join("snapshots"), pod.dir.path().join("kept"));
    fs::rename(&snapshots, &kept).unwrap();
    fs::create_dir(&snapshots).unwrap();
    let message = pod.fails(Reason::RepositoryDamaged);
    for text in ["volume data", "no snapshot at all", "from a copy of the repository", "remove the restore annotation"]
    {
        assert!(message.contains(text), "{message}");
    }
    fs::remove_dir(&snapshots).unwrap();
    fs::rename(&kept, &snapshots).unwrap();
    pod.succeeds();
    pod.is_restored();
}

#[tokio::test]
async fn first_backup_that_failed_blocks_no_first_start_and_is_a_warning() {
    let (pod, repository) = Pod::new().await;
    store(&repository, "/db.sql", &noise(100_000, 1)).await;
    repository.close().await;
    // A run writes packs first, and index file and snapshot at its end.
    for folder in ["index", "snapshots"] {
        for file in files_in(&pod.dir.path().join("repository"), folder) {
            fs::remove_file(file).unwrap();
        }
    }
    let (output, report) = pod.run();
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed), "{}", report.message);
    let log = String::from_utf8_lossy(&output.stdout);
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap_or_else(|| panic!("no warning: {log}"));
    for text in [warning, &report.message] {
        assert!(text.contains("starts empty") && text.contains("no snapshot at all, but"), "{text}");
    }
}

#[tokio::test]
async fn new_repository_starts_the_app_without_a_warning() {
    let (pod, repository) = Pod::new().await;
    repository.close().await;
    let (output, report) = pod.run();
    assert_eq!((report.verdict, report.reason), (Verdict::Succeeded, Reason::Completed), "{}", report.message);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("WARN"));
}

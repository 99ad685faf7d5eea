//! Locks beside the real restic: each side keeps the other off, and the lock of a dead one goes.

use std::{process::Stdio, sync::Arc, time::Duration};

use stowaway::repository::{LockJudge, LockRules, ProcessesHere, Unlock, open, open_exclusively, remove_locks};

use super::{
    interoperability::ExclusiveLock,
    restic::{Restic, both},
    *,
};

/// The judge that knows the processes of restic here.
fn processes_here() -> Arc<dyn LockJudge> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    Arc::new(ProcessesHere { holder: LockHolder { host, user: String::from_utf8(user).unwrap().trim().to_owned() } })
}

/// A `restic backup` that waits for the end of its input.
struct Writing(std::process::Child);

impl Writing {
    fn new(restic: &Restic, repository: &Path) -> Self {
        let before = files_in(repository, "locks").len();
        let arguments = ["backup", "--stdin", "--stdin-filename", "x"];
        let child = restic.command(repository).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        while files_in(repository, "locks").len() == before {
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn restic_neither_reads_nor_writes_under_our_exclusive_lock() {
    let place = tempfile::tempdir().unwrap();
    new_repository(place.path()).await.close().await;
    let repository = open_exclusively(folder(place.path()), never()).await.unwrap();
    for restic in both() {
        for refused in [&["backup", "/proc/version"][..], &["prune"], &["snapshots"]] {
            let refused = restic.run(place.path(), refused);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success(), "{said}");
            assert!(said.contains("locked exclusively") && said.contains("pod UID 6f9619ff"), "{said}");
        }
    }
    let error = open(folder(place.path()), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    repository.close().await;
    for restic in both() {
        restic.ok(place.path(), &["backup", "/proc/version"]);
    }
}

#[tokio::test]
async fn nothing_is_opened_exclusively_while_restic_writes() {
    let place = tempfile::tempdir().unwrap();
    new_repository(place.path()).await.close().await;
    for restic in both() {
        let writing = Writing::new(&restic, place.path());
        let error = open_exclusively(folder(place.path()), never()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", writing.0.id())), "{error}");
        // Reading and writing go on.
        open(folder(place.path()), never()).await.unwrap().close().await;
        drop(writing);
        restic.ok(place.path(), &["unlock"]);
        open_exclusively(folder(place.path()), never()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn lock_of_a_killed_restic_goes_at_once_where_somebody_knows_that() {
    let place = tempfile::tempdir().unwrap();
    new_repository(place.path()).await.close().await;
    for restic in both() {
        let living = ExclusiveLock::new(&restic, place.path());
        let knowing = LockRules { judge: processes_here(), wait: Duration::ZERO };
        let knowing = Access { locks: knowing, ..folder(place.path()) };
        assert!(open(knowing.clone(), never()).await.is_err(), "it lives");
        drop(living);
        assert!(open(folder(place.path()), never()).await.is_err(), "nobody knows that it is dead");
        assert!(remove_locks(folder(place.path()), never(), Unlock::Dead).await.unwrap().removed.is_empty());
        open(knowing, never()).await.unwrap().close().await;
        assert!(files_in(place.path(), "locks").is_empty());
    }
}

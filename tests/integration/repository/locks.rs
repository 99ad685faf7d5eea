//! Locks of Stowaway and of the real restic: each respects the locks of the other, and the lock of a dead process is
//! removed.

use std::{process::Stdio, sync::Arc, time::Duration};

use stowaway::repository::{LockOwnerProbe, LockRules, ProcessesHere, Unlock, open, open_exclusively, remove_locks};

use super::{
    interoperability::ExclusiveLock,
    restic::{Restic, both},
    *,
};

/// A judge which knows the restic processes of this machine.
fn processes_here() -> Arc<dyn LockOwnerProbe> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
    Arc::new(ProcessesHere { holder: LockHolder { host, user: String::from_utf8(user).unwrap().trim().to_owned() } })
}

/// A `restic backup` which waits for the end of its input.
struct Writing(std::process::Child);

impl Writing {
    fn new(restic: &Restic, repository: &Path) -> Self {
        let before = locks_in(repository).len();
        let arguments = ["backup", "--stdin", "--stdin-filename", "x"];
        let child = restic.command(repository).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        while locks_in(repository).len() == before {
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
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    let repository = open_exclusively(folder(dir.path()), never()).await.unwrap();
    for restic in both() {
        for refused in [&["backup", "/proc/version"][..], &["prune"], &["snapshots"]] {
            let refused = restic.run(dir.path(), refused);
            let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success(), "{stderr}");
            assert!(stderr.contains("locked exclusively") && stderr.contains("pod UID 6f9619ff"), "{stderr}");
        }
    }
    let error = open(folder(dir.path()), never()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    repository.close().await;
    for restic in both() {
        restic.ok(dir.path(), &["backup", "/proc/version"]);
    }
}

#[tokio::test]
async fn nothing_is_opened_exclusively_while_restic_writes() {
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    for restic in both() {
        let writing = Writing::new(&restic, dir.path());
        let error = open_exclusively(folder(dir.path()), never()).await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", writing.0.id())), "{error}");
        // Other readers and writers are not blocked.
        open(folder(dir.path()), never()).await.unwrap().close().await;
        drop(writing);
        restic.ok(dir.path(), &["unlock"]);
        open_exclusively(folder(dir.path()), never()).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn lock_of_a_killed_restic_is_removed_at_once_if_its_death_is_known() {
    let dir = tempfile::tempdir().unwrap();
    new_repository(dir.path()).await.close().await;
    for restic in both() {
        let living = ExclusiveLock::new(&restic, dir.path());
        let knowing = LockRules { probe: processes_here(), wait: Duration::ZERO };
        let knowing = OpenOptions { locks: knowing, ..folder(dir.path()) };
        assert!(open(knowing.clone(), never()).await.is_err(), "the holder is alive");
        drop(living);
        assert!(open(folder(dir.path()), never()).await.is_err(), "without the judge its death is not known");
        assert!(remove_locks(folder(dir.path()), never(), Unlock::Dead).await.unwrap().removed.is_empty());
        open(knowing, never()).await.unwrap().close().await;
        assert!(files_in(dir.path(), "locks").is_empty());
    }
}

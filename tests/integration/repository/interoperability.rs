//! Stowaway and the real restic, oldest and newest, use the repositories of each other.

use std::{path::Path, process::Command};

use stowaway::{
    model::{Reason, Secret},
    repository::{RepositoryError, open},
};

use super::{
    restic::{Restic, both, newest, oldest},
    *,
};

async fn repository_with(dir: &Path, path: &str, data: &[u8]) -> String {
    let repository = new_repository(dir).await;
    let stored = store(&repository, path, data).await;
    repository.close().await;
    stored.snapshot
}

#[tokio::test]
async fn restic_finds_no_error_and_the_same_bytes() {
    let data = [noise(20 << 20, 1), vec![7; 3 << 20]].concat();
    for path in ["/shop-db.sql", "/a/b c/ü.sql"] {
        let dir = tempfile::tempdir().unwrap();
        let id = repository_with(dir.path(), path, &data).await;
        for restic in both() {
            restic.check(dir.path());
            assert!(restic.ok(dir.path(), &["dump", &id, path]) == data, "{restic:?}");
            let listed = restic.ok(dir.path(), &["ls", "--json", &id]);
            let file = listed
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
                .find(|node| node["path"] == path)
                .unwrap();
            assert_eq!(file["size"], data.len(), "{restic:?}");
            assert_eq!(file["mtime"], "2026-05-04T03:02:01Z", "{restic:?}");
        }
    }
}

#[tokio::test]
async fn restic_restores_the_same_bytes_and_verifies_them() {
    // From a node without a size restic 0.14 restores an empty file and exits with 0.
    let data = noise(3 << 20, 2);
    let dir = tempfile::tempdir().unwrap();
    let id = repository_with(dir.path(), "/a/db.sql", &data).await;
    for restic in both() {
        for verify in [vec![], vec!["--verify"]] {
            let target = tempfile::tempdir().unwrap();
            let mut arguments = vec!["restore", &id, "--target", target.path().to_str().unwrap()];
            arguments.extend(verify);
            restic.ok(dir.path(), &arguments);
            let file = target.path().join("a/db.sql");
            assert!(std::fs::read(&file).unwrap() == data, "{restic:?} {arguments:?}");
            let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap());
            assert_eq!(mode & 0o7777, 0o600, "{restic:?}");
        }
    }
}

#[tokio::test]
async fn file_copied_from_a_mount_has_the_same_bytes() {
    assert!(Path::new("/dev/fuse").exists(), "this test mounts: it needs /dev/fuse and the Debian package fuse3");
    let data = noise(3 << 20, 3);
    let dir = tempfile::tempdir().unwrap();
    let id = repository_with(dir.path(), "/db.sql", &data).await;
    for restic in both() {
        let mounted = Mounted::new(&restic, dir.path());
        let file = mounted.target.path().join("ids").join(&id[..8]).join("db.sql");
        let copy = tempfile::NamedTempFile::new().unwrap();
        assert!(Command::new("cp").arg(&file).arg(copy.path()).status().unwrap().success());
        assert!(std::fs::read(copy.path()).unwrap() == data, "{restic:?}");
    }
}

/// `restic mount`, until it is dropped.
struct Mounted {
    child: std::process::Child,
    target: tempfile::TempDir,
}

impl Mounted {
    fn new(restic: &Restic, repository: &Path) -> Self {
        use std::io::BufRead;
        let target = tempfile::tempdir().unwrap();
        let mut child = restic
            .command(repository)
            .arg("mount")
            .arg(target.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // restic prints this line when the mount is ready.
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(output.any(|line| line.unwrap().starts_with("Now serving")), "restic mount did not start");
        // Keeps reading, so that restic never writes to a closed pipe.
        std::thread::spawn(move || output.for_each(drop));
        Self { child, target }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("fusermount3").arg("-u").arg(self.target.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn restic_filters_find_our_labels() {
    let dir = tempfile::tempdir().unwrap();
    let id = repository_with(dir.path(), "/shop-db.sql", b"data").await;
    for restic in both() {
        let found = |filter: [&str; 2]| {
            let found = restic.json(dir.path(), &["snapshots", "--json", filter[0], filter[1]]);
            found.as_array().map_or(0, Vec::len)
        };
        for filter in [
            ["--host", "shop"],
            ["--path", "/shop-db.sql"],
            ["--tag", "source=deployment/shop/db"],
            ["--tag", "run=42/deployment/shop/db,proof=Acknowledged"],
            ["--tag", "sha256=3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"],
        ] {
            assert_eq!(found(filter), 1, "{restic:?} {filter:?}");
        }
        for filter in [["--host", "other"], ["--path", "/shop"], ["--tag", "unproven"]] {
            assert_eq!(found(filter), 0, "{restic:?} {filter:?}");
        }
        let snapshots = restic.json(dir.path(), &["snapshots", "--json", &id]);
        assert_eq!(snapshots[0]["paths"], serde_json::json!(["/shop-db.sql"]));
        assert_eq!(snapshots[0]["time"], "2026-05-04T03:02:01Z");
    }
}

#[tokio::test]
async fn repository_of_restic_is_read_and_extended() {
    let data = [noise(5 << 20, 4), vec![0; 1 << 20]].concat();
    for restic in both() {
        for version in ["1", "2"] {
            let dir = tempfile::tempdir().unwrap();
            restic.ok(dir.path(), &["init", "--repository-version", version]);
            restic.backup_stdin(dir.path(), "restic.sql", &data);
            let repository = open(folder(dir.path()), never()).await.unwrap();
            let by_restic = repository.snapshots().await.unwrap().remove(0);
            assert_eq!(
                (by_restic.identity.host.as_str(), by_restic.identity.path.as_str()),
                ("elsewhere", "/restic.sql")
            );
            assert!(collect(repository.read_file(&by_restic.id, "/restic.sql").await.unwrap()).await == data);
            let by_stowaway = store(&repository, "/stowaway.sql", &data).await;
            assert!(by_stowaway.added_bytes < 4096, "restic's chunks are found again: {by_stowaway:?}");
            repository.close().await;
            restic.check(dir.path());
            assert!(restic.ok(dir.path(), &["dump", &by_stowaway.snapshot, "/stowaway.sql"]) == data);
        }
    }
}

#[tokio::test]
async fn restic_backs_up_into_a_repository_of_stowaway_and_its_key_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    repository_with(dir.path(), "/db.sql", b"of stowaway").await;
    newest().backup_stdin(dir.path(), "restic.sql", b"of restic");
    // A key which restic added opens the repository for Stowaway.
    let passwords = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(passwords.path(), "second").unwrap();
    newest().ok(dir.path(), &["key", "add", "--new-password-file", passwords.path().to_str().unwrap()]);
    let mut access = folder(dir.path());
    access.password = Secret::new("second".to_owned());
    let repository = open(access, never()).await.unwrap();
    let snapshots = repository.snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 2);
    let by_restic = snapshots.iter().find(|snapshot| snapshot.identity.path == "/restic.sql").unwrap();
    assert_eq!(collect(repository.read_file(&by_restic.id, "/restic.sql").await.unwrap()).await, b"of restic");
}

#[tokio::test]
async fn prune_is_refused_while_we_hold_a_lock_and_names_us() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    for restic in both() {
        let refused = restic.run(dir.path(), &["prune"]);
        assert!(!refused.status.success());
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            stderr.contains("locked") && stderr.contains("pod UID 6f9619ff") && stderr.contains("runner-1"),
            "{stderr}"
        );
        // Commands which delete nothing are not blocked.
        restic.check_without_lock(dir.path());
        restic.ok(dir.path(), &["snapshots"]);
    }
    repository.close().await;
    for restic in both() {
        restic.ok(dir.path(), &["prune"]);
    }
}

#[tokio::test]
async fn exclusive_lock_of_restic_is_honoured() {
    let dir = tempfile::tempdir().unwrap();
    repository_with(dir.path(), "/db.sql", &noise(1 << 20, 5)).await;
    for restic in both() {
        let holding = ExclusiveLock::new(&restic, dir.path());
        let error = open(folder(dir.path()), never()).await.unwrap_err();
        assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
        assert_eq!(error.reason(), Reason::RepositoryLocked);
        assert!(error.to_string().contains(&format!("process {}", holding.0.id())), "{error}");
        drop(holding);
        restic.ok(dir.path(), &["unlock"]);
        open(folder(dir.path()), never()).await.unwrap().close().await;
    }
}

/// A `restic check` which was stopped while it holds its exclusive lock.
pub struct ExclusiveLock(std::process::Child);

impl ExclusiveLock {
    pub fn new(restic: &Restic, repository: &Path) -> Self {
        use std::io::Read;
        // `prune` cannot be paused while it holds its lock. `check` can: it prints that it creates the lock, and then
        // blocks on a pipe without a reader.
        let mut child = restic
            .command(repository)
            .args(["check", "--read-data"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut printed = String::new();
        let mut byte = [0];
        while !printed.contains("create exclusive lock") {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "restic ended: {printed}");
            printed.push(char::from(byte[0]));
        }
        // restic writes a lock under another name and renames it. Stopped before the rename, it would not hold the
        // lock.
        while locks_in(repository).is_empty() {
            std::thread::yield_now();
        }
        let stopped = Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap();
        assert!(stopped.success());
        Self(child)
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn remains_of_a_failed_run_are_pruned_and_harm_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(dir.path()).await;
    store(&repository, "/db.sql", b"good").await;
    let mut sent = whole(&noise(40 << 20, 6));
    sent.pop();
    store_pieces(&repository, "/db.sql", sent).await.unwrap_err();
    repository.close().await;
    for restic in [oldest(), newest()] {
        restic.check(dir.path());
        restic.ok(dir.path(), &["prune"]);
        restic.check(dir.path());
    }
    assert_eq!(files_in(dir.path(), "data").len(), 2);
}

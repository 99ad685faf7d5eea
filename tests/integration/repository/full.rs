//! Stores without free space: the error names the cause, no partial snapshot is visible, and the next run succeeds once
//! there is space.

use std::{path::Path, process::Command};

use stowaway::repository::{RepositoryError, create};

use super::{servers, *};

#[tokio::test]
async fn rest_server_at_its_quota_is_full() {
    let server = servers::rest_with(&["--max-size", "3000000"]);
    let repository = create(server.access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"small").await;
    let error = store_pieces(&repository, "/db.sql", whole(&noise(8 << 20, 6))).await.unwrap_err();
    assert!(matches!(error, RepositoryError::StoreFull { .. }), "{error}");
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    store(&repository, "/db.sql", b"small again").await;
}

/// A file system of its own in memory, until it is dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts: it needs root");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn ssh_server_whose_disk_is_full_is_full() {
    let disk = Small::mount("3m");
    let dir = disk.path().join("repository");
    let server = servers::sftp_in(&dir);
    let repository = create(server.access.clone(), never()).await.unwrap();
    store(&repository, "/db.sql", b"small").await;
    let error = store_pieces(&repository, "/db.sql", whole(&noise(8 << 20, 7))).await.unwrap_err();
    assert!(matches!(error, RepositoryError::StoreFull { .. }), "{error}");
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    // The written parts of packs are removed, including those of uploads which were given up.
    while files_in(&dir, "data").iter().any(|file| file.extension().is_some()) {
        tokio::task::yield_now().await;
    }
    store(&repository, "/db.sql", b"small again").await;
}

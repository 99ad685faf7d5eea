//! A repository of the earlier version: it is listed, checked, restored from, added to and pruned, by this version and by
//! restic alike.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use serde_json::Value;
use stowaway::repository::{Repository, open};

use super::fixture;
use crate::repository::{PASSWORD, folder, never, newest_of, restic, torture::folder_in};

/// A copy of the repository, with the empty directories that Git does not store.
fn copied(dir: &Path) -> PathBuf {
    let copy = dir.join("repository");
    let copied = Command::new("cp").arg("-r").args([&fixture("repository"), &copy]).status().unwrap();
    assert!(copied.success());
    for folder in ["data", "index", "keys", "locks", "snapshots"] {
        fs::create_dir_all(copy.join(folder)).unwrap();
    }
    copy
}

async fn opened(path: &Path) -> Repository {
    open(folder(path), never()).await.unwrap()
}

/// Runs this version's program on the repository, and returns its stdout.
fn stowaway(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_stowaway"))
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("RESTIC_REPOSITORY", repository)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn listed(repository: &Path) -> Vec<Value> {
    serde_json::from_slice(&stowaway(repository, &["snapshots", "--output", "json"])).unwrap()
}

#[test]
fn snapshots_are_listed_as_the_earlier_version_listed_them() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = fs::read_to_string(fixture("reports/snapshots.json")).unwrap();
    let earlier: Vec<Value> = serde_json::from_str(&earlier).unwrap();
    let now = listed(&copied(dir.path()));
    assert_eq!(now.len(), earlier.len());
    for snapshot in earlier {
        let same = now.iter().find(|other| other["id"] == snapshot["id"]).unwrap();
        for (field, value) in snapshot.as_object().unwrap() {
            assert_eq!(same[field], *value, "{field} of {}", snapshot["id"]);
        }
    }
}

#[tokio::test]
async fn all_data_of_the_repository_is_intact_and_restic_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let at = copied(dir.path());
    stowaway(&at, &["check", "--read-data"]);
    for restic in restic::both() {
        restic.check(&at);
    }
}

#[tokio::test]
async fn newest_good_snapshots_are_chosen_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let at = copied(dir.path());
    let repository = opened(&at).await;
    let snapshots = repository.snapshots().await.unwrap();
    // The two newer snapshots of the volume are tagged `unproven` and `safety`.
    let source = "pvc/data".parse().unwrap();
    let of_source = snapshots.iter().filter(|snapshot| snapshot.identity.tag("source") == Some("pvc/data"));
    let newest = newest_of(&snapshots, &source).unwrap();
    assert!(of_source.filter(|snapshot| snapshot.time > newest.time).count() == 2, "{snapshots:?}");
    let target = folder_in(dir.path(), "target");
    let restored = repository.restore_folder(&newest.id, "/data/data", &target, Arc::default()).await.unwrap();
    assert_eq!((restored.not_kept.count, restored.files > 0), (0, true), "{:?}", restored.not_kept);
    let content = fixture("content");
    for file in ["app.ini", "empty", "nested/numbers", "nested/hard-link"] {
        assert!(fs::read(target.join(file)).unwrap() == fs::read(content.join(file)).unwrap(), "{file}");
    }
    assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("nested/numbers"));
    assert!(!target.join("nested/trace.log").exists(), "what was excluded is not in the snapshot");
    repository.close().await;

    let command = ["sh", "-c", "cat >\"$0\"", dir.path().join("dump").to_str().unwrap()].map(str::to_owned);
    let arguments = ["restore", "--source", "deployment/db/postgres", "--"];
    stowaway(&at, &[&arguments[..], &command.each_ref().map(String::as_str)].concat());
    let dump = fs::read_to_string(dir.path().join("dump")).unwrap();
    assert!(dump.starts_with("INSERT INTO orders VALUES (1);") && dump.ends_with("VALUES (300);"), "{dump}");
}

#[tokio::test]
async fn this_version_adds_to_the_repository_forgets_and_prunes() {
    let dir = tempfile::tempdir().unwrap();
    let at = copied(dir.path());
    let before = listed(&at).len();
    let backup = ["backup", "--source", "deployment/db/postgres", "--host", "shop", "--stdin-filename", "shop-db.sql"];
    stowaway(&at, &[&backup[..], &["--", "seq", "-f", "INSERT INTO orders VALUES (%g);", "300"]].concat());
    assert_eq!(listed(&at).len(), before + 1);
    stowaway(&at, &["forget", "--keep-last", "1", "--keep-tag", "keep"]);
    let kept = listed(&at);
    assert!(kept.iter().any(|snapshot| snapshot["identity"]["tags"].to_string().contains("\"keep\"")), "{kept:?}");
    assert!(kept.len() < before, "{kept:?}");
    stowaway(&at, &["prune"]);
    restic::newest().check(&at);
    let repository = opened(&at).await;
    let snapshots = repository.snapshots().await.unwrap();
    let newest = newest_of(&snapshots, &"pvc/data".parse().unwrap()).unwrap();
    let target = folder_in(dir.path(), "target");
    repository.restore_folder(&newest.id, "/data/data", &target, Arc::default()).await.unwrap();
    assert!(fs::read(target.join("nested/numbers")).unwrap() == fs::read(fixture("content/nested/numbers")).unwrap());
}

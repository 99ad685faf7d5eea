//! Exclude patterns leave out the same entries as they do in restic, and the run reports how many.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use stowaway::{
    model::{Excludes, Reason, Verdict},
    repository::FolderRules,
    runner::{VolumeRun, backup_volume},
};

use super::{folders::claim, restic::newest, torture::folder_in, *};

fn fill(root: &Path) {
    for folder in ["a/b/c", "cache/deep", "x/a/b", "x/cache", "{x}", "lost/and"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in [
        "app.log",
        "a/app.log",
        "a/b/file",
        "a/b/c/file",
        "cache/file",
        "cache/deep/file",
        "x/cache/file",
        "x/a/b/file",
        "x/caches",
        "{x}/file",
        "!important",
        "star*",
        "lost/and/found",
        ".hidden",
        "a/.hidden",
        "a/b/axb",
        "a/b/a-b",
    ] {
        fs::write(root.join(file), file).unwrap();
    }
    for name in [b"no\xffutf8.log".as_slice(), b"no\xfe", b"new\nline"] {
        fs::write(root.join("a").join(OsStr::from_bytes(name)), "x").unwrap();
    }
}

/// All entries below a folder.
fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    fn collect(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(root).unwrap().to_owned());
            if path.is_dir() {
                collect(root, &path, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    collect(folder, folder, &mut found);
    found
}

fn excluding(patterns: &[&str]) -> FolderRules {
    let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    FolderRules { excludes: Excludes::new(&patterns).unwrap(), ..FolderRules::whole(Timestamp::now()) }
}

#[tokio::test]
async fn patterns_leave_out_what_they_leave_out_with_restic() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fill(&source);
    let cases: &[&[&str]] = &[
        &["cache"],
        &["cache/"],
        &["/cache"],
        &["*.log"],
        &["/*.log"],
        &["/a/*.log"],
        &["a/b"],
        &["/a/b"],
        &["/a/**/file"],
        &["a/**/file"],
        &["**/c"],
        &["/**/deep"],
        &["x/*/file"],
        &["a/b/*"],
        &["a[+-9]b", "star\\*"],
        &["a/**"],
        &["/x/**"],
        &["a**b"],
        &["a[^y]b"],
        &["\\{x\\}", "\\!important"],
        &[".h*"],
        &["no?*"],
        &["new?line", "*.log", "/lost/and/found"],
        &["nothing of it"],
    ];
    for (number, patterns) in cases.iter().enumerate() {
        let stored = repository.store_folder(&claim(), &excluding(patterns), &source, Arc::default()).await.unwrap();
        let by_stowaway = folder_in(dir.path(), &format!("by-stowaway-{number}"));
        repository.restore_folder(&stored.snapshot, "/data/claim", &by_stowaway, Arc::default()).await.unwrap();

        let mut backup = newest().command(&at);
        backup.current_dir(&source).args(["backup", "--json", "."]);
        for pattern in *patterns {
            // In restic an absolute pattern refers to the file system, in Stowaway to the volume.
            let anchored = pattern.strip_prefix('/').map(|pattern| format!("{}/{pattern}", source.display()));
            backup.arg("--exclude").arg(anchored.unwrap_or_else(|| (*pattern).to_owned()));
        }
        let output = backup.output().unwrap();
        assert!(output.status.success(), "{patterns:?}: {}", String::from_utf8_lossy(&output.stderr));
        let stdout = String::from_utf8(output.stdout).unwrap();
        let summary: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        let by_restic = folder_in(dir.path(), &format!("by-restic-{number}"));
        newest()
            .ok(&at, &["restore", summary["snapshot_id"].as_str().unwrap(), "--target", by_restic.to_str().unwrap()]);

        let (all, by_stowaway, by_restic) = (entries(&source), entries(&by_stowaway), entries(&by_restic));
        assert_eq!(by_stowaway, by_restic, "{patterns:?}");
        assert_eq!(stored.left_out == 0, by_stowaway == all, "{patterns:?}");
    }
}

#[tokio::test]
async fn excluded_entries_are_counted_and_the_patterns_are_in_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fill(&source);
    let stored =
        repository.store_folder(&claim(), &excluding(&["/cache", "*.log"]), &source, Arc::default()).await.unwrap();
    // An excluded folder counts once: one folder and three log files.
    assert_eq!((stored.left_out, stored.vanished, stored.unreadable.count), (4, 0, 0));
    repository.store_folder(&claim(), &FolderRules::whole(Timestamp::now()), &source, Arc::default()).await.unwrap();
    repository.close().await;
    newest().check(&at);
    let snapshots = newest().json(&at, &["cat", "snapshot", &stored.snapshot]);
    assert_eq!(snapshots["excludes"], serde_json::json!(["/cache", "*.log"]));
    let ids = newest().json(&at, &["snapshots", "--json"]);
    assert!(ids.as_array().unwrap().iter().any(|snapshot| snapshot.get("excludes").is_none()), "{ids}");
}

#[tokio::test]
async fn patterns_that_leave_no_file_at_all_make_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("repository");
    let repository = new_repository(&at).await;
    let source = folder_in(dir.path(), "source");
    fs::create_dir(source.join("empty")).unwrap();
    fs::write(source.join("only.log"), "x").unwrap();
    for pattern in ["/**", "*.log"] {
        let error =
            repository.store_folder(&claim(), &excluding(&[pattern]), &source, Arc::default()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(error.to_string().contains(&format!("excluded by the pattern {pattern} (")), "{error}");
        // Trees without a snapshot would look like the data of a lost one, and would hold up the first start of an app.
        assert!(files_in(&at, "data").is_empty() && files_in(&at, "index").is_empty(), "{pattern}");
    }
    assert!(repository.snapshots().await.unwrap().is_empty());
    // Without any file the patterns have excluded nothing.
    fs::remove_file(source.join("only.log")).unwrap();
    repository.store_folder(&claim(), &excluding(&["*.log"]), &source, Arc::default()).await.unwrap();
}

#[tokio::test]
async fn run_leaves_out_what_is_excluded_and_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let repository = new_repository(&dir.path().join("repository")).await;
    let source = folder_in(dir.path(), "source");
    fill(&source);
    let run = |patterns: &[&str]| VolumeRun {
        identity: claim(),
        exclude: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        accept_shrunken: false,
        timeout: None,
    };
    let report = backup_volume(&repository, run(&["/cache"]), &source, Arc::default()).await;
    assert_eq!(report.verdict, Verdict::Succeeded, "{report:?}");
    assert!(report.message.contains("1 entry is left out"), "{report:?}");
    let listed = entries_of(&repository, report.snapshot.as_deref().unwrap()).await;
    let is_there = |path: &str| listed.iter().any(|entry| entry.path == path);
    assert!(is_there("/data/claim/x/cache/file") && !is_there("/data/claim/cache/file"));
    let report = backup_volume(&repository, run(&["/*"]), &source, Arc::default()).await;
    assert_eq!((report.verdict, report.reason, report.snapshot), (Verdict::Failed, Reason::InvalidRequest, None));
    for part in ["of /data/claim is left", "the pattern /* (", "stowaway.dev/exclude of the claim"] {
        assert!(report.message.contains(part), "{}", report.message);
    }
    let report = backup_volume(&repository, run(&["!x"]), &source, Arc::default()).await;
    assert_eq!((report.verdict, report.reason, report.snapshot), (Verdict::Failed, Reason::InvalidRequest, None));
}

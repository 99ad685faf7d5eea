//! Restores which are interrupted, and volumes which change during a restore: no backup and no restore takes the mixture
//! for the data.

use std::{
    fs,
    process::{Child, Command},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use stowaway::model::RunReport;

use super::{
    refusals::{Case, outcome},
    restic::newest,
    system_calls::{can_inject, failing},
    torture::names_in,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_stowaway");

/// The program which strace runs. At its start, strace has other children, too.
fn traced_by(strace: &Child) -> Pid {
    let path = format!("/proc/{0}/task/{0}/children", strace.id());
    let is_program =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "stowaway\n");
    loop {
        let children = fs::read_to_string(&path).unwrap();
        if let Some(pid) = children.split_whitespace().find(is_program) {
            return Pid::from_raw(pid.parse().unwrap()).unwrap();
        }
        thread::yield_now();
    }
}

/// Whether the program is stopped by a signal. Panics if the program has ended.
fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    matches!(after_name.chars().next(), Some('T' | 't'))
}

#[tokio::test]
async fn interrupted_restore_below_the_root_of_a_claim_is_stored_by_no_backup_until_it_is_completed() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    for name in ["a", "b", "c"] {
        fs::write(case.source().join(name), name).unwrap();
    }
    assert_eq!(outcome(&case.store(None)).0, "Succeeded");
    let restore = |command: Command, folder: &str, overwrite: bool| {
        let mut kind = json!({ "do": "restoreVolume", "from": { "source": "pvc/claim" }, "folder": folder });
        if overwrite {
            kind["overwrite"] = json!({ "host": "host", "path": "/data/claim", "tags": ["safety"] });
        }
        let output = case.task(command, &kind).arg("runner").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // The first entry is moved, and the next ones are not.
    let (is_done, log) = restore(failing("renameat2:error=EIO:when=2+", PROGRAM), "below", false);
    assert!(!is_done, "{log}");
    assert_eq!(names_in(&case.source().join("below")).len(), 1, "{log}");
    let report = case.store(None);
    assert_eq!(outcome(&report), ("Failed".into(), "RestoreUnfinished".into()), "{}", report.message);
    // Another restore without overwrite changes nothing, and one with overwrite completes the first one.
    let (is_done, log) = restore(Command::new(PROGRAM), "other", false);
    assert!(!is_done && log.contains("has an earlier restore, which was interrupted"), "{log}");
    let (is_done, log) = restore(Command::new(PROGRAM), "other", true);
    assert!(is_done, "{log}");
    for folder in ["below", "other"] {
        let mut names = names_in(&case.source().join(folder));
        names.sort();
        assert_eq!(names, ["a", "b", "c"], "{folder}");
    }
    assert_eq!(outcome(&case.store(None)).0, "Succeeded");
}

#[tokio::test]
async fn every_safety_snapshot_of_a_restore_is_named() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    let names = ["a", "b", "c"];
    for name in names {
        fs::write(case.source().join(name), name).unwrap();
    }
    assert_eq!(outcome(&case.store(None)).0, "Succeeded");
    let below = case.source().join("below");
    let mut kind = json!({ "do": "restoreVolume", "from": { "source": "pvc/claim" }, "folder": "below" });
    // The first entry is moved, and the next ones are not.
    case.task(failing("renameat2:error=EIO:when=2+", PROGRAM), &kind).arg("runner").output().unwrap();
    assert_eq!(names_in(&below).len(), 1);
    for name in names {
        fs::write(below.join(name), "of the app").unwrap();
    }
    // The first safety snapshot precedes the move of the remaining entries, and the last one the restore itself.
    kind["overwrite"] = json!({ "host": "host", "path": "/data/claim", "tags": ["safety"] });
    case.task(Command::new(PROGRAM), &kind).arg("runner").output().unwrap();
    let report = case.report();
    assert_eq!(outcome(&report).0, "Succeeded", "{}", report.message);
    let [first, .., last] = &report.safety_snapshots[..] else { panic!("{:?}", report.safety_snapshots) };
    assert_eq!(report.safety_snapshot.as_ref(), Some(last));
    for id in &report.safety_snapshots {
        assert!(report.message.contains(&id[..8]), "{id}: {}", report.message);
    }
    for name in names {
        let path = format!("/data/claim/below/{name}");
        assert_eq!(newest().ok(&case.repository(), &["dump", first, &path]), b"of the app", "{name}");
        assert_eq!(fs::read_to_string(below.join(name)).unwrap(), name);
    }
}

/// Runs the restore, and calls `change` when the run has restored `entry` beside the target and has moved nothing.
fn restored_while(case: &Case, kind: &serde_json::Value, entry: &str, change: impl FnOnce()) -> RunReport {
    let mut command = case.task(failing("syncfs:signal=SIGSTOP:when=1", PROGRAM), kind);
    let mut strace = command.arg("runner").spawn().unwrap();
    let run = traced_by(&strace);
    let restored = case.source().join(".stowaway-restore.part").join(entry);
    while !(restored.exists() && is_stopped(run)) {
        thread::yield_now();
    }
    change();
    // Each thread that calls it stops once.
    while strace.try_wait().unwrap().is_none() {
        let _ = kill_process(run, Signal::CONT);
        thread::yield_now();
    }
    case.report()
}

#[tokio::test]
async fn change_of_an_app_during_an_overwrite_is_in_the_safety_snapshot() {
    if !can_inject() {
        return;
    }
    let case = Case::new().await;
    fs::write(case.source().join("file"), "stored").unwrap();
    assert_eq!(outcome(&case.store(None)).0, "Succeeded");
    fs::write(case.source().join("file"), "present").unwrap();
    let kind = json!({
        "do": "restoreVolume", "from": { "source": "pvc/claim" },
        "overwrite": { "host": "host", "path": "/data/claim", "tags": ["safety"] },
    });
    let report = restored_while(&case, &kind, "file", || fs::write(case.source().join("file"), "late").unwrap());
    assert_eq!(outcome(&report).0, "Succeeded", "{}", report.message);
    assert_eq!(fs::read(case.source().join("file")).unwrap(), b"stored");
    let safety = report.safety_snapshot.unwrap();
    assert_eq!(newest().ok(&case.repository(), &["dump", &safety, "/data/claim/file"]), b"late");
}

#[tokio::test]
async fn data_of_an_app_that_starts_during_a_restore_is_not_mixed_with_the_restored_data() {
    if !can_inject() {
        return;
    }
    for folder in ["", "below"] {
        let case = Case::new().await;
        fs::write(case.source().join("stored"), "stored").unwrap();
        assert_eq!(outcome(&case.store(None)).0, "Succeeded");
        fs::remove_file(case.source().join("stored")).unwrap();
        let kind = json!({ "do": "restoreVolume", "from": { "source": "pvc/claim" }, "folder": folder });
        let report = restored_while(&case, &kind, "stored", || {
            fs::write(case.source().join(folder).join("initdb"), "of the app").unwrap();
        });
        assert_eq!(outcome(&report), ("Failed".into(), "TargetNotEmpty".into()), "{}", report.message);
        assert!(report.message.contains("another process has written into it"), "{}", report.message);
        assert_eq!(names_in(&case.source().join(folder)), ["initdb"]);
    }
}

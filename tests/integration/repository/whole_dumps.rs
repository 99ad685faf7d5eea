//! A command which exits with 0 after half a dump stores nothing: a pipe failed, a background process holds stdout, or
//! the end of the format is missing. A failure that the exit status hides is reported.

use std::{path::Path, process::Output};

use super::command_line::stowaway;

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recognise/src/samples/pg_dump.sql");
const LOCKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recognise/src/samples/sqlite_locked.sql");

fn backup(repository: &Path, options: &[&str], command: &[&str]) -> (i32, String) {
    let begin = ["backup", "--repository", repository.to_str().unwrap(), "--init"];
    let output = stowaway(&[], &[&begin[..], options, &["--"], command].concat());
    (output.status.code().unwrap(), text(&output))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn snapshots(repository: &Path) -> usize {
    let list = ["snapshots", "--repository", repository.to_str().unwrap(), "--output", "json"];
    let rows: serde_json::Value = serde_json::from_slice(&stowaway(&[], &list).stdout).unwrap();
    rows.as_array().unwrap().len()
}

#[test]
fn half_a_dump_of_a_command_that_exits_0_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let half = format!("head -c 2000 {DUMP}");
    for (command, parts) in [
        // The first command of a pipe fails.
        (
            &["bash", "-c", "cat /no/such/file | gzip"][..],
            &["CommandFailed", "stowaway.dev/pipefail", "set +o pipefail"][..],
        ),
        (&["bash", "-c", "(echo half; exit 3) | cat"], &["CommandFailed", "status 3", "pipefail"]),
        (&["bash", "-c", "yes | head -n 3"], &["(PIPE)", "such as head", "pipefail"]),
        // dash may not support pipefail.
        (&["dash", "-c", "cat /no/such/file | gzip"], &["verdict Failed"]),
        (&["sh", "-c", &format!("{half} | gzip")], &["Truncated", "PostgreSQL dump in gzip", "format-check"]),
        // The end of the format is missing.
        (&["head", "-c", "2000", DUMP], &["Truncated", "dump complete", "stowaway.dev/format-check"]),
        // Text before the dump does not hide that the end is missing.
        (
            &["sh", "-c", &format!("echo 'mysqldump: [Warning] insecure' && echo 'SET x;' && {half}")],
            &["Truncated", "PostgreSQL dump"],
        ),
        (&["sh", "-c", &format!("(echo && {half}) | gzip")], &["Truncated", "PostgreSQL dump in gzip"]),
        // The first of two dumps is truncated, and the second is whole.
        (
            &["sh", "-c", &format!("{half}; cat {DUMP}")],
            &["Truncated", "dump 1 is missing before the next dump begins"],
        ),
        (&["sh", "-c", &format!("{half} | gzip; gzip -c {DUMP}")], &["Truncated", "before the next dump begins"]),
        (&["cat", LOCKED], &["Truncated", "SQLite dump", "an error of sqlite3"]),
        // The process which holds stdout open may write more.
        (&["sh", "-c", "sleep 1000 & echo early"], &["OutputHeldOpen", "`wait`"]),
    ] {
        let (status, printed) = backup(&repository, &[], command);
        assert_eq!(status, 1, "{command:?}: {printed}");
        assert!(parts.iter().all(|part| printed.contains(part)), "{command:?}: {printed}");
        assert_eq!(snapshots(&repository), 0, "{command:?}: {printed}");
    }
}

#[test]
fn whole_dumps_and_those_that_are_meant_to_be_so_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    let whole = format!("cat {DUMP} | gzip");
    let after_text = format!("echo 'CREATE DATABASE shop;' && cat {DUMP}");
    for (options, command, part) in [
        (&[][..], &["sh", "-c", whole.as_str()][..], "PostgreSQL dump in gzip"),
        (&[], &["cat", DUMP], "is PostgreSQL dump and complete"),
        (&[], &["cat", DUMP, DUMP], "is PostgreSQL dump and complete"),
        (&[], &["sh", "-c", after_text.as_str()], "is PostgreSQL dump and complete"),
        (&[], &["bash", "-c", "set +o pipefail; (echo half; exit 3) | cat"], "Succeeded"),
        (&["--no-format-check"], &["head", "-c", "2000", DUMP], "Succeeded"),
        (&["--allow-empty"], &["bash", "-c", "gzip </dev/null"], "Succeeded"),
        (&[], &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo early"], "Succeeded"),
    ] {
        let before = snapshots_or_none(&repository);
        let (status, printed) = backup(&repository, options, command);
        assert!(status == 0 && printed.contains(part), "{command:?}: {printed}");
        assert_eq!(snapshots(&repository), before + 1, "{command:?}: {printed}");
    }
}

fn snapshots_or_none(repository: &Path) -> usize {
    if repository.exists() { snapshots(repository) } else { 0 }
}

#[test]
fn green_run_of_a_script_that_continues_after_a_failed_command_reports_it() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("repository");
    for (script, part) in [
        ("cat /no/such/file; echo second", "only the last command of the script is judged by its exit status"),
        ("cat /no/such/file\necho second", "begin the script with `set -e;`"),
        ("cat /no/such/file >/dev/null 2>&1 & echo second", "does not collect its exit status"),
    ] {
        let (status, printed) = backup(&repository, &[], &["sh", "-c", script]);
        assert!(status == 0 && printed.contains(part), "{script}: {printed}");
    }
    // With the advice, the same failure is no success.
    let (status, printed) = backup(&repository, &[], &["sh", "-c", "set -e; cat /no/such/file; echo second"]);
    assert!(status == 1 && printed.contains("CommandFailed"), "{printed}");
    let (status, printed) = backup(&repository, &[], &["sh", "-c", "set -e; echo first; echo second"]);
    assert!(status == 0 && !printed.contains("only the last command"), "{printed}");
}

#[test]
fn shell_without_pipefail_is_named_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let has_it = std::process::Command::new("dash").args(["-c", "set -o pipefail"]).output().unwrap().status.success();
    let (status, printed) =
        backup(&folder.path().join("repository"), &[], &["dash", "-c", "(echo half; exit 3) | cat"]);
    if has_it {
        assert_eq!(status, 1, "{printed}");
    } else {
        assert!(status == 0 && printed.contains("only the last command of the script's pipe was judged"), "{printed}");
    }
}

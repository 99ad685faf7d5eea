//! Errors of system calls, which strace(1) injects. Tests which the machine cannot run are reported as SKIPPED.

use std::{ffi::OsStr, path::PathBuf, process::Command};

/// A command whose system calls fail, in the notation of strace's `inject`, several of them with spaces in between.
/// Only the injected calls are traced, because untraced calls cannot fail.
pub fn failing(injected: &str, program: impl AsRef<OsStr>) -> Command {
    failing_at(injected, &[], program)
}

/// Like [`failing`], but with paths only the calls which concern these paths fail and are counted. Without paths, each
/// thread counts all of its calls, those that load the program as well.
pub fn failing_at(injected: &str, paths: &[PathBuf], program: impl AsRef<OsStr>) -> Command {
    let calls = injected.split(' ').map(|one| one.split_once(':').unwrap().0).collect::<Vec<_>>().join(",");
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    for one in injected.split(' ') {
        command.args(["-e", &format!("inject={one}")]);
    }
    for path in paths {
        command.arg("-P").arg(path);
    }
    command.arg(program);
    command
}

/// Makes every file system look like NFS.
pub const ON_NFS: &str = "fstatfs:poke_exit=@arg2=6969000000000000";

/// Whether strace can make a call fail here. Prints why tests are skipped if not.
pub fn can_inject() -> bool {
    let works =
        failing("write:error=EIO", "echo").arg("x").output().is_ok_and(|output| output.status.code() == Some(1));
    if !works {
        crate::skipped("no strace, or it may not trace: errors of system calls were not tried");
    }
    works
}

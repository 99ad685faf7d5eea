//! Runs the real programs that a user would run: `stowaway`, `restic` and `kubectl`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The cache folder of the built programs, by the same rule as in `e2e/cluster/lib/settings.bash`.
pub fn cache() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let default =
        || env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from).join("stowaway");
    env::var_os("STOWAWAY_CACHE").map_or_else(default, PathBuf::from)
}

/// A program from the cache, or else from the PATH.
pub fn program(name: &str) -> PathBuf {
    let built = cache().join("bin").join(name);
    if built.exists() { built } else { PathBuf::from(name) }
}

/// The `stowaway` under test, which `cargo build` has built beside the tests.
pub fn stowaway() -> Result<PathBuf> {
    let own = env::current_exe().context("failed to find the test's own program")?;
    // A test is in the folder `deps` below `stowaway`; a program, such as `soak`, is beside it.
    let built = own.ancestors().skip(1).take(2).map(|folder| folder.join("stowaway")).find(|path| path.is_file());
    built.with_context(|| format!("no `stowaway` beside {}; run `cargo build` first", own.display()))
}

/// Runs to the end and returns stdout; an exit status other than 0 is an error that shows both outputs.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} ended with {}\nstdout: {}\nstderr: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(4000)]),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

/// Runs to the end, whatever the exit status.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {}", command.get_program().display()))
}

/// The ids and command lines of the processes of the pod with that UID. It works only for the built-in cluster, because
/// its node is this machine.
pub fn of_pod(uid: &str) -> Result<Vec<(String, String)>> {
    // An empty UID would match every process of this machine.
    ensure!(!uid.is_empty(), "a pod without a UID");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end between the listing and this read.
        let read = |file: &str| fs::read(path.join(file)).unwrap_or_default();
        if String::from_utf8_lossy(&read("cgroup")).contains(uid) {
            let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((id, String::from_utf8_lossy(&read("cmdline")).replace('\0', " ")));
        }
    }
    Ok(found)
}

/// Sends SIGKILL to a process.
pub fn kill(id: &str) -> Result<()> {
    run(Command::new("kill").args(["-s", "KILL", id])).map(|_| ())
}

/// A path in the clone of this source, for example its manifests.
pub fn clone_folder(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative)
}

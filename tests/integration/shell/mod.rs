//! The shell forms under real shells, each in its own container, and the runner's loops which talk to them.

pub mod container;
mod dump;
mod fake_carrier;
mod pipes;
mod protocol;
mod restore;
mod scripts;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use stowaway::seal::Nonce;

use self::container::{Container, Remote, eventually, is_root};
use crate::at_once;

/// A shell, as the arguments which start it.
type Shell = &'static [&'static str];

/// The shells found in containers.
const SHELLS: [Shell; 3] = [&["dash"], &["bash", "--posix"], &["busybox", "sh"]];
/// Longer than any operation of the tests, so that a hang becomes a failure.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub fn nonce() -> Nonce {
    Nonce::new(0x00c0_ffee_00c0_ffee_00c0_ffee_00c0_ffee)
}

pub fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A folder which other users can write to.
pub struct OpenFolder(tempfile::TempDir);

impl OpenFolder {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The process id which a command writes into the file `pid`. Waits for the file, and removes it.
    pub async fn pid(&self) -> String {
        let file = self.file("pid");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually(|| read().ends_with('\n')).await;
        let pid = read().trim().to_owned();
        std::fs::remove_file(file).unwrap();
        pid
    }
}

/// Common launches of a command: directly, in a pipeline, or in another session.
pub const LAUNCHES: [&str; 4] = ["plain", "pipeline", "setsid", "setsid in sh"];
/// Launches as another user, which need root.
pub const LAUNCHES_OF_ROOT: [&str; 5] = ["su", "su in sh", "sudo", "runuser", "setpriv"];

/// Each shell with each launch.
fn shells_and_launches() -> Vec<(Shell, &'static str)> {
    let of_root: &[&str] = if is_root() { &LAUNCHES_OF_ROOT } else { &[] };
    if of_root.is_empty() {
        eprintln!("not root: {LAUNCHES_OF_ROOT:?} are not tried");
    }
    SHELLS.iter().flat_map(|shell| LAUNCHES.iter().chain(of_root).map(move |launch| (*shell, *launch))).collect()
}

/// The command line for a script with this launch. The paths are absolute, because some builds of busybox prefer their
/// own applets, which support less.
pub fn by(launch: &str, script: &str) -> Vec<String> {
    match launch {
        "pipeline" => strings(&["sh", "-c", &format!("cat | sh -c '{script}'")]),
        "setsid" => strings(&["/usr/bin/setsid", "-w", "sh", "-c", script]),
        "setsid in sh" => strings(&["sh", "-c", &format!("setsid sh -c '{script}'; exit $?")]),
        "su" => strings(&["/usr/bin/su", "nobody", "-s", "/bin/sh", "-c", script]),
        "su in sh" => strings(&["sh", "-c", &format!("su nobody -s /bin/sh -c '{script}'; exit $?")]),
        "sudo" => strings(&["/usr/bin/sudo", "-u", "nobody", "sh", "-c", script]),
        "runuser" => strings(&["/usr/sbin/runuser", "-u", "nobody", "--", "sh", "-c", script]),
        "setpriv" => strings(&["/usr/bin/setpriv", "--reuid", "nobody", "--clear-groups", "sh", "-c", script]),
        _ => strings(&["sh", "-c", script]),
    }
}

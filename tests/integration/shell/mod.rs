//! The shell forms under real shells, each in a container of its own, and our loops that speak with them.

pub mod container;
mod dump;
mod fake_carrier;
mod pipes;
mod protocol;
mod restore;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use stowaway::seal::Nonce;

use self::container::{Container, Remote, eventually, is_root};
use crate::at_once;

/// A shell, as the words that start it.
type Shell = &'static [&'static str];

/// The shells that containers have.
const SHELLS: [Shell; 3] = [&["dash"], &["bash", "--posix"], &["busybox", "sh"]];
/// Nothing here takes that long; it turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_secs(90);

pub fn nonce() -> Nonce {
    Nonce::new(0x00c0_ffee_00c0_ffee_00c0_ffee_00c0_ffee)
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A folder that other users may write to.
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

    /// The number of the process that writes it into the file `pid`, once it has; the file is gone then.
    pub async fn pid(&self) -> String {
        let file = self.file("pid");
        let read = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually(|| read().ends_with('\n')).await;
        let pid = read().trim().to_owned();
        std::fs::remove_file(file).unwrap();
        pid
    }
}

/// Ways in which people start a command as somebody else, or out of its session.
pub const DETOURS: [&str; 4] = ["plain", "pipeline", "setsid", "setsid in sh"];
/// The same for those who may change users.
pub const DETOURS_OF_ROOT: [&str; 5] = ["su", "su in sh", "sudo", "runuser", "setpriv"];

/// Each shell with each detour.
fn shells_and_detours() -> Vec<(Shell, &'static str)> {
    let of_root: &[&str] = if is_root() { &DETOURS_OF_ROOT } else { &[] };
    if of_root.is_empty() {
        eprintln!("not root: {DETOURS_OF_ROOT:?} are not tried");
    }
    SHELLS.iter().flat_map(|shell| DETOURS.iter().chain(of_root).map(move |detour| (*shell, *detour))).collect()
}

/// The script by that detour. Paths, since some builds of busybox prefer applets of the same names that know less.
pub fn by(detour: &str, script: &str) -> Vec<String> {
    match detour {
        "pipeline" => words(&["sh", "-c", &format!("cat | sh -c '{script}'")]),
        "setsid" => words(&["/usr/bin/setsid", "-w", "sh", "-c", script]),
        "setsid in sh" => words(&["sh", "-c", &format!("setsid sh -c '{script}'; exit $?")]),
        "su" => words(&["/usr/bin/su", "nobody", "-s", "/bin/sh", "-c", script]),
        "su in sh" => words(&["sh", "-c", &format!("su nobody -s /bin/sh -c '{script}'; exit $?")]),
        "sudo" => words(&["/usr/bin/sudo", "-u", "nobody", "sh", "-c", script]),
        "runuser" => words(&["/usr/sbin/runuser", "-u", "nobody", "--", "sh", "-c", script]),
        "setpriv" => words(&["/usr/bin/setpriv", "--reuid", "nobody", "--clear-groups", "sh", "-c", script]),
        _ => words(&["sh", "-c", script]),
    }
}

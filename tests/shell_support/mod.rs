//! Runs the shell forms as a container runtime does: a session of their own, pipes, and (as root) only the capabilities
//! that a container has, so that processes of other users cannot be looked into.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::{path::Path, process::Stdio, time::Duration};

use stowaway::seal::{Nonce, Unsealer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

/// The shells that containers have.
pub const SHELLS: [&[&str]; 3] = [&["dash"], &["bash", "--posix"], &["busybox", "sh"]];
/// Nothing here takes that long; it turns a hang into a failure.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// What containerd and CRI-O give to a container by default.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
    +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

pub fn nonce() -> Nonce {
    Nonce::new(0x00c0_ffee_00c0_ffee_00c0_ffee_00c0_ffee)
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Whether we may change users; what needs it is not run otherwise.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// The line with another shell, and the way into it.
pub fn in_shell(shell: &[&str], line: &[String]) -> Vec<String> {
    let mut all = if is_root() { words(&["setpriv", &format!("--bounding-set={CAPABILITIES}")]) } else { vec![] };
    all.extend(words(shell));
    all.extend_from_slice(&line[1..]);
    all
}

/// One remote side.
pub struct Remote {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub unsealer: Unsealer,
}

impl Remote {
    pub fn start(shell: &[&str], line: &[String]) -> Self {
        let line = in_shell(shell, line);
        let mut child = Command::new("setsid")
            .args(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().unwrap(),
            stderr: child.stderr.take().unwrap(),
            child,
            unsealer: Unsealer::new(&nonce()),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A remote side that is gone shows in what it says.
        let _ = self.stdin.as_mut().unwrap().write_all(bytes).await;
    }

    /// Reads stdout until the trailer, or its end; gives the data.
    pub async fn read(&mut self) -> Vec<u8> {
        self.read_until(|unsealer, _| unsealer.exit_status().is_some()).await
    }

    pub async fn read_until(&mut self, mut is_enough: impl FnMut(&Unsealer, &[u8]) -> bool) -> Vec<u8> {
        let mut data = Vec::new();
        let mut buffer = vec![0; 65_536];
        while !is_enough(&self.unsealer, &data) {
            let length = timeout(DEADLINE, self.stdout.read(&mut buffer)).await.expect("no word for too long").unwrap();
            if length == 0 {
                break;
            }
            data.extend_from_slice(&self.unsealer.push(&buffer[..length]).unwrap());
        }
        data
    }

    pub async fn ready(&mut self) {
        self.read_until(|unsealer, _| unsealer.is_ready()).await;
        assert!(self.unsealer.is_ready(), "it refused: {:?}", self.child.wait().await);
    }

    /// Closes our side of everything, as a lost connection does; gives the exit status once the remote side is gone.
    pub async fn cut(mut self) -> Option<i32> {
        drop((self.stdin.take(), self.stdout, self.stderr));
        timeout(DEADLINE, self.child.wait()).await.expect("it lives on").unwrap().code()
    }
}

/// Waits until a file holds a line, which it gives.
pub async fn line_of(path: &Path) -> String {
    let wait = async {
        loop {
            if let Ok(text) = std::fs::read_to_string(path)
                && let Some((line, _)) = text.split_once('\n')
            {
                return line.to_owned();
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("no line in {}", path.display()))
}

/// Whether a process lives; one that nobody has reaped does not.
pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.starts_with(" Z") && !state.starts_with(" X"))
}

pub async fn is_gone(pid: &str) {
    eventually(|| !lives(pid)).await;
}

/// Waits for something that must come about.
pub async fn eventually(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it did not come about");
}

/// A folder that other users may write to.
pub fn open_folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// Ways in which people start a command as somebody else, or out of its session. Paths, since some builds of busybox
/// prefer applets of the same names that know less.
pub fn detours(script: &str) -> Vec<(&'static str, Vec<String>)> {
    let mut all = vec![
        ("plain", words(&["sh", "-c", script])),
        ("pipeline", words(&["sh", "-c", &format!("cat | sh -c '{script}'")])),
        ("setsid", words(&["/usr/bin/setsid", "-w", "sh", "-c", script])),
        ("setsid in sh", words(&["sh", "-c", &format!("setsid sh -c '{script}'; exit $?")])),
    ];
    if is_root() {
        all.extend([
            ("su", words(&["/usr/bin/su", "nobody", "-s", "/bin/sh", "-c", script])),
            ("su in sh", words(&["sh", "-c", &format!("su nobody -s /bin/sh -c '{script}'; exit $?")])),
            ("sudo", words(&["/usr/bin/sudo", "-u", "nobody", "sh", "-c", script])),
            ("runuser", words(&["/usr/sbin/runuser", "-u", "nobody", "--", "sh", "-c", script])),
            ("setpriv", words(&["/usr/bin/setpriv", "--reuid", "nobody", "--clear-groups", "sh", "-c", script])),
        ]);
    } else {
        eprintln!("not root: su, sudo, runuser and setpriv are not tried");
    }
    all
}

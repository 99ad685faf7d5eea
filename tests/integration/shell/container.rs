//! A container in miniature: processes and a `/proc` of its own, a process 1 that reaps nobody, and the capabilities that
//! a container has. Without root there is none of it: the shells then run among the processes of this machine.
//!
//! It must not know what runs in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use stowaway::seal::Unsealer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use super::{DEADLINE, nonce, words};

/// What containerd and CRI-O give to a container by default. Processes of other users cannot be looked into with it.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
    +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// Whether we may change users; what needs it is not run otherwise.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// One container; it ends with this value.
pub struct Container {
    /// Process 1, by its number outside.
    init: Option<String>,
    _unshare: Option<Child>,
}

impl Container {
    pub async fn start() -> Self {
        if !is_root() {
            return Self { init: None, _unshare: None };
        }
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let runs = unshare.stdout.as_mut().unwrap().read_u8();
        timeout(DEADLINE, runs).await.unwrap().unwrap();
        Self { init: Some(child_of(unshare.id().unwrap())), _unshare: Some(unshare) }
    }

    /// A line that runs the words in the container, as root of it.
    fn line_within(&self, line: Vec<String>) -> Vec<String> {
        let Some(init) = &self.init else { return line };
        [words(&["nsenter", "--target", init, "--pid", "--mount", "--"]), line].concat()
    }

    /// A line that runs a shell's line in the container with another shell, as `pods/exec` would but for the session.
    pub fn shell_within(&self, shell: &[&str], line: &[String]) -> Vec<String> {
        let limits = if is_root() { words(&["setpriv", &format!("--bounding-set={CAPABILITIES}")]) } else { vec![] };
        self.line_within([limits, words(shell), line[1..].to_vec()].concat())
    }

    /// What `/proc` says of a process within.
    pub fn process(&self, pid: &str) -> PathBuf {
        match &self.init {
            Some(init) => format!("/proc/{init}/root/proc/{pid}"),
            None => format!("/proc/{pid}"),
        }
        .into()
    }

    /// Whether a process lives; one that nobody has reaped does not.
    pub fn lives(&self, pid: &str) -> bool {
        is_alive(&self.process(pid))
    }

    pub async fn is_gone(&self, pid: &str) {
        eventually(|| !self.lives(pid)).await;
    }

    pub async fn kill(&self, pid: &str) {
        let line = self.line_within(words(&["kill", "-9", pid]));
        Command::new(&line[0]).args(&line[1..]).output().await.unwrap();
    }
}

/// The same by what `/proc` says of it.
pub fn is_alive(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.starts_with(" Z") && !state.starts_with(" X"))
}

/// The only child of a process, by its number.
pub fn child_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().trim().to_owned()
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

/// One remote side: a session of its own and three pipes, as a container runtime gives to an exec.
pub struct Remote {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub unsealer: Unsealer,
}

impl Remote {
    pub fn start(container: &Container, shell: &[&str], line: &[String]) -> Self {
        let mut line = container.shell_within(shell, line);
        // Behind nsenter, which forks: the shell is to lead the session.
        let at = line.iter().position(|word| word == "--").map_or(0, |at| at + 1);
        line.insert(at, "setsid".to_owned());
        let mut child = Command::new(&line[0])
            .args(&line[1..])
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

    /// The shell's number outside of its container.
    pub fn shell(&self) -> String {
        child_of(self.child.id().unwrap())
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

//! A minimal container: a PID namespace with its own `/proc`, a process 1 which does not reap its children, and the
//! capabilities of a container. Without root the shells run among the processes of this machine instead.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use stowaway::seal::{UnsealError, Unsealer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use super::{DEADLINE, nonce, strings};

/// The default capabilities of containerd and CRI-O. They do not allow to inspect processes of other users.
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
    +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// Whether this process can change users. Launches which need that are skipped otherwise.
pub fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// A container; it ends when it is dropped.
pub struct Container {
    /// The process id of process 1 outside of the container.
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

    /// The command line to run `line` in the container, as its root.
    fn line_within(&self, line: Vec<String>) -> Vec<String> {
        let Some(init) = &self.init else { return line };
        [strings(&["nsenter", "--target", init, "--pid", "--mount", "--"]), line].concat()
    }

    /// The command line to run a shell's line in the container with another shell, as `pods/exec` does except for the
    /// session.
    pub fn shell_within(&self, shell: &[&str], line: &[String]) -> Vec<String> {
        let limits = if is_root() { strings(&["setpriv", &format!("--bounding-set={CAPABILITIES}")]) } else { vec![] };
        self.line_within([limits, strings(shell), line[1..].to_vec()].concat())
    }

    /// The folder in `/proc` of a process in the container.
    pub fn process(&self, pid: &str) -> PathBuf {
        match &self.init {
            Some(init) => format!("/proc/{init}/root/proc/{pid}"),
            None => format!("/proc/{pid}"),
        }
        .into()
    }

    /// Whether the process is alive. A zombie is not.
    pub fn lives(&self, pid: &str) -> bool {
        is_alive(&self.process(pid))
    }

    pub async fn wait_for_end(&self, pid: &str) {
        eventually(|| !self.lives(pid)).await;
    }

    pub async fn kill(&self, pid: &str) {
        let line = self.line_within(strings(&["kill", "-9", pid]));
        Command::new(&line[0]).args(&line[1..]).output().await.unwrap();
    }
}

/// Whether the process with this folder in `/proc` is alive.
pub fn is_alive(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, state)| !state.starts_with(" Z") && !state.starts_with(" X"))
}

/// The process id of the only child of a process.
pub fn child_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().trim().to_owned()
}

/// Waits until the condition holds.
pub async fn eventually(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, wait).await.expect("the condition never held");
}

/// A remote side of an exec: a session of its own and three pipes, as a container runtime provides them.
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
        // setsid must come after nsenter, which forks, because the shell must lead the session.
        let at = line.iter().position(|argument| argument == "--").map_or(0, |at| at + 1);
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

    /// The process id of the shell outside of the container.
    pub fn shell(&self) -> String {
        child_of(self.child.id().unwrap())
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // If the remote side has ended, its output shows it.
        let _ = self.stdin.as_mut().unwrap().write_all(bytes).await;
    }

    /// Reads stdout until the trailer or the end. Returns the data.
    pub async fn read(&mut self) -> Vec<u8> {
        self.read_until(|unsealer, _| unsealer.exit_status().is_some()).await
    }

    pub async fn read_until(&mut self, is_enough: impl FnMut(&Unsealer, &[u8]) -> bool) -> Vec<u8> {
        self.try_read_until(is_enough).await.unwrap()
    }

    /// Reads stdout until the trailer or the end, or until the stream contradicts the protocol.
    pub async fn try_read(&mut self) -> Result<Vec<u8>, UnsealError> {
        self.try_read_until(|unsealer, _| unsealer.exit_status().is_some()).await
    }

    async fn try_read_until(
        &mut self,
        mut is_enough: impl FnMut(&Unsealer, &[u8]) -> bool,
    ) -> Result<Vec<u8>, UnsealError> {
        let mut data = Vec::new();
        let mut buffer = vec![0; 65_536];
        while !is_enough(&self.unsealer, &data) {
            let length =
                timeout(DEADLINE, self.stdout.read(&mut buffer)).await.expect("no output before the deadline").unwrap();
            if length == 0 {
                break;
            }
            data.extend_from_slice(&self.unsealer.push(&buffer[..length])?);
        }
        Ok(data)
    }

    pub async fn ready(&mut self) {
        self.read_until(|unsealer, _| unsealer.is_ready()).await;
        assert!(self.unsealer.is_ready(), "the shell refused: {:?}", self.child.wait().await);
    }

    /// Closes all three pipes, as a lost connection does. Returns the exit status once the remote side has ended.
    pub async fn cut(mut self) -> Option<i32> {
        drop((self.stdin.take(), self.stdout, self.stderr));
        timeout(DEADLINE, self.child.wait()).await.expect("still alive").unwrap().code()
    }
}

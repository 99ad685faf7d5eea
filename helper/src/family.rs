//! All descendants of this process, and how to end them. This process is the subreaper, so orphaned descendants become
//! its children.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::fstat,
    process::{
        Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, set_child_subreaper, wait,
    },
};
use stowaway_protocol::Outcome;

/// The interval at which the processes are checked.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// Makes this process the subreaper of its descendants.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Whether all descendants are visible in `/proc`. Otherwise a command that runs as another user would not be found.
pub fn is_visible() -> Result<(), String> {
    let own = fs::read_link("/proc/self").map_err(|error| format!("/proc cannot be read: {error}"))?;
    if own.to_str() != Some(&getpid().to_string()) {
        return Err("/proc belongs to another PID namespace".to_owned());
    }
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
    let hides = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/proc") && fields.nth(1).is_some_and(|options| options.contains("hidepid="))
    });
    if hides { Err("/proc is mounted with hidepid".to_owned()) } else { Ok(()) }
}

/// Reaps all children that have ended.
pub fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// A child process that leads its descendants, and its outcome.
pub struct CommandProcess {
    pid: Pid,
    outcome: Option<Outcome>,
}

impl CommandProcess {
    /// Starts the process.
    pub fn start(command: &mut Command) -> io::Result<(Self, std::process::Child)> {
        let child = command.spawn()?;
        // A process number is positive.
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        Ok((Self { pid, outcome: None }, child))
    }

    /// The outcome of the process, if it has ended. Reaps all other ended children, too.
    pub fn outcome(&mut self) -> Option<Outcome> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.outcome = outcome_of(status);
            }
        }
        self.outcome
    }

    /// Sends a signal to this process only, not to its descendants. Does nothing once the process has ended, because
    /// its PID may be reused.
    pub fn signal_alone(&mut self, signal: Signal) {
        if self.outcome().is_none() {
            let _gone = kill_process(self.pid, signal);
        }
    }

    /// Ends the descendants with TERM, and after `timeout` with KILL. Only processes without children are signalled, so
    /// that their parents reap them. Where this program is not the subreaper, a database server that is process 1 would
    /// mistake an orphan which died of a signal for a crashed child of its own. After twice the timeout, all processes
    /// are killed. Processes that cannot be ended are left.
    pub fn end(&mut self, timeout: Duration) {
        let begin = Instant::now();
        let mut terminated = HashSet::new();
        while begin.elapsed() < timeout * 3 {
            self.outcome();
            let Ok(family) = descendants() else {
                self.end_group(timeout);
                return;
            };
            if family.is_empty() {
                return;
            }
            for process in &family {
                let is_parent = family.iter().any(|other| other.parent == process.pid);
                let elapsed = begin.elapsed();
                if is_parent && elapsed < timeout * 2 {
                    continue;
                }
                if elapsed >= timeout {
                    let _gone = kill_process(process.pid, Signal::KILL);
                } else if terminated.insert(process.pid) {
                    let _gone = kill_process(process.pid, Signal::TERM);
                }
            }
            sleep(CHECK_EVERY);
        }
        self.outcome();
    }

    /// Stops every descendant before the first one is killed, so that none sees the end of another: in `gunzip | psql`
    /// that would be an end of file. Returns when none is left, however long that takes.
    pub fn kill(&mut self) {
        let mut pause = Duration::from_millis(1);
        let mut was_empty = false;
        loop {
            self.outcome();
            match stop_all() {
                // One empty read is not enough: a process is missed if it is read before its parent, and the parent has
                // ended when it is read.
                Ok(family) if family.is_empty() && was_empty => return,
                Ok(family) => {
                    was_empty = family.is_empty();
                    for process in family {
                        let _gone = kill_process(process.pid, Signal::KILL);
                    }
                }
                // `/proc` was readable before, so it is unknown whether descendants are left.
                Err(_) => {
                    let _gone = kill_process_group(self.pid, Signal::KILL);
                }
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Ends only the process group, because without `/proc` the descendants are unknown.
    fn end_group(&mut self, timeout: Duration) {
        let begin = Instant::now();
        let _gone = kill_process_group(self.pid, Signal::TERM);
        while self.outcome().is_none() && begin.elapsed() < timeout {
            sleep(CHECK_EVERY);
        }
        let _gone = kill_process_group(self.pid, Signal::KILL);
        while self.outcome().is_none() && begin.elapsed() < timeout * 2 {
            sleep(CHECK_EVERY);
        }
    }
}

/// The descendants that hold an end of this pipe, as `process PID (NAME)`. Processes that may not be inspected are left
/// out.
pub fn holders(pipe: impl AsFd) -> Vec<String> {
    let Ok(pipe) = fstat(pipe) else { return Vec::new() };
    let is_it = |entry: io::Result<fs::DirEntry>| {
        entry
            .and_then(|entry| fs::metadata(entry.path()))
            .is_ok_and(|other| other.ino() == pipe.st_ino && other.dev() == pipe.st_dev)
    };
    let holds = |process: &Process| {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid.as_raw_pid()));
        descriptors.is_ok_and(|mut descriptors| descriptors.any(is_it))
    };
    let describe = |process: Process| {
        let pid = process.pid.as_raw_pid();
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", String::from_utf8_lossy(name.trim_ascii_end()))
    };
    descendants().unwrap_or_default().into_iter().filter(holds).map(describe).collect()
}

/// Sends STOP until no new process appears and all are stopped, parents before children, because `su` would continue
/// its child. A process in an uninterruptible call stops when the call returns, so the wait for it is bounded.
fn stop_all() -> io::Result<Vec<Process>> {
    let mut known = HashSet::new();
    for _ in 0..50 {
        let family = descendants()?;
        let mut is_new = false;
        for process in &family {
            is_new |= known.insert(process.pid);
            if !process.stopped {
                let _gone = kill_process(process.pid, Signal::STOP);
            }
        }
        if !is_new && family.iter().all(|process| process.stopped) {
            return Ok(family);
        }
        sleep(Duration::from_millis(1));
    }
    descendants()
}

/// A living process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Process {
    pid: Pid,
    parent: Pid,
    stopped: bool,
}

/// All living descendants of this process, parents before children.
fn descendants() -> io::Result<Vec<Process>> {
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)
            // A process that has ended meanwhile has no stat.
            && let Ok(stat) = fs::read(entry.path().join("stat"))
            && let Some(process) = parse(&stat)
        {
            others.push(process);
        }
    }
    let mut family = Vec::new();
    let mut parents = vec![getpid()];
    while !parents.is_empty() {
        let (children, rest): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|process| parents.contains(&process.parent));
        parents = children.iter().map(|child| child.pid).collect();
        family.extend(children);
        others = rest;
    }
    Ok(family)
}

/// Parses `/proc/PID/stat`. The name in it may contain blanks, ")" and newlines. None for a dead process. A process
/// whose first thread has ended looks dead, too, but lives as long as it has other threads.
fn parse(stat: &[u8]) -> Option<Process> {
    let opened = stat.iter().position(|byte| *byte == b'(')?;
    let closed = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = str::from_utf8(&stat[..opened]).ok()?.trim().parse().ok()?;
    let mut fields = str::from_utf8(&stat[closed + 1..]).ok()?.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let threads: u32 = fields.nth(15).map_or(Some(1), |threads| threads.parse().ok())?;
    if matches!(state, "Z" | "X" | "x") && threads <= 1 {
        return None;
    }
    Some(Process { pid: Pid::from_raw(pid)?, parent: Pid::from_raw(parent)?, stopped: matches!(state, "T" | "t") })
}

fn outcome_of(status: WaitStatus) -> Option<Outcome> {
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    status
        .exit_status()
        .map(|status| Outcome::Exited(small(status)))
        .or_else(|| status.terminating_signal().map(|signal| Outcome::Killed(small(signal))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_whatever_their_name_is() {
        let process = parse(b"42 (a) R 1 (\nb) S 7 42 42 0 -1").unwrap();
        assert_eq!((process.pid.as_raw_pid(), process.parent.as_raw_pid(), process.stopped), (42, 7, false));
        assert!(parse(b"42 (cat) T 7 42").unwrap().stopped);
        let first_thread = b"42 (java) Z 7 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0";
        assert!(!parse(first_thread).unwrap().stopped);
        assert_eq!(parse(b"42 (java) Z 7 42 42 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0"), None);
        for dead in [&b"42 (cat) Z 7 42"[..], b"42 (cat) X 7", b"", b"42", b"42 (cat", b"42 (cat)", b"1 (x) S 0 1"] {
            assert_eq!(parse(dead), None);
        }
    }
}

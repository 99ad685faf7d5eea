//! All processes that descend from this one, and their end. Whose parent dies becomes our child: we are the subreaper.
//!
//! It must not know what they do.

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
use stowaway_seal::Outcome;

/// How often to look again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Makes this process the one whose children all orphans of its family become.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Whether every process of the family can be seen: without that, a command of another user could not be found.
pub fn is_visible() -> Result<(), String> {
    let own = fs::read_link("/proc/self").map_err(|error| format!("/proc cannot be read: {error}"))?;
    if own.to_str() != Some(&getpid().to_string()) {
        return Err("/proc is of other processes than ours".to_owned());
    }
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
    let hides = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/proc") && words.nth(1).is_some_and(|options| options.contains("hidepid="))
    });
    if hides { Err("/proc is mounted with hidepid".to_owned()) } else { Ok(()) }
}

/// Takes leave of whoever died of the family.
pub fn take_leave() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// The command, and what is known of its end.
pub struct Leader {
    pid: Pid,
    outcome: Option<Outcome>,
}

impl Leader {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<(Self, std::process::Child)> {
        let child = command.spawn()?;
        // A process number is positive.
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
        Ok((Self { pid, outcome: None }, child))
    }

    /// How it ended, if it has. Takes leave of everybody else in the family who died, too.
    pub fn outcome(&mut self) -> Option<Outcome> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                self.outcome = outcome_of(status);
            }
        }
        self.outcome
    }

    /// A signal to this process and to none of its family; nothing once it has ended, since its number may be another's
    /// then.
    pub fn signal_alone(&mut self, signal: Signal) {
        if self.outcome().is_none() {
            let _gone = kill_process(self.pid, signal);
        }
    }

    /// TERM, and KILL after `patience`, always to those without children, whom their parents then reap. Where this program
    /// is no subreaper of theirs, a database server that is process 1 would take an orphan that died of a signal for a crashed
    /// child of its own. At last all of them; who cannot be ended is left.
    pub fn end(&mut self, patience: Duration) {
        let begin = Instant::now();
        let mut asked = HashSet::new();
        while begin.elapsed() < patience * 3 {
            self.outcome();
            let Ok(family) = descendants() else {
                self.end_group(patience);
                return;
            };
            if family.is_empty() {
                return;
            }
            for process in &family {
                let is_parent = family.iter().any(|other| other.parent == process.pid);
                let elapsed = begin.elapsed();
                if is_parent && elapsed < patience * 2 {
                    continue;
                }
                if elapsed >= patience {
                    let _gone = kill_process(process.pid, Signal::KILL);
                } else if asked.insert(process.pid) {
                    let _gone = kill_process(process.pid, Signal::TERM);
                }
            }
            sleep(LOOK_EVERY);
        }
        self.outcome();
    }

    /// Stops every process of the family before the first is killed, so that none sees another's end: in `gunzip | psql`
    /// that would be end of file. Returns when nobody is left, however long that takes.
    pub fn kill(&mut self) {
        let mut pause = Duration::from_millis(1);
        let mut was_empty = false;
        loop {
            self.outcome();
            match stop_all() {
                // Once is not enough: who was read before its parent, which was dead when its turn came, was missed.
                Ok(family) if family.is_empty() && was_empty => return,
                Ok(family) => {
                    was_empty = family.is_empty();
                    for process in family {
                        let _gone = kill_process(process.pid, Signal::KILL);
                    }
                }
                // It could be read before; the family is not known to be gone.
                Err(_) => {
                    let _gone = kill_process_group(self.pid, Signal::KILL);
                }
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Without a `/proc` only the group is known.
    fn end_group(&mut self, patience: Duration) {
        let begin = Instant::now();
        let _gone = kill_process_group(self.pid, Signal::TERM);
        while self.outcome().is_none() && begin.elapsed() < patience {
            sleep(LOOK_EVERY);
        }
        let _gone = kill_process_group(self.pid, Signal::KILL);
        while self.outcome().is_none() && begin.elapsed() < patience * 2 {
            sleep(LOOK_EVERY);
        }
    }
}

/// The processes of the family that have an end of this pipe, as `process PID (NAME)`. Those that cannot be looked into are
/// left out.
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

/// Sends STOP until nobody new appears and everybody stands still, parents before children: `su` would wake its child.
/// Who is in a call that cannot be interrupted stops when that returns, so it is not waited for without end.
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

/// One living process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Process {
    pid: Pid,
    parent: Pid,
    stopped: bool,
}

/// All that live and descend from this process, parents before children.
fn descendants() -> io::Result<Vec<Process>> {
    let mut others = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)
            // Who is gone by now has no stat any more.
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

/// Reads `/proc/PID/stat`: the name in it may hold blanks, ")" and newlines. Nothing for one that is dead; one whose first
/// thread has ended looks like it, and lives as long as it has others.
fn parse(stat: &[u8]) -> Option<Process> {
    let opened = stat.iter().position(|byte| *byte == b'(')?;
    let closed = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = str::from_utf8(&stat[..opened]).ok()?.trim().parse().ok()?;
    let mut words = str::from_utf8(&stat[closed + 1..]).ok()?.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    let threads: u32 = words.nth(15).map_or(Some(1), |threads| threads.parse().ok())?;
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

//! The process of one run: begun, listened to, told to end, and reaped, whatever it does.
//!
//! It must not know who watches.

use std::{
    io,
    os::fd::AsFd,
    process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{event::PollFlags, process::Signal};
use stowaway_seal::{Event, LONGEST_SIDECAR_LINE, Outcome};

use super::{Program, record::Record};
use crate::{
    descriptors::{self, Moved, Wanted},
    family::Leader,
};

/// What others may hold open of the streams of a process that has ended is not waited for longer.
const REMAINS: Duration = Duration::from_secs(2);
/// A longer line is cut; what goes before it in the telling needs room, too.
const LONGEST_LINE: usize = LONGEST_SIDECAR_LINE - 64;

/// One run that goes on.
pub struct Run {
    /// What happened in it.
    pub record: Record,
    leader: Leader,
    /// What of its task it was not given yet.
    task: Vec<u8>,
    /// Its end is the cancel, whether we wish it or die.
    stdin: Option<ChildStdin>,
    stdout: Lines<ChildStdout>,
    stderr: Lines<ChildStderr>,
    told_to_end: Option<Instant>,
    killed: bool,
    ended: Option<(Instant, Outcome)>,
}

impl Run {
    /// Begins it with its task, which is a line.
    pub fn start(program: &Program, record: Record, task: &[u8]) -> io::Result<Self> {
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (leader, mut child) = Leader::start(&mut command)?;
        let mut run = Self {
            record,
            leader,
            task: [task, b"\n"].concat(),
            stdin: child.stdin.take(),
            stdout: Lines::new(child.stdout.take()),
            stderr: Lines::new(child.stderr.take()),
            told_to_end: None,
            killed: false,
            ended: None,
        };
        if let Err(error) = run.never_block() {
            run.kill();
            return Err(error.into());
        }
        Ok(run)
    }

    /// What to wait for: its stdin for its task, its stdout, and its stderr.
    pub fn wanted(&self) -> [Option<Wanted<'_>>; 3] {
        let stdin = self.stdin.as_ref().filter(|_| !self.task.is_empty());
        [
            stdin.map(|stdin| (stdin.as_fd(), PollFlags::OUT)),
            self.stdout.from.as_ref().map(|stdout| (stdout.as_fd(), PollFlags::IN)),
            self.stderr.from.as_ref().map(|stderr| (stderr.as_fd(), PollFlags::IN)),
        ]
    }

    /// Whether it was told to end.
    pub fn is_told_to_end(&self) -> bool {
        self.told_to_end.is_some()
    }

    fn never_block(&self) -> rustix::io::Result<()> {
        self.stdin.iter().try_for_each(descriptors::never_block)?;
        self.stdout.from.iter().try_for_each(descriptors::never_block)?;
        self.stderr.from.iter().try_for_each(descriptors::never_block)
    }

    fn give_task(&mut self) {
        let Some(stdin) = self.stdin.as_ref().filter(|_| !self.task.is_empty()) else { return };
        match descriptors::write(stdin, &self.task) {
            Moved::Bytes(length) => drop(self.task.drain(..length)),
            Moved::Nothing => {}
            // One that is gone shows in its end.
            Moved::Ended => self.task.clear(),
        }
    }

    /// Takes in what it said, and what became of it; `echo` gets the lines of its log. True when it is over.
    pub fn tend(&mut self, patience: Duration, mut echo: impl FnMut(&str)) -> bool {
        if self.ended.is_none() {
            self.ended = self.leader.outcome().map(|outcome| (Instant::now(), outcome));
        }
        self.give_task();
        // Its log first, so that all of it comes before the report.
        while let Some(line) = self.stderr.next() {
            echo(&line);
            self.record.push(Event::Log(line));
        }
        while let Some(line) = self.stdout.next() {
            self.record.take(&line);
        }
        if self.record.has_ended() {
            // It has nothing left to do.
            self.cancel();
        }
        if self.ended.is_none() && self.told_to_end.is_some_and(|told| told.elapsed() >= patience) {
            self.kill();
        }
        let Some((since, outcome)) = self.ended else { return false };
        let is_open = self.stdout.from.is_some() || self.stderr.from.is_some();
        if is_open && since.elapsed() < REMAINS && !self.record.has_ended() {
            return false;
        }
        if !self.record.has_ended() {
            self.record.push(Event::Lost(self.describe(outcome)));
        }
        true
    }

    /// Tells it to end.
    pub fn cancel(&mut self) {
        self.stdin = None;
        self.told_to_end.get_or_insert_with(Instant::now);
    }

    /// How long there is nothing to do about it.
    pub fn rest(&self, patience: Duration) -> Duration {
        match (&self.ended, self.told_to_end) {
            (Some((since, _)), _) => REMAINS.saturating_sub(since.elapsed()),
            (None, Some(told)) if !self.killed => patience.saturating_sub(told.elapsed()),
            _ => Duration::MAX,
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        self.leader.signal_alone(Signal::KILL);
    }

    fn describe(&self, outcome: Outcome) -> String {
        let how = match outcome {
            Outcome::Exited(status) => format!("its process exited with status {status}"),
            Outcome::Killed(9) if !self.killed => {
                "its process was killed (signal 9), as happens when memory runs out".to_owned()
            }
            Outcome::Killed(signal) => format!("its process was ended by signal {signal}"),
            Outcome::InputLeft => "its process ended".to_owned(),
        };
        let told = if self.killed {
            ", since it did not end when told to"
        } else if self.told_to_end.is_some() {
            " after it was told to end"
        } else {
            ""
        };
        format!("{how}{told}, and left no report")
    }
}

/// Lines of a pipe that never blocks.
struct Lines<Pipe> {
    from: Option<Pipe>,
    held: Vec<u8>,
}

impl<Pipe: AsFd> Lines<Pipe> {
    fn new(from: Option<Pipe>) -> Self {
        Self { from, held: Vec::new() }
    }

    /// The next line that is there; what is left at the end is one, too.
    fn next(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        loop {
            let end = self.held.iter().position(|byte| *byte == b'\n');
            let is_long = end.unwrap_or(self.held.len()) >= LONGEST_LINE;
            if is_long || end.is_some() {
                let end = end.filter(|_| !is_long);
                let mut line: Vec<u8> = self.held.drain(..end.map_or(LONGEST_LINE, |end| end + 1)).collect();
                line.truncate(end.unwrap_or(LONGEST_LINE));
                return Some(text(&line));
            }
            match self.from.as_ref().map_or(Moved::Ended, |from| descriptors::read(from, &mut buffer)) {
                Moved::Bytes(length) => self.held.extend_from_slice(&buffer[..length]),
                Moved::Nothing => return None,
                Moved::Ended => {
                    self.from = None;
                    let rest = std::mem::take(&mut self.held);
                    return (!rest.is_empty()).then(|| text(&rest));
                }
            }
        }
    }
}

/// Bytes that are no UTF-8 take more room when they are replaced.
fn text(line: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    text.truncate(text.floor_char_boundary(LONGEST_LINE));
    text
}

//! The process of one run: starts it, reads its lines, cancels it and reaps it.

use std::{
    io,
    os::fd::AsFd,
    process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{event::PollFlags, process::Signal};
use stowaway_protocol::{Event, MAX_SIDECAR_LINE, Outcome};

use super::{Program, record::Record};
use crate::{
    descriptors::{self, Interest, IoResult},
    family::CommandProcess,
};

/// The time for which streams that other processes hold open are read after the process has ended.
const HELD_OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum length of a line. Longer lines are split. The number and the kind of the event need room, too.
const MAX_LINE: usize = MAX_SIDECAR_LINE - 64;

/// A run in progress.
pub struct Run {
    /// The lines of the run.
    pub record: Record,
    process: CommandProcess,
    /// The part of its task that was not written yet.
    task: Vec<u8>,
    /// Its end means cancel, also if this process dies.
    stdin: Option<ChildStdin>,
    stdout: Lines<ChildStdout>,
    stderr: Lines<ChildStderr>,
    cancelled_at: Option<Instant>,
    killed: bool,
    ended: Option<(Instant, Outcome)>,
}

impl Run {
    /// Starts the process, and writes its task, which is one line.
    pub fn start(program: &Program, record: Record, task: &[u8]) -> io::Result<Self> {
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (process, mut child) = CommandProcess::start(&mut command)?;
        let mut run = Self {
            record,
            process,
            task: [task, b"\n"].concat(),
            stdin: child.stdin.take(),
            stdout: Lines::new(child.stdout.take()),
            stderr: Lines::new(child.stderr.take()),
            cancelled_at: None,
            killed: false,
            ended: None,
        };
        if let Err(error) = run.never_block() {
            run.kill();
            return Err(error.into());
        }
        Ok(run)
    }

    /// The events to wait for: of its stdin for the task, of its stdout, and of its stderr.
    pub fn interest(&self) -> [Option<Interest<'_>>; 3] {
        let stdin = self.stdin.as_ref().filter(|_| !self.task.is_empty());
        [
            stdin.map(|stdin| (stdin.as_fd(), PollFlags::OUT)),
            self.stdout.from.as_ref().map(|stdout| (stdout.as_fd(), PollFlags::IN)),
            self.stderr.from.as_ref().map(|stderr| (stderr.as_fd(), PollFlags::IN)),
        ]
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled_at.is_some()
    }

    fn never_block(&self) -> rustix::io::Result<()> {
        self.stdin.iter().try_for_each(descriptors::never_block)?;
        self.stdout.from.iter().try_for_each(descriptors::never_block)?;
        self.stderr.from.iter().try_for_each(descriptors::never_block)
    }

    fn write_task(&mut self) {
        let Some(stdin) = self.stdin.as_ref().filter(|_| !self.task.is_empty()) else { return };
        match descriptors::write(stdin, &self.task) {
            IoResult::Bytes(length) => drop(self.task.drain(..length)),
            IoResult::Nothing => {}
            // The death of the process is detected by its outcome.
            IoResult::Ended => self.task.clear(),
        }
    }

    /// Reads the available lines, and updates the outcome. `echo` gets the log lines. Returns true if the run has
    /// ended.
    pub fn update(&mut self, timeout: Duration, mut echo: impl FnMut(&str)) -> bool {
        if self.ended.is_none() {
            self.ended = self.process.outcome().map(|outcome| (Instant::now(), outcome));
        }
        self.write_task();
        // The log first, so that all of it precedes the report.
        while let Some(line) = self.stderr.next() {
            echo(&line);
            self.record.push(Event::Log(line));
        }
        while let Some(line) = self.stdout.next() {
            self.record.take(&line);
        }
        if self.record.has_ended() {
            // The process has nothing left to do.
            self.cancel();
        }
        if self.ended.is_none() && self.cancelled_at.is_some_and(|at| at.elapsed() >= timeout) {
            self.kill();
        }
        let Some((since, outcome)) = self.ended else { return false };
        let is_open = self.stdout.from.is_some() || self.stderr.from.is_some();
        if is_open && since.elapsed() < HELD_OPEN_TIMEOUT && !self.record.has_ended() {
            return false;
        }
        if !self.record.has_ended() {
            self.record.push(Event::Lost(self.describe(outcome)));
        }
        true
    }

    /// Cancels the run.
    pub fn cancel(&mut self) {
        self.stdin = None;
        self.cancelled_at.get_or_insert_with(Instant::now);
    }

    /// The time until something is due.
    pub fn until_due(&self, timeout: Duration) -> Duration {
        match (&self.ended, self.cancelled_at) {
            (Some((since, _)), _) => HELD_OPEN_TIMEOUT.saturating_sub(since.elapsed()),
            (None, Some(at)) if !self.killed => timeout.saturating_sub(at.elapsed()),
            _ => Duration::MAX,
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        self.process.signal_alone(Signal::KILL);
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
        let cancelled = if self.killed {
            ", because it did not end after it was cancelled"
        } else if self.cancelled_at.is_some() {
            " after it was cancelled"
        } else {
            ""
        };
        format!("{how}{cancelled}, and left no report")
    }
}

/// Splits the bytes of a non-blocking pipe into lines.
struct Lines<Pipe> {
    from: Option<Pipe>,
    held: Vec<u8>,
}

impl<Pipe: AsFd> Lines<Pipe> {
    fn new(from: Option<Pipe>) -> Self {
        Self { from, held: Vec::new() }
    }

    /// The next complete line. The rest at the end of the pipe counts as a line, too.
    fn next(&mut self) -> Option<String> {
        let mut buffer = [0; 4096];
        loop {
            let end = self.held.iter().position(|byte| *byte == b'\n');
            let is_long = end.unwrap_or(self.held.len()) >= MAX_LINE;
            if is_long || end.is_some() {
                let end = end.filter(|_| !is_long);
                let mut line: Vec<u8> = self.held.drain(..end.map_or(MAX_LINE, |end| end + 1)).collect();
                line.truncate(end.unwrap_or(MAX_LINE));
                return Some(text(&line));
            }
            match self.from.as_ref().map_or(IoResult::Ended, |from| descriptors::read(from, &mut buffer)) {
                IoResult::Bytes(length) => self.held.extend_from_slice(&buffer[..length]),
                IoResult::Nothing => return None,
                IoResult::Ended => {
                    self.from = None;
                    let rest = std::mem::take(&mut self.held);
                    return (!rest.is_empty()).then(|| text(&rest));
                }
            }
        }
    }
}

/// Decodes a line and limits its length, because replacing invalid UTF-8 makes it longer.
fn text(line: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(line).into_owned();
    text.truncate(text.floor_char_boundary(MAX_LINE));
    text
}

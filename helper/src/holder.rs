//! The first of the two processes of a restore: it holds the command's pipes, too, so that the end of the second (as when
//! the kernel kills it for memory) is no end of the command's input.
//!
//! It must not know the protocol: the second, the *worker*, speaks it and starts the command.
//!
//! ```text
//! holder --- link ---- worker ---- command, in a process group of its own
//!   the end that is written to: holder and worker; before the word to go each of them keeps it until all are dead
//!   the ends that are read from: holder and worker, so that who writes there does not die of it and end others' input
//! ```
//!
//! - The worker dies: who descends from it becomes our child, and we end all of them before we let go.
//! - We die: the worker, whose child the command is, hears it by the link and does the same.
//! - The word to go comes: we let go first, and then the worker does. From then on the command may see the end of its input
//!   whoever dies, since all of it is verified.
//! - Both are killed in one moment: that is not held. Where the kernel does it for memory, the command dies with us: kubelet
//!   sets `memory.oom.group` on cgroup v2 from Kubernetes 1.28 on, unless `singleProcessOOMKill` says otherwise.

use std::{
    env,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
    time::Duration,
};

use rustix::{event::PollFlags, process::Signal};
use stowaway_seal::Outcome;

use crate::{
    REFUSED,
    arguments::HELD,
    descriptors,
    family::{self, Leader},
    link::{Heard, Link, Pipes},
    signals::Signals,
};

/// Whatever is waited for wakes us; this is for what nobody thought of.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Starts the worker with our own command line, holds until it has ended, and gives its exit status.
pub fn run() -> Result<u8, String> {
    family::is_visible().map_err(|why| format!("a restore is not safe here: {why}"))?;
    family::adopt_orphans().map_err(|error| format!("cannot become a subreaper: {error}"))?;
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    let holder = Holder::start().map_err(|error| format!("cannot start a second process: {error}"))?;
    Ok(holder.hold(&signals))
}

struct Holder {
    worker: Leader,
    /// Nothing once the worker is gone.
    link: Option<Link>,
    /// What the command's input is written to; nothing after the word to go.
    input: Option<OwnedFd>,
    /// What its stdout and stderr are read from, by the worker.
    _outputs: [OwnedFd; 2],
}

impl Holder {
    fn start() -> io::Result<Self> {
        let pipes = Pipes::new()?;
        let (link, workers) = Link::with(&pipes)?;
        let mut arguments = env::args_os();
        // The file that runs, whatever lies in its place by now.
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.arg(HELD).args(arguments).stdin(workers);
        let (worker, _) = Leader::start(&mut command)?;
        Ok(Self {
            worker,
            link: Some(link),
            input: Some(pipes.input.writer),
            _outputs: [pipes.output.reader, pipes.errors.reader],
        })
    }

    /// Until the worker has ended; gives the exit status of this program.
    fn hold(mut self, signals: &Signals) -> u8 {
        let mut has_passed_on = false;
        let outcome = loop {
            if let Some(outcome) = self.worker.outcome() {
                break outcome;
            }
            if signals.take() && !has_passed_on {
                self.worker.signal_alone(Signal::TERM);
                has_passed_on = true;
            }
            let link = self.link.as_ref().map(Link::wanted);
            descriptors::wait([link, Some((signals.descriptor(), PollFlags::IN))], LOOK_AGAIN);
            self.listen();
        };
        let is_held = self.input.is_some();
        let status = match outcome {
            Outcome::Exited(status) => Some(status),
            _ => None,
        };
        // One that exits by itself has seen to its command; before the word to go that is not taken on trust.
        if is_held || status.is_none() {
            self.worker.kill();
        }
        status.unwrap_or_else(|| {
            // Whoever does not hear it sees our exit status.
            let _unheard = writeln!(io::stderr(), "stowaway-helper: {}", lost(outcome, is_held));
            REFUSED
        })
    }

    fn listen(&mut self) {
        let Some(link) = &self.link else { return };
        match link.hear() {
            Heard::Word => {
                self.input = None;
                link.say();
            }
            Heard::Nothing => {}
            Heard::Gone => self.link = None,
        }
    }
}

/// What to say of a worker that was killed.
fn lost(outcome: Outcome, is_held: bool) -> String {
    let signal = match outcome {
        Outcome::Killed(signal) => format!(" (signal {signal})"),
        _ => String::new(),
    };
    let command = if is_held {
        "the command was killed before it could see an end of its input"
    } else {
        "the command had all of its input, and was killed if it still ran"
    };
    format!("one of its two processes was killed{signal}, as happens when memory runs out; {command}")
}

//! The first of the two processes of a restore, the *guard*. It holds the command's pipes, too, so that the command
//! sees no end of its input if the second process dies (for example, if the kernel kills it for memory). The second
//! process, the *worker*, speaks the protocol and starts the command.
//!
//! ```text
//! guard --- channel --- worker --- command, in its own process group
//!   writing end of the input: guard and worker; before GO each keeps it open until all other processes have ended
//!   reading ends of the outputs: guard and worker, so that writers do not die of SIGPIPE and thereby end others' input
//! ```
//!
//! - The worker dies: its descendants become children of the guard, which ends all of them before it closes the pipes.
//! - The guard dies: the worker, whose child the command is, sees the end of the channel and does the same.
//! - GO arrives: first the guard closes the input, then the worker. From then on the command may see the end of its
//!   input whichever process dies, because all input is verified.
//! - Both are killed at the same moment: the guarantee does not hold. If the kernel does that for memory, the command
//!   dies with them, because kubelet sets `memory.oom.group` on cgroup v2 from Kubernetes 1.28 on, unless
//!   `singleProcessOOMKill` is set.

use std::{
    env,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
    time::Duration,
};

use rustix::{event::PollFlags, process::Signal};
use stowaway_protocol::Outcome;

use crate::{
    REFUSED,
    arguments::HELD,
    descriptors,
    family::{self, CommandProcess},
    guard_channel::{GuardChannel, Pipes, Received},
    signals::Signals,
};

/// Upper bound of a wait. All expected events end a wait earlier.
const WAKE_PERIOD: Duration = Duration::from_mins(1);

/// Starts the worker with the command line of this process, guards the pipes until it has ended, and returns its exit
/// status.
pub fn run() -> Result<u8, String> {
    family::is_visible().map_err(|why| format!("a restore is not safe here: {why}"))?;
    family::adopt_orphans().map_err(|error| format!("cannot become a subreaper: {error}"))?;
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    let guard = InputGuard::start().map_err(|error| format!("cannot start a second process: {error}"))?;
    Ok(guard.hold(&signals))
}

struct InputGuard {
    worker: CommandProcess,
    /// None once the worker is gone.
    channel: Option<GuardChannel>,
    /// The writing end of the command's input; none after GO.
    input: Option<OwnedFd>,
    /// The reading ends of the command's stdout and stderr. The worker reads them.
    _outputs: [OwnedFd; 2],
}

impl InputGuard {
    fn start() -> io::Result<Self> {
        let pipes = Pipes::new()?;
        let (channel, workers) = GuardChannel::create(&pipes)?;
        let mut arguments = env::args_os();
        // The running executable, whichever file its path refers to now.
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.arg(HELD).args(arguments).stdin(workers);
        let (worker, _) = CommandProcess::start(&mut command)?;
        Ok(Self {
            worker,
            channel: Some(channel),
            input: Some(pipes.input.writer),
            _outputs: [pipes.output.reader, pipes.errors.reader],
        })
    }

    /// Guards the pipes until the worker has ended. Returns the exit status of this program.
    fn hold(mut self, signals: &Signals) -> u8 {
        let mut has_forwarded = false;
        let outcome = loop {
            if let Some(outcome) = self.worker.outcome() {
                break outcome;
            }
            if signals.take() && !has_forwarded {
                self.worker.signal_alone(Signal::TERM);
                has_forwarded = true;
            }
            let channel = self.channel.as_ref().map(GuardChannel::interest);
            descriptors::wait([channel, Some((signals.descriptor(), PollFlags::IN))], WAKE_PERIOD);
            self.receive();
        };
        let is_held = self.input.is_some();
        let status = match outcome {
            Outcome::Exited(status) => Some(status),
            _ => None,
        };
        // A worker that exits has ended its command. Before GO, the guard does not rely on that.
        if is_held || status.is_none() {
            self.worker.kill();
        }
        status.unwrap_or_else(|| {
            // A reader that misses the message sees the exit status.
            let _unread = writeln!(io::stderr(), "stowaway-helper: {}", lost(outcome, is_held));
            REFUSED
        })
    }

    fn receive(&mut self) {
        let Some(channel) = &self.channel else { return };
        match channel.receive() {
            Received::Go => {
                self.input = None;
                channel.send_go();
            }
            Received::Nothing => {}
            Received::Closed => self.channel = None,
        }
    }
}

/// The message about a worker that was killed.
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
    format!("one of the helper's two processes was killed{signal}, as happens when memory runs out; {command}")
}

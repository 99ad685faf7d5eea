//! Runs a command in a pod, and seals the stream from or to it (`stowaway_protocol` is the protocol).
//!
//! A small static program without a runtime: one loop over a few descriptors, because it uses memory of the app's
//! container. It knows neither Kubernetes nor stores, and it trusts only its stdin, whose end means cancel. A restore
//! uses two processes of this program (see `input_guard`).
//!
//! For the same reason it is also the process that remains while a sidecar is idle: the supervisor of the sidecar's
//! runs, and the client that sends requests to it.

mod arguments;
mod command;
mod descriptors;
mod dump;
mod family;
mod guard_channel;
mod input;
mod input_guard;
mod pipe;
mod request;
mod restore;
mod signals;
mod stderr;
mod supervisor;
mod transport;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use crate::{
    arguments::{HELD, Job, Task, USAGE},
    guard_channel::{GuardChannel, Pipes},
    signals::Signals,
    supervisor::Program,
    transport::{Refusal, Transport},
};

/// Exit status if the task could not be started, or was aborted. The shell forms use the same status.
const REFUSED: u8 = 125;

fn main() -> ExitCode {
    let status = match arguments::parse(std::env::args_os().skip(1)) {
        Some(Task::Install(path)) => install(&path).map(|()| 0),
        Some(Task::Version) => {
            println!("stowaway-helper {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
        Some(Task::Dump(job)) => run_job(&job, None),
        Some(Task::Restore(_)) => input_guard::run(),
        Some(Task::HeldRestore(job)) => GuardChannel::inherit()
            .map_err(|error| format!("its stdin is not that of a guard, which alone may use {HELD}: {error}"))
            .and_then(|held| run_job(&job, Some(held))),
        Some(Task::Supervise { socket, program, arguments, timeouts }) => {
            supervisor::run(&socket, Program { program, arguments }, timeouts).map(|()| 0)
        }
        Some(Task::Request { socket, tokens }) => request::run(&socket, &tokens).map(|()| 0),
        None => Err(USAGE.to_owned()),
    };
    ExitCode::from(status.unwrap_or_else(|why| {
        eprintln!("stowaway-helper: {why}");
        REFUSED
    }))
}

/// Everything that can fail comes before the ready line, because until then the other side may choose another mode.
fn run_job(job: &Job, held: Option<(GuardChannel, Pipes)>) -> Result<u8, String> {
    family::adopt_orphans().map_err(|error| format!("cannot become a subreaper: {error}"))?;
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    let (transport, nonce) = Transport::open(job.timeouts, job.socket.as_deref()).map_err(|refusal| match refusal {
        Refusal::NoHello => "the other side sent no hello: this program is for Stowaway, not for users".to_owned(),
        Refusal::OtherVersion => "the other side uses another version of the protocol".to_owned(),
        Refusal::NoToken => "stdin did not begin with a token: this program is for Stowaway, not for users".to_owned(),
        Refusal::NoListener(error) => format!("the sidecar's socket cannot be reached: {error}"),
    })?;
    match held {
        Some(held) => restore::run(transport, &nonce, job, &signals, held).map_err(|error| error.to_string()),
        None => dump::run(transport, &nonce, job, &signals).map_err(|error| error.to_string()),
    }
}

/// Copies this program atomically, because a container may start it at the same time.
fn install(path: &Path) -> Result<(), String> {
    let part = path.with_extension("part");
    let copy = || -> io::Result<()> {
        // A leftover of an earlier attempt is read-only.
        if let Err(error) = fs::remove_file(&part)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        fs::copy("/proc/self/exe", &part)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(0o555))?;
        fs::rename(&part, path)
    };
    copy().map_err(|error| format!("failed to copy this program to {}: {error}", path.display()))
}

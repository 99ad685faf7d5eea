//! Runs a command in a pod, and seals the stream that goes out of it or into it (`stowaway_seal` is the protocol).
//!
//! A small static program without a runtime: one loop over a handful of descriptors, since the application's own memory is
//! what it costs. It knows no Kubernetes and no store, and it trusts only its stdin: the end of that is the cancel. A
//! restore has two processes of it (`holder` says why).
//!
//! For the same reason it is what stays when a sidecar has nothing to do: the supervisor of its runs, and those who ask it.

mod arguments;
mod ask;
mod command;
mod descriptors;
mod dump;
mod family;
mod holder;
mod input;
mod link;
mod peer;
mod pipe;
mod restore;
mod signals;
mod stderr;
mod supervisor;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, process::ExitCode};

use crate::{
    arguments::{HELD, Job, Task, USAGE},
    link::{Link, Pipes},
    peer::{Peer, Refusal},
    signals::Signals,
    supervisor::Program,
};

/// What was asked for could not be begun, or did not come to its end; the same as the shell forms have.
const REFUSED: u8 = 125;

fn main() -> ExitCode {
    let status = match arguments::parse(std::env::args_os().skip(1)) {
        Some(Task::Install(path)) => install(&path).map(|()| 0),
        Some(Task::Dump(job)) => speak(&job, None),
        Some(Task::Restore(_)) => holder::run(),
        Some(Task::HeldRestore(job)) => Link::take()
            .map_err(|error| format!("its stdin is not of a holder, which alone may say {HELD}: {error}"))
            .and_then(|held| speak(&job, Some(held))),
        Some(Task::Supervise { socket, program, arguments, patience }) => {
            supervisor::run(&socket, Program { program, arguments }, patience).map(|()| 0)
        }
        Some(Task::Ask { socket, words }) => ask::run(&socket, &words).map(|()| 0),
        None => Err(USAGE.to_owned()),
    };
    ExitCode::from(status.unwrap_or_else(|why| {
        eprintln!("stowaway-helper: {why}");
        REFUSED
    }))
}

/// Everything that may fail comes before the other side hears that we are ready: until then it may choose another way.
fn speak(job: &Job, held: Option<(Link, Pipes)>) -> Result<u8, String> {
    family::adopt_orphans().map_err(|error| format!("cannot become a subreaper: {error}"))?;
    let signals = Signals::catch().map_err(|error| format!("cannot catch signals: {error}"))?;
    let (peer, nonce) = Peer::greet(job.patience, job.socket.as_deref()).map_err(|refusal| match refusal {
        Refusal::NoHello => "the other side did not say hello: this program is for Stowaway, not for people".to_owned(),
        Refusal::OtherVersion => "the other side speaks another version".to_owned(),
        Refusal::NoToken => "stdin did not begin with a token: this program is for Stowaway, not for people".to_owned(),
        Refusal::NoListener(error) => format!("the sidecar cannot be reached by its socket: {error}"),
    })?;
    match held {
        Some(held) => restore::run(peer, &nonce, job, &signals, held).map_err(|error| error.to_string()),
        None => dump::run(peer, &nonce, job, &signals).map_err(|error| error.to_string()),
    }
}

/// Copies this program, whole or not at all: a container may start beside it.
fn install(path: &Path) -> Result<(), String> {
    let part = path.with_extension("part");
    let copy = || -> io::Result<()> {
        // What an earlier attempt left behind cannot be written to.
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

//! Starts the command, in a process group of its own, and gives the pipes to it.
//!
//! It must not know the protocol.

use std::{
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::{ChildStderr, ChildStdout, Command, Stdio},
};

use stowaway_seal::Outcome;

use crate::{arguments::Job, descriptors, family::Leader};

/// A command that runs, or what a shell would say of one that cannot be started.
pub struct Started {
    /// The command.
    pub leader: Leader,
    /// Its stdout, which never blocks.
    pub stdout: Option<ChildStdout>,
    /// Its stderr, which never blocks either.
    pub stderr: Option<ChildStderr>,
}

/// Starts the command with this stdin.
pub fn start(job: &Job, stdin: Stdio) -> Result<Started, (Outcome, String)> {
    let mut command = Command::new(&job.program);
    command.args(&job.arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let said = |error: &io::Error| format!("stowaway-helper: {}: {error}\n", job.program.display());
    let (leader, mut child) = Leader::start(&mut command).map_err(|error| {
        // As POSIX shells have it (XCU 2.8.2).
        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (Outcome::Exited(status), said(&error))
    })?;
    let mut started = Started { leader, stdout: child.stdout.take(), stderr: child.stderr.take() };
    let pipes = [started.stdout.as_ref().map(AsFd::as_fd), started.stderr.as_ref().map(AsFd::as_fd)];
    for pipe in pipes.into_iter().flatten() {
        if let Err(error) = descriptors::never_block(pipe) {
            started.leader.kill();
            return Err((Outcome::Exited(126), said(&error.into())));
        }
    }
    Ok(started)
}

/// The exit status that this program takes over from the command.
pub fn exit_status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Exited(status) => status,
        Outcome::Killed(signal) => signal.saturating_add(128),
        Outcome::InputLeft => 1,
    }
}

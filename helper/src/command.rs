//! Starts the command, in a process group of its own.
//!
//! It must not know the protocol.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use stowaway_seal::Outcome;

use crate::{arguments::Job, family::Leader};

/// Starts the command with its ends of pipes, which are closed here; or tells what a shell would say of one that cannot
/// be started.
pub fn start(job: &Job, stdin: Stdio, stdout: OwnedFd, stderr: OwnedFd) -> Result<Leader, (Outcome, String)> {
    let mut command = Command::new(&job.program);
    command.args(&job.arguments).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    let (leader, _) = Leader::start(&mut command).map_err(|error| {
        // As POSIX shells have it (XCU 2.8.2).
        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (Outcome::Exited(status), format!("stowaway-helper: {}: {error}\n", job.program.display()))
    })?;
    Ok(leader)
}

/// The exit status that this program takes over from the command.
pub fn exit_status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Exited(status) => status,
        Outcome::Killed(signal) => signal.saturating_add(128),
        Outcome::InputLeft => 1,
    }
}

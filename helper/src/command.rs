//! Starts the command in its own process group.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use stowaway_protocol::Outcome;

use crate::{arguments::Job, family::CommandProcess};

/// Starts the command with its ends of the pipes, which are closed in this process. If it cannot be started, returns
/// the exit status and the message of a shell.
pub fn start(job: &Job, stdin: Stdio, stdout: OwnedFd, stderr: OwnedFd) -> Result<CommandProcess, (Outcome, String)> {
    let mut command = Command::new(&job.program);
    command.args(&job.arguments).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    let (process, _) = CommandProcess::start(&mut command).map_err(|error| {
        // The exit statuses of POSIX shells (XCU 2.8.2).
        let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        (Outcome::Exited(status), format!("stowaway-helper: {}: {error}\n", job.program.display()))
    })?;
    Ok(process)
}

/// The exit status with which this program ends for the command.
pub fn exit_status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Exited(status) => status,
        Outcome::Killed(signal) => signal.saturating_add(128),
        Outcome::InputLeft => 1,
    }
}

//! Runs in a sidecar: the process which executes a run there, and the Job's side, which starts the run, watches it and
//! receives its report.
//!
//! Between the two is the supervisor (`stowaway-helper supervise`), a program as small as the helper, which processes
//! lines only; `seal::sealed` defines the messages of all three. The data passes neither the supervisor nor the API
//! server, because a command's helper streams to the run's own socket.
//!
//! The run belongs to the sidecar. It outlives the connection of its Job, and the Job itself, and can be found again by
//! its name or by its key.

mod child;
mod client;
mod find;
mod helper;
mod run_socket;

use std::{io, os::unix::process::CommandExt, process::Command};

use serde::{Deserialize, Serialize};

pub use child::run_in_sidecar;
pub use client::{SidecarOutcome, SidecarRun, drive};
pub use find::{Sidecar, find};
pub use helper::HelperCommand;
pub use run_socket::RunSocket;

use super::{MountedVolume, settings};
use crate::model::{
    Task,
    injected::{CONTROL_SOCKET, HELPER_IN_IMAGE},
};

/// The input of a run's process, as one line of JSON on its stdin.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The run's name, which is part of its report's digest.
    pub id: String,
    /// The task of the run.
    pub task: Task,
}

/// Replaces this process by the supervisor, which starts this program for each run. Returns only if that fails.
pub fn become_supervisor(volumes: &[MountedVolume]) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    Command::new(settings::mounted(HELPER_IN_IMAGE))
        .arg("supervise")
        .arg(settings::mounted(CONTROL_SOCKET))
        .arg("--")
        .arg(program)
        .arg("sidecar-run")
        .args(volumes.iter().map(|volume| format!("--volume={volume}")))
        .exec()
}

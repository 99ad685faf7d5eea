//! Runs in a sidecar: the process that does one there, and the Job's side, which begins it, watches it and takes its report.
//!
//! Between the two stands the supervisor, a program as small as the helper (`stowaway-helper supervise`), which understands
//! lines alone: `seal::sealed` has the words of all three. The data never passes it, nor the API server: a command's helper
//! streams to the run's own socket.
//!
//! The run belongs to the sidecar: it outlives its Job's connection, and its Job, and is found again by its name, or by what
//! it does. It must not know the command line.

mod child;
mod door;
mod drive;
mod find;
mod helper;

use std::{io, os::unix::process::CommandExt, process::Command};

use serde::{Deserialize, Serialize};

pub use child::run_in_sidecar;
pub use door::Door;
pub use drive::{Driven, Errand, drive};
pub use find::{Sidecar, find};
pub use helper::HelperCommand;

use super::{StepVolume, settings};
use crate::model::{
    Task,
    injected::{CONTROL_SOCKET, HELPER_IN_IMAGE},
};

/// What the process of a run is told, as one line of JSON on its stdin.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The run's name, which its report is sealed with.
    pub id: String,
    /// What to do.
    pub task: Task,
}

/// Replaces this process by the supervisor, which starts this program anew for each run. Returns only if that fails.
pub fn become_supervisor(volumes: &[StepVolume]) -> io::Error {
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
        .args(volumes.iter().map(argument))
        .exec()
}

/// The volume as it stands in the arguments.
fn argument(volume: &StepVolume) -> String {
    match &volume.source {
        Some(source) => format!("--volume={}={source}", volume.name),
        None => format!("--volume={}", volume.name),
    }
}

//! Runs a backup, a restore or a maintenance task, in a Job or in a sidecar: connects a stream (pod exec or local
//! process) with a repository, and reports the outcome.
//!
//! This is the only module which uses both `cluster` and `repository`.

mod answer;
mod backup;
mod clock;
mod commands;
mod device;
pub mod doctor;
mod format_check;
mod half_restored;
mod in_sidecar;
mod job;
mod limit;
pub mod local;
mod lock_owner;
pub mod maintenance;
mod mounted_volume;
mod paths;
mod pipes;
mod progress;
pub mod questions;
mod restore;
mod restore_archive;
mod restore_step;
mod restore_volume;
mod select_snapshot;
pub mod settings;
mod shrunken;
pub mod sidecar;
mod source_names;
pub mod story;
mod target_folder;
mod volume;

pub use answer::answer;
pub use backup::{BackupInput, BackupRun, backup};
pub use device::backup_device;
pub use job::{run_job, terminated, with_repository, with_repository_to_read, within_grace};
pub use mounted_volume::{MountedVolume, MountedVolumeError};
pub use pipes::JudgedCommand;
pub use restore::{RestoreOutput, RestoreRun, restore};
pub use restore_archive::restore_archive;
pub use restore_step::restore_step;
pub use restore_volume::restore_volume;
pub use source_names::similar_sources;
pub use volume::{VolumeRun, backup_volume};

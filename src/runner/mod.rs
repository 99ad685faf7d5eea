//! One run, wherever it executes: joins a stream (pod exec or local process) with a repository, and says how it went.
//!
//! The only place that knows both `cluster` and `repository`.

mod answer;
mod backup;
mod commands;
mod device;
pub mod doctor;
mod format_check;
mod in_sidecar;
mod job;
mod judge;
mod limit;
pub mod local;
mod mounted_volume;
mod paths;
mod pipes;
mod progress;
pub mod questions;
mod restore;
mod restore_archive;
mod restore_step;
mod restore_volume;
pub mod settings;
mod shrunken;
pub mod sidecar;
pub mod story;
pub mod upkeep;
mod volume;
mod wanted;

pub use answer::answer;
pub use backup::{BackupRun, DumpFrom, backup};
pub use device::backup_device;
pub use job::{run_job, terminated, with_repository, within_grace};
pub use mounted_volume::{MountedVolume, MountedVolumeError};
pub use pipes::JudgedCommand;
pub use restore::{FeedTo, RestoreRun, restore};
pub use restore_archive::restore_archive;
pub use restore_step::restore_step;
pub use restore_volume::restore_volume;
pub use volume::{VolumeRun, backup_volume};

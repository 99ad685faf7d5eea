//! Snapshots: reading their files, and their summaries.

pub(crate) mod snapshot_files;
pub(crate) mod summary;

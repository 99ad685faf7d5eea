//! Data structures in temporary files, for data that does not fit into memory: sorted records, tables of records, and
//! growing sets.
//!
//! Each structure is in memory while it is small. The files have no names, so that the system removes them when the
//! process ends. They are in the folder that `TMPDIR` specifies, or in `/tmp`, where the pods of runs, sidecars and
//! restore steps mount an `emptyDir`.

mod set;
mod sort;
mod table;

use std::{env, fs::File, io};

use super::RepositoryError;

pub(super) use self::{
    set::GrowingSet,
    sort::{Sorted, Sorter},
    table::{Scan, Table},
};

/// Creates a temporary file for reading and writing.
pub(super) fn file() -> io::Result<File> {
    tempfile::tempfile()
}

/// Whether an error while a temporary file is read comes from the file: then the system returned it. Any other error is
/// about the content.
pub(super) fn is_of_file(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// Returns the error for a temporary file that failed.
pub(super) fn failed(source: io::Error) -> RepositoryError {
    RepositoryError::Scratch { folder: env::temp_dir().display().to_string(), source }
}

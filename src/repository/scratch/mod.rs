//! Temporary files, for what would not fit into memory: sorted records, tables of them, and sets that grow.
//!
//! Each structure stays in memory while it is small. Its files have no name, so that they end with the process. They are in
//! the folder that `TMPDIR` names, or in `/tmp`, where the pods of runs, sidecars and restore steps mount an `emptyDir`.

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

/// A new temporary file, for reading and writing.
pub(super) fn file() -> io::Result<File> {
    tempfile::tempfile()
}

/// Whether an error while a temporary file is read is one of the file: it comes from the system. All others concern the content.
pub(super) fn is_of_file(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// Reports that a temporary file failed.
pub(super) fn failed(source: io::Error) -> RepositoryError {
    RepositoryError::Scratch { folder: env::temp_dir().display().to_string(), source }
}

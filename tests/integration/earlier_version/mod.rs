//! Repositories and objects that an earlier version wrote (commit 4a0392c) are read by this one. The README of the fixtures
//! describes what they are and how they were made.

mod objects;
mod repository;
mod runs;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The directory of the fixtures, or a path below it.
fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version_4a0392c").join(path)
}

/// The files in a directory of the fixtures: their names without the extension, and their texts.
fn fixtures(directory: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = fs::read_dir(fixture(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() > 2, "{directory}: {files:?}");
    files
}

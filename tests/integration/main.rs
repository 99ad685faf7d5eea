//! All tests which need no cluster, as one program, so that it is linked once and waiting tests overlap.
//!
//! The tests use the library's public items only, as other crates do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(
    clippy::unnecessary_wraps,
    clippy::large_stack_arrays,
    clippy::cast_possible_truncation,
    reason = "known sizes"
)]

mod cluster_commands;
mod corpus;
mod documents;
mod earlier_version;
mod generated;
mod helper;
mod injection;
mod packaging;
mod process;
mod repository;
mod shell;
mod sidecar;
mod webhook;

use std::io::{self, Write};

use futures::{StreamExt, stream};

/// Most cases wait most of the time, so many of them fit on one core.
const AT_ONCE: usize = 16;

/// Runs all cases, at most [`AT_ONCE`] of them concurrently.
async fn at_once<Case>(cases: impl IntoIterator<Item = Case>, run: impl AsyncFn(Case)) {
    stream::iter(cases).for_each_concurrent(AT_ONCE, |case| run(case)).await;
}

/// Reports what a test does not try on this machine. Written directly, because the test harness hides what is printed by
/// a test that passes.
fn skipped(reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
}

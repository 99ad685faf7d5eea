//! Everything that can be proven without a cluster, as one program: it is linked once, and its waits overlap.
//!
//! It must not know the library's insides: what is tested here is what other modules and programs see of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(
    clippy::unnecessary_wraps,
    clippy::large_stack_arrays,
    clippy::cast_possible_truncation,
    reason = "known sizes"
)]

mod cluster_commands;
mod corpus;
mod generated;
mod helper;
mod injection;
mod process;
mod repository;
mod shell;
mod sidecar;
mod webhook;

use futures::{StreamExt, stream};

/// Most cases wait for most of their time, so that many of them fit on one core.
const AT_ONCE: usize = 16;

/// Runs all cases, some of them at once.
async fn at_once<Case>(cases: impl IntoIterator<Item = Case>, run: impl AsyncFn(Case)) {
    stream::iter(cases).for_each_concurrent(AT_ONCE, |case| run(case)).await;
}

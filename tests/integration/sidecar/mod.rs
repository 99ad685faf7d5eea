//! Runs in a sidecar, with the programs as they are shipped: the supervisor, the process of a run, the helper, and the
//! Job's side.

mod door;
mod lines;
mod pod;
mod runs;

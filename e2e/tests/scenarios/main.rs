//! Tests on a real cluster that can run in parallel, because each has a namespace of its own.
//!
//! They need the cluster of `make cluster`. In every test each visible snapshot is complete, a green run has a visible
//! snapshot, a failed run has none, `restic check` finds no errors, and no process of a run remains in the pod.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "these are tests, and a scenario is one long function")]

mod backup;
mod cli;
mod compatibility;
mod connection;
mod controller_restart;
mod databases;
mod devices;
mod emptied;
mod examples;
mod failures;
mod guards;
mod guards_of_accounts;
mod guards_of_objects;
mod injection;
mod keys;
mod maintenance;
mod meddling;
mod namespace_restore;
mod objects;
mod other_webhooks;
mod repair;
mod restore;
mod restore_archive;
mod restore_cuts;
mod restore_step;
mod restore_volume;
mod rights;
mod sidecar;
mod snapshots;
mod store_faults;
mod taken_names;
mod trust;
mod volumes;

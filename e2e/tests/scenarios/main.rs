//! What must hold on a real cluster, failures first. Each test has a namespace of its own, so all of them run at once.
//!
//! Needs what `make cluster` makes. Whatever a test does: every visible snapshot is whole, green implies visible, failed
//! implies not visible, `restic check` is clean, and nothing is left running in the pod.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "these are tests, and a scenario is told in one piece")]

mod backup;
mod cli;
mod compatibility;
mod connection;
mod controller_restart;
mod databases;
mod devices;
mod emptied;
mod failures;
mod guards;
mod guards_of_accounts;
mod guards_of_objects;
mod injection;
mod keys;
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
mod upkeep;
mod volumes;

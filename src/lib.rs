//! Stowaway backs up workloads of a Kubernetes cluster, as annotations of their pods specify.
//!
//! The modules and crates, and which of them each may use (`tests/architecture.rs` checks these dependencies):
//!
//! ```text
//! model (a crate) <- annotations, api <- plan <- inject, resources   pure: no client, no async, no clock, no files
//! plan + inject <- watchdog                                 pure: whether a running pod has what its annotations request
//! model <- seal                                             the proofs of a stream's end
//! recognise (a crate)                                       formats of dumps, and their ends; pure
//! model <- repository (a crate)                             does not use the Kubernetes API
//! model, seal <- exec                                       commands, and the proof of their output
//! model, api <- cluster                                     reads and writes by the API server
//! plan + exec + cluster + repository + recognise <- runner  one run, as a Job or in a sidecar
//! inject + resources + cluster <- webhook                   admission reviews, and the webhook's own certificates
//! plan + resources + watchdog + cluster <- controller       observe -> plan -> build -> apply -> status
//! everything <- cli <- main
//! ```
//!
//! The other crates: `stowaway-protocol` holds the sealed protocol, which `seal` uses; `stowaway-helper` is the small
//! static program which implements that protocol in a pod; `webhook-certs` decides when the webhook's certificates are
//! issued.

pub mod annotations;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod exec;
pub mod inject;
pub mod plan;
pub mod resources;
pub mod runner;
pub mod seal;
pub mod telemetry;
pub mod watchdog;
pub mod webhook;

pub use stowaway_model::{self as model, stream};
pub use stowaway_recognise as recognise;
pub use stowaway_repository as repository;

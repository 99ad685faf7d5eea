//! Stowaway backs up workloads of a Kubernetes cluster, as annotations of their pods specify.
//!
//! The modules, and which modules each of them may use (`tests/architecture.rs` checks these dependencies):
//!
//! ```text
//! model <- annotations, api <- plan <- inject, resources    pure: no client, no async, no clock, no files
//! plan + inject <- watchdog                                 pure: whether a running pod has what its annotations request
//! model <- stream, seal                                     streams with an explicit end; the proofs of that end
//! recognise                                                 formats of dumps, and their ends; pure, uses no other module
//! model, stream <- repository                               does not use the Kubernetes API
//! model, stream, seal <- exec                               commands, and the proof of their output
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
pub mod model;
pub mod plan;
pub mod recognise;
pub mod repository;
pub mod resources;
pub mod runner;
pub mod seal;
pub mod stream;
pub mod telemetry;
pub mod watchdog;
pub mod webhook;

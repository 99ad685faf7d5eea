//! Stowaway backs up what runs in Kubernetes, by the annotations that a pod carries.
//!
//! The module map, and the arrows between them (`tests/architecture.rs` keeps them):
//!
//! ```text
//! model <- annotations, api <- plan <- inject, build   pure: no client, no async, no clock, no files
//! plan + inject <- watchdog                         pure, too: whether a pod that runs has what it asks for
//! model <- stream, seal                             streams that say how they ended; the protocols that prove them
//! recognise                                         formats of dumps, and their ends; pure, and uses no other module
//! model, stream <- repository                       knows no Kubernetes
//! model, stream, api, seal <- cluster               knows no repository
//! plan + cluster + repository + seal + recognise <- runner      one run, wherever it executes
//! inject + build + cluster <- webhook               answers the API server, and keeps itself trusted
//! plan + build + watchdog + cluster <- controller   observe -> plan -> build -> apply -> status
//! everything <- cli <- main
//! ```
//!
//! Beside this one: `stowaway-seal`, the sealed protocol, which `seal` is built upon; `stowaway-helper`, the small static
//! program that speaks it in a pod; `webhook-certs`, which decides on the webhook's certificates.

pub mod annotations;
pub mod api;
pub mod build;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod inject;
pub mod model;
pub mod plan;
pub mod recognise;
pub mod repository;
pub mod runner;
pub mod seal;
pub mod stream;
pub mod telemetry;
pub mod watchdog;
pub mod webhook;

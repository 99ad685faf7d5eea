//! The store of a repository's files, with one interface for all backends: retries are bounded, and all requests have
//! one cancel token.
//!
//! A file counts as missing only if the store itself reported that. A listing is complete or an error. This module must
//! not know what the files contain.

mod backend;
mod client;
mod fault;
mod file;
mod folder;
mod http;
mod limits;
mod objects;
mod outage;
mod partial;
mod rest;
mod retry;
mod sftp;
mod timeouts;
mod upload;

pub(super) use self::{
    client::Store,
    file::{Kind, Write},
    upload::{Upload, Uploaded},
};
pub use self::{client::StoreAccess, outage::StoreWait, sftp::known_host_keys, timeouts::Timeouts};

/// Installs the TLS provider (ring) once for the process. Opening a repository does that, too. A program that uses TLS
/// elsewhere calls this function first.
pub fn install_transport() {
    http::install();
}

//! Reads the annotations of a pod, a claim or a Namespace: one table of keys, and the request that is parsed from them.
//!
//! This module is pure, and sees only texts: no pods, and not which containers or repositories exist. Command lines may
//! contain passwords, so nothing here prints a command.

mod accept_shrunken;
mod carriers;
mod consent;
mod excludes;
mod keys;
mod near_miss;
mod parse;
mod request;
mod resources;
mod snapshot_class;
mod split;
mod values;
mod workload;

#[cfg(test)]
mod tests;

pub use accept_shrunken::accept_shrunken;
pub use carriers::{Carrier, carrier_warnings, unknown_keys};
pub use consent::{OptOut, namespace_opt_out, opt_out};
pub use excludes::excludes;
pub use keys::{Form, KEYS, Key, KeyId, PREFIX, own_key, render};
pub use near_miss::KEY_FRAGMENTS;
pub use parse::{parse, parse_lenient};
pub use request::{CommandRequest, Injection, KeyDialect, Lenient, Problem, Problems, Request, Warning};
pub use snapshot_class::snapshot_class;
pub use split::split;
pub use values::{MAX_COMMAND_BYTES, MAX_EXTENSION_BYTES, MAX_NAMES, boolean, label, object_name, positive_duration};
pub use workload::workload_warnings;

//! What a pod says about its backup: one table of annotation keys, and the request that is read from them.
//!
//! Pure. It must not know pods, containers that exist, or repositories that exist: only texts. What it reads may hold
//! passwords (they stand in command lines), so nothing here prints a command.

mod accept_shrunken;
mod carriers;
mod consent;
mod excludes;
mod keys;
mod misplaced;
mod parse;
mod request;
mod resources;
mod snapshot_class;
mod split;
mod values;

#[cfg(test)]
mod tests;

pub use accept_shrunken::accept_shrunken;
pub use carriers::{Carrier, carrier_warnings, unknown_keys};
pub use consent::{Consent, consent, namespace_consent};
pub use excludes::excludes;
pub use keys::{Form, KEYS, Key, PREFIX, Role, own_key, render};
pub use misplaced::{misplaced_keys, misplaced_warning};
pub use parse::{parse, parse_lenient};
pub use request::{CommandRequest, Generation, Injection, Lenient, Problem, Problems, Request, Warning};
pub use snapshot_class::snapshot_class;
pub use split::split;
pub use values::{
    MAXIMUM_COMMAND_BYTES, MAXIMUM_EXTENSION_BYTES, MAXIMUM_NAMES, boolean, label, object_name, positive_duration,
};

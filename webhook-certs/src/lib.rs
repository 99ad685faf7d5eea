//! Certificates of an admission webhook: decides what to issue and when, so that no call ever fails because of a
//! certificate.
//!
//! Each replica serves with a short-lived leaf, which exists only in its memory. One authority signs the leaves. Its
//! certificate and key are in one Secret, and the API server trusts the certificates in the `caBundle` of the webhook
//! configurations. An authority is published there before it signs, and stays there until the last leaf that it signed
//! has expired.
//!
//! Decisions are pure functions of the observed state and of `now`: no Kubernetes clients, no async, no clocks and no
//! files.

#![warn(missing_docs)]

mod authority;
mod bundle;
mod decide;
mod state;

pub use authority::{Authority, CertificateError, LEAF_LIFETIME, Leaf, Validity};
pub use bundle::{holds, is_bundle};
pub use decide::{LeafStep, PROPAGATION, Step, decide, decide_leaf};
pub use state::{State, StateError};

//! Certificates of an admission webhook: what to issue, and when, so that no call ever fails for its certificate.
//!
//! Each replica serves a short-lived leaf that lives in its memory alone. One authority signs them; its pair lives in one
//! Secret, and the API server trusts what the webhook configurations' `caBundle` holds. An authority is published there
//! before it signs anything, and stays there until the last leaf that it signed is over.
//!
//! Decisions are functions of what was observed and of `now`. It must not know Kubernetes' clients, async, clocks or files.

mod authority;
mod bundle;
mod decide;
mod state;

pub use authority::{Authority, CertificateError, LEAF_LIFETIME, Leaf, Validity};
pub use bundle::{holds, is_bundle};
pub use decide::{LeafStep, PROPAGATION, Step, decide, decide_leaf};
pub use state::{State, StateError};

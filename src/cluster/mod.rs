//! Everything that talks to the API server. It must not know the repository.

pub mod apply;
pub mod bundles;
pub mod call;
pub mod events;
pub mod exec;
pub mod lease;
mod listing;
pub mod observe;
pub mod progress;
pub mod replace;
pub mod scale;
pub mod singleton;

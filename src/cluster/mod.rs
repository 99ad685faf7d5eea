//! Everything that talks to the API server. It must not know the repository.

pub mod apply;
pub mod call;
pub mod events;
pub mod exec;
pub mod observe;
pub mod replace;

//! Access to the API server: reads, writes, watches, Leases, Events, and pod exec. This module does not use the
//! repository.

pub mod apply;
pub mod bundles;
pub mod call;
pub mod client;
pub mod events;
pub mod lease;
mod listing;
pub mod observe;
pub mod progress;
pub mod replace;
pub mod scale;
pub mod singleton;
pub mod version;

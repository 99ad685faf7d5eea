//! What the tests on a real cluster share: the cluster, namespaces that clean up after themselves, known byte sequences,
//! proxies that break what passes through them, and the invariants that hold whatever happened.
//!
//! Nothing but `cluster` knows whether the cluster is the built-in one or the user's own.

pub mod cluster;
pub mod creates;
pub mod fault;
pub mod load;
pub mod measure;
pub mod meddler;
pub mod namespace;
pub mod other_webhook;
pub mod process;
pub mod proxy;
pub mod restic;
pub mod runner;
pub mod runs;
pub mod sequence;
pub mod store;
pub mod system;
pub mod tenant;
pub mod volume;
pub mod workload;

pub use cluster::Cluster;
pub use meddler::{Meddler, Meddling};
pub use namespace::{Namespace, in_namespace};
pub use other_webhook::OtherWebhook;
pub use restic::Restic;
pub use runner::Runner;
pub use sequence::{Kind, Sequence};
pub use store::S3;
pub use tenant::{Right, Tenant};
pub use workload::Workload;

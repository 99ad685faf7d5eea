//! The shared code of the tests on a real cluster: the connection to the cluster, namespaces that clean up after
//! themselves, known byte sequences, proxies that inject faults, and the invariants that every test checks.

use std::io::{self, Write};

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
pub use meddler::{MitmProxy, Tampering};
pub use namespace::{Namespace, in_namespace};
pub use other_webhook::OtherWebhook;
pub use restic::Restic;
pub use runner::Runner;
pub use sequence::{Kind, Sequence};
pub use store::S3;
pub use tenant::{Right, Tenant};
pub use workload::Workload;

/// Reports what a test does not try on this machine or cluster. Written directly, because the test harness hides what
/// is printed by a test that passes.
pub fn skipped(reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {reason}");
}

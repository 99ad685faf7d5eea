//! The nouns that every other module speaks in: names, verdicts, reports, streams and secrets.
//!
//! Pure data. It must not know Kubernetes clients, stores, clocks or files.

pub mod injected;
mod report;
mod secret;
mod source;
mod task;

pub use report::{Failure, Proof, Reason, SourceReport, Verdict, milliseconds};
pub use secret::{Secret, redact};
pub use source::{SnapshotIdentity, SourceName, SourceNameError, TagError};
pub use task::{BackendConfig, S3Config, TargetCommand, TargetVolume, Task, TaskKind, mounts};

//! The basic types that every other module uses: names, verdicts, reports, tasks and secrets.
//!
//! They are pure data, without Kubernetes clients, stores, clocks or files.

mod archive;
mod command;
mod damaged_packs;
mod database;
mod escape;
mod excludes;
mod extent;
pub mod image;
pub mod injected;
mod literal;
mod maintenance;
mod part;
mod pipefail;
mod progress;
mod quantity;
mod region;
mod report;
mod retention;
mod script;
mod secret;
mod secret_source;
mod snapshot;
mod source;
mod storage;
mod store;
mod stored_claim;
pub mod stream;
mod task;

pub use archive::{ArchiveFormat, ArchiveReport, ArchiveRestore, archive_name, wrong_archive_name};
pub use command::command_warnings;
pub use damaged_packs::DamagedPacks;
pub use database::{Database, database_of};
pub use escape::{Escaping, escape, escape_lines, escape_name, unescape_name};
pub use excludes::{Excludes, MAX_PATTERNS};
pub use extent::{SMALLEST_BYTES, Shrinkage, VolumeExtent, has_lost_most, shrinkage};
pub use literal::{LiteralSyntax, Quoting};
pub use maintenance::{MaintenanceReport, truncate_list};
pub use part::{DataPart, DataPartError};
pub use pipefail::{PIPEFAIL_MISSING, ShellScript};
pub use progress::{PROGRESS_ANNOTATION, PROGRESS_REASON, RunProgress, short_amount};
pub use quantity::billionths;
pub use region::{DEFAULT_REGION, is_amazon, is_region, region_of_endpoint};
pub use report::{Failure, Proof, Reason, RunReport, Verdict, milliseconds};
pub use retention::{Age, AgeError, Retention};
pub use script::Unjudged;
pub use secret::{Secret, StoredPassword, redact};
pub use secret_source::{
    SECRET_SOURCES_VARIABLE, SecretKind, SecretSource, SecretSources, UnusableCredential, unusable_credentials,
};
pub use snapshot::{
    CLOCK_TOLERANCE, NotRestorable, Quality, Restorable, SnapshotQuery, SnapshotRecord, latest_restorable, newest_good,
};
pub use source::{SnapshotIdentity, SourceName, SourceNameError, TagError};
pub use storage::{FileSystem, StorageEntry};
pub use store::{
    AzureConfig, BackendConfig, Connection, Credential, GcsConfig, RestConfig, S3Config, SftpConfig, StoreLimits,
};
pub use stored_claim::{BLOCK, SnapshotLookup, StoredClaim};
pub use task::{TargetCommand, TargetVolume, Task, TaskKind, VolumeRestore, WantedSnapshot, mounts};

//! The Kubernetes objects of the group `stowaway.dev`: what people write, and what we answer in their status.
//!
//! Types and their validation only, one file a kind. It must not know how anything is carried out.

mod archive;
mod backends;
mod backup;
mod conditions;
mod connection;
mod place;
mod repository;
mod restore;
mod shared;
#[cfg(test)]
mod tests;
mod upkeep;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

pub use archive::RestoreArchive;
pub use backends::{
    AzureBackend, AzureCredentials, GcsBackend, GcsCredentials, RestBackend, RestCredentials, S3Backend, S3Credentials,
    SftpBackend, SftpCredentials, VolumeBackend, backend_config,
};
pub use backup::{
    Backup, BackupSpec, BackupStatus, MissingReason, MissingSource, SkipReason, SkippedClaim, SourceState, SourceStatus,
};
pub use conditions::{
    condition, condition_is_true, remove_condition, set_condition, set_condition_status, set_run_conditions,
};
pub use connection::{CredentialSource, RepositoryLimits, Tls, bytes_per_second, connection, credential_sources};
pub use place::{Keeps, StorePlace};
pub use repository::{PasswordSecretReference, Repository, RepositorySpec, RepositoryStatus};
pub use restore::{
    FoundSnapshot, NewClaim, Restore, RestoreClaim, RestoreFrom, RestoreSpec, RestoreStatus, RestoreTo, ScaleDown,
    Scaled, ScaledKind,
};
pub use shared::{
    Outcome, RepositoryKind, RepositoryReference, RunnerPod, RunnerVariable, SecretKeyReference, VariableSource,
};
pub use upkeep::{CheckSpec, CheckStatus, PruneSpec, UpkeepStatus};

/// The API group of all kinds.
pub const GROUP: &str = "stowaway.dev";

/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// The annotation that makes a `Repository` the one which is used where none is named; its value is `"true"`.
pub const IS_DEFAULT: &str = "stowaway.dev/is-default";

/// The annotation by which a person accepts another repository than the one that a `Repository` was opened with: its id, 64
/// hex digits, or [`ACCEPT_NEW`].
pub const ACCEPT_REPOSITORY: &str = "stowaway.dev/accept-repository";
/// The value of [`ACCEPT_REPOSITORY`] by which one new repository may be created where none is left. It is good for one
/// opening; to use it again, remove the annotation, and set it again.
pub const ACCEPT_NEW: &str = "new";

/// The finalizer of a `Restore` that has scaled a workload down: it goes when the workload has its replicas back.
pub const SCALED_FINALIZER: &str = "stowaway.dev/scaled-workload";

/// The annotation of a `Restore` whose Job was allowed to run: the UID of that Restore. One that has another UID is a copy.
pub const CARRIED_OUT: &str = "stowaway.dev/carried-out";

/// The annotation of a `Restore` that has scaled a workload down: the workload's UID, and how many replicas it had.
pub const SCALED_FROM: &str = "stowaway.dev/scaled-from";

/// Condition of a `Repository`: it was opened with its password, as its spec is now.
pub const READY: &str = "Ready";
/// Condition of a `Repository`, present only when it is `True`: a run cannot know that it speaks to the right store, or
/// others can read what is said.
pub const INSECURE_TRANSPORT: &str = "InsecureTransport";
/// Only one key opens a Repository; see [`RepositoryStatus::conditions`].
pub const KEY_NOT_ESCROWED: &str = "KeyNotEscrowed";
/// Condition of a `Repository`: the last check found nothing wrong. `False` from the first damage on that is found, until a
/// check has looked at the same and found it whole; absent as long as nobody has looked.
pub const SOUND: &str = "Sound";
/// Condition of a `Repository`, present only when it is `True`: a source has shrunk absurdly, and keeps all its snapshots.
pub const SIZE_ANOMALY: &str = "SizeAnomaly";
/// Condition of a run: it ended green. Always present; while the run is under way it is `False` and says what is waited for.
pub const COMPLETE: &str = "Complete";
/// Condition of a run, as kstatus reads it: present and `True` as long as the run is under way.
pub const RECONCILING: &str = "Reconciling";
/// Condition of a run, as kstatus reads it: present and `True` when the run ended without being green.
pub const STALLED: &str = "Stalled";

/// Condition of a run, present and `True` when the run ended without being green: what `kubectl wait` can wait for.
pub const FAILED: &str = "Failed";
/// Condition of a `Backup`: no source is missing that the last one had or that a workload asks for. `Unknown` when the
/// controller could not list the workloads.
pub const COVERED: &str = "Covered";
/// The times that can be read: the format `date-time` alone lets offsets, fractions and years through that are none.
const TIME: &str = r"^[1-8][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// The definitions of all kinds, as `manifests/crds/` holds them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![Repository::crd(), Backup::crd(), Restore::crd()];
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(bound_times);
    crds
}

/// Lets the API server refuse each time that no reader of the object could read.
fn bound_times(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref() == Some("date-time") {
        schema.pattern = Some(TIME.to_owned());
    }
    let fields = schema.properties.iter_mut().flat_map(|fields| fields.values_mut());
    let items = schema.items.iter_mut().filter_map(|items| match items {
        JSONSchemaPropsOrArray::Schema(schema) => Some(&mut **schema),
        JSONSchemaPropsOrArray::Schemas(_) => None,
    });
    fields.chain(items).for_each(bound_times);
}

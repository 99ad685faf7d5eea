//! The Kubernetes objects of the group `stowaway.dev`: their types and validation, one file a kind.

mod archive;
mod backends;
mod backup;
mod conditions;
mod connection;
mod host_path;
mod maintenance;
mod repository;
mod restore;
mod shared;
mod store_location;
#[cfg(test)]
mod tests;

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
    AnnotationWarning, Backup, BackupSpec, BackupStatus, MissingReason, MissingSource, SkipReason, SkippedClaim,
    SourceState, SourceStatus,
};
pub use conditions::{
    condition, condition_is_true, remove_condition, rename_condition, set_condition, set_condition_status,
    set_run_conditions,
};
pub use connection::{
    CredentialSource, RepositoryLimits, Tls, bytes_per_second, connection, credential_sources,
    repository_secret_sources, secret_sources,
};
pub use host_path::{HOST_PATH_PATTERN, HOST_PATH_TYPES, NODE_FOLDERS, host_path_problem};
pub use maintenance::{CheckSpec, CheckStatus, MaintenanceStatus, PruneSpec};
pub use repository::{PasswordSecretReference, Repository, RepositorySpec, RepositoryStatus};
pub use restore::{
    FoundSnapshot, NewClaim, Restore, RestoreClaim, RestoreFrom, RestoreSpec, RestoreStatus, RestoreTo, ScaleDown,
    Scaled, ScaledKind,
};
pub use shared::{
    Outcome, RepositoryKind, RepositoryReference, RunnerPod, RunnerVariable, SecretKeyReference, VariableSource,
};
pub use store_location::{StoreLocation, StorePurpose};

pub const GROUP: &str = "stowaway.dev";

/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Annotation of the `Repository` which is used where none is named; its value is `"true"`.
pub const IS_DEFAULT: &str = "stowaway.dev/is-default";

/// Annotation by which a user accepts another repository than the one that a `Repository` was opened with. Its value is
/// the id of the new repository, 64 hex digits, or [`ACCEPT_NEW`].
pub const ACCEPT_REPOSITORY: &str = "stowaway.dev/accept-repository";
/// The value of [`ACCEPT_REPOSITORY`] which allows one new repository to be created if none is left. It is valid for
/// one opening; to use it again, remove the annotation and set it again.
pub const ACCEPT_NEW: &str = "new";

/// Finalizer of a `Restore` that has scaled a workload down. It is removed when the workload has its replicas back.
pub const SCALED_FINALIZER: &str = "stowaway.dev/scaled-workload";

/// Annotation of a `Restore` whose Job was allowed to run: the UID of that Restore. A `Restore` with another UID is a
/// copy.
pub const CARRIED_OUT: &str = "stowaway.dev/carried-out";

/// Annotation of a `Restore` that has scaled a workload down: the workload's UID, and its former number of replicas.
pub const SCALED_FROM: &str = "stowaway.dev/scaled-from";

/// Annotation of a claim that a `Restore` has created, until a `Restore` has filled it: the name of the `Restore` that
/// created it. A `Backup` stores neither such a claim nor the dumps of a pod that mounts it.
pub const RESTORE_UNFINISHED: &str = "stowaway.dev/restore-unfinished";

/// Condition of a `Repository`: it was opened with its password and its present spec.
pub const READY: &str = "Ready";
/// Condition of a `Repository`, present only when it is `True`: a run cannot verify the identity of the store, or the
/// traffic can be read by others.
pub const INSECURE_TRANSPORT: &str = "InsecureTransport";
/// Condition of a `Repository`: only one key opens it; see [`RepositoryStatus::conditions`].
pub const KEY_NOT_ESCROWED: &str = "KeyNotEscrowed";
/// Condition of a `Repository`: the last check found no damage. It is `False` from the first damage found until a check
/// of the same data finds it intact, and absent before the first check.
pub const HEALTHY: &str = "Healthy";
/// The type of the condition [`HEALTHY`] in a status that an earlier version wrote.
pub const FORMER_HEALTHY: &str = "Sound";
/// Condition of a `Repository`, present only when it is `True`: a source has shrunk implausibly, and keeps all its
/// snapshots.
pub const SIZE_ANOMALY: &str = "SizeAnomaly";
/// Condition of a `Repository`, present only when it is `True`: another `Repository` of the namespace is the same
/// repository and has another retention, so the last prune has forgotten nothing.
pub const RETENTION_DIFFERS: &str = "RetentionDiffers";
/// Condition of a run: it ended green. It is always present. While the run is in progress, it is `False` and its message
/// states what the run waits for.
pub const COMPLETE: &str = "Complete";
/// Condition of a run, as kstatus reads it: present and `True` as long as the run is in progress.
pub const RECONCILING: &str = "Reconciling";
/// Condition of a run, as kstatus reads it: present and `True` when the run ended without being green.
pub const STALLED: &str = "Stalled";

/// Condition of a run, present and `True` when the run ended without being green, so that
/// `kubectl wait` can wait for it.
pub const FAILED: &str = "Failed";
/// Condition of a `Backup`: no source is missing which the last Backup had, or which a workload's annotations
/// request. It is `Unknown` when the controller could not list the workloads.
pub const COVERED: &str = "Covered";
/// A pattern of the times that can be parsed, because the format `date-time` also accepts invalid offsets, fractions and
/// years.
const TIME: &str = r"^[1-8][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// The definitions of all kinds, which are stored in `manifests/crds/`.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![Repository::crd(), Backup::crd(), Restore::crd()];
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(bound_times);
    crds
}

/// Makes the API server reject times which a client of the object could not parse.
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

//! The actions which a plan requests and the controller carries out.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{names::RunKind, sources::ClaimMount};
use crate::{
    api::{RestoreArchive, ScaledKind},
    model::TaskKind,
};

/// The actions for one object, in the order of the fields. Each action is idempotent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// Create the repository's password Secret unless it exists.
    pub create_password: bool,
    pub restore: RestoreActions,
    /// Create these `VolumeSnapshot`s.
    pub snapshots: Vec<CreateSnapshot>,
    /// Create these Jobs and their service accounts, and start them.
    pub start: Vec<StartJob>,
    /// End these Jobs early, by name.
    pub end: Vec<String>,
    /// Revoke the rights of these Jobs, by name.
    pub revoke: Vec<String>,
    /// Delete these Jobs, by name.
    pub delete: Vec<String>,
    /// Delete these claims, which were created from `VolumeSnapshot`s.
    pub delete_claims: Vec<String>,
    pub delete_snapshots: Vec<String>,
    pub events: Vec<EventRecord>,
    /// Reconcile again after this long, even if no watch reports a change.
    pub requeue_after: Option<Duration>,
}

impl Actions {
    /// Requests a reconcile after this long, unless an earlier one is requested.
    pub fn requeue_within(&mut self, wait: Duration) {
        // Slightly longer, so that a deadline which ends the wait has certainly passed.
        let wait = wait.saturating_add(Duration::from_millis(100));
        self.requeue_after = Some(self.requeue_after.map_or(wait, |earlier| earlier.min(wait)));
    }
}

/// A Job to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct StartJob {
    pub kind: RunKind,
    /// Name of the source; for a run without one, such as an init run, the key which distinguishes its Job's name.
    pub source: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The task which the runner receives.
    pub task: TaskKind,
    /// Name of the Repository.
    pub repository: String,
    /// The time for which the command may run.
    pub timeout: Option<Duration>,
    /// The claim which the pod mounts and backs up.
    pub claim: Option<ClaimMount>,
    /// The temporary claim to create before the Job, which the pod mounts as `claim`.
    pub data_source: Option<TemporaryClaim>,
    /// The target that the pod writes to, besides the repository.
    pub target: Option<RestoreTarget>,
    /// A remark which is added to the run's report and log; empty if there is none.
    pub note: String,
}

/// A `VolumeSnapshot` of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CreateSnapshot {
    /// Name of the `VolumeSnapshot`, which is also the name of the attempt's Job.
    pub name: String,
    pub claim: String,
    /// Name of the `VolumeSnapshotClass`.
    pub class: String,
    /// Name of the source.
    pub source: String,
    /// Number of the next attempt, which uses the snapshot.
    pub attempt: u32,
    /// Name of the Repository.
    pub repository: String,
}

/// A claim which is created from a `VolumeSnapshot`, for one Job.
#[derive(Clone, Debug, PartialEq)]
pub struct TemporaryClaim {
    /// Name of the `VolumeSnapshot`, and of the claim.
    pub snapshot: String,
    pub storage_class: String,
    pub access_mode: String,
    /// Whether it is a block device (`volumeMode: Block`).
    pub device: bool,
    pub size: Quantity,
}

/// The target that the pod of a Restore writes to, besides the repository.
#[derive(Clone, Debug, PartialEq)]
pub enum RestoreTarget {
    Claim(TargetMount),
    /// The store of an archive.
    Archive(Box<RestoreArchive>),
}

/// The claim which the pod of a Restore's Job mounts, and the pod's settings which follow from it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMount {
    /// Name of the claim.
    pub claim: String,
    /// Whether the claim is a block device (`volumeMode: Block`).
    pub device: bool,
    /// Whether the run is root, with only the capabilities to write files of any owner.
    pub as_root: bool,
    /// The only node which the claim can be mounted on now.
    pub node: Option<String>,
    /// The tolerations of the pod which has the claim mounted on that node.
    pub tolerations: Vec<Toleration>,
}

/// The actions of a Restore besides its Jobs: before them, in this order, except for `release`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestoreActions {
    /// Add a finalizer to the Restore, and annotate it with the UID and replicas of its workload: see
    /// [`crate::api::SCALED_FROM`].
    pub hold: Option<String>,
    pub scale: Option<ScaleTo>,
    /// Create this claim unless a claim of its name exists.
    pub create_claim: Option<Box<PersistentVolumeClaim>>,
    /// Remove the annotation [`crate::api::RESTORE_UNFINISHED`] of the target claim, which is filled now.
    pub claim_is_filled: bool,
    /// After all other actions: remove the finalizer.
    pub release: bool,
}

/// A workload, and the number of replicas to set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScaleTo {
    pub kind: ScaledKind,
    pub name: String,
    pub replicas: i32,
}

/// An Event to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventRecord {
    /// Whether its type is `Warning`, not `Normal`.
    pub is_warning: bool,
    /// The machine-readable cause.
    pub reason: String,
    /// The action during which it happened, such as `Backup`.
    pub action: &'static str,
    /// The message for a user.
    pub note: String,
    /// Name of the related Job.
    pub job: Option<String>,
}

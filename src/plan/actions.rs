//! What a plan asks to be done: the vocabulary between deciding and doing.
//!
//! It must not know how anything is done.

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

/// What is to be done for one object, in the order of the fields. Each part may be done twice without harm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// Make the repository's password Secret unless there is one.
    pub create_password: bool,
    /// What is done around a Restore.
    pub around: Around,
    /// Make these `VolumeSnapshot`s.
    pub snapshots: Vec<MakeSnapshot>,
    /// Make these Jobs, give them their identity, and start them.
    pub start: Vec<StartJob>,
    /// Cut these Jobs short.
    pub end: Vec<String>,
    /// Take the rights of these Jobs away.
    pub revoke: Vec<String>,
    /// Delete these Jobs.
    pub delete: Vec<String>,
    /// Delete these claims, which were made of snapshots.
    pub delete_claims: Vec<String>,
    /// Delete these `VolumeSnapshot`s.
    pub delete_snapshots: Vec<String>,
    /// Tell people.
    pub events: Vec<Occurrence>,
    /// Look again after this long, even if nothing was heard.
    pub look_again: Option<Duration>,
}

impl Actions {
    /// Looks again after this long, or earlier.
    pub(super) fn look_again_after(&mut self, wait: Duration) {
        // A moment later than the deadline that is waited for, so that it has passed.
        let wait = wait.saturating_add(Duration::from_millis(100));
        self.look_again = Some(self.look_again.map_or(wait, |earlier| earlier.min(wait)));
    }
}

/// A Job to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct StartJob {
    /// What for.
    pub kind: RunKind,
    /// Name of the source; for an init run, which state of the Repository's spec it speaks of.
    pub source: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// What the runner is told.
    pub task: TaskKind,
    /// Name of the Repository.
    pub repository: String,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// The claim that its pod mounts to be backed up.
    pub claim: Option<ClaimMount>,
    /// Make that claim first.
    pub made_of: Option<TemporaryClaim>,
    /// What its pod writes to.
    pub target: Option<RestoreTarget>,
    /// What its report and its log say beside the rest; empty where there is nothing.
    pub note: String,
}

/// A `VolumeSnapshot` of a claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MakeSnapshot {
    /// Its name, which is the one of the attempt's Job.
    pub name: String,
    /// Of which claim.
    pub claim: String,
    /// By which `VolumeSnapshotClass`.
    pub class: String,
    /// Name of the source.
    pub source: String,
    /// Number of the attempt that is to come.
    pub attempt: u32,
    /// Name of the Repository.
    pub repository: String,
}

/// A claim that is made of a snapshot, for one Job.
#[derive(Clone, Debug, PartialEq)]
pub struct TemporaryClaim {
    /// Name of the `VolumeSnapshot`, and of the claim.
    pub snapshot: String,
    /// Name of its `StorageClass`.
    pub storage_class: String,
    /// How it is mounted.
    pub access_mode: String,
    /// Whether it is a block device.
    pub device: bool,
    /// How big it is.
    pub size: Quantity,
}

/// What the pod of a Restore writes to, besides the repository.
#[derive(Clone, Debug, PartialEq)]
pub enum RestoreTarget {
    /// A claim.
    Claim(TargetMount),
    /// A store, for an archive.
    Archive(Box<RestoreArchive>),
}

/// A claim that the pod of a Job mounts, and what follows from that.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMount {
    /// Its name.
    pub claim: String,
    /// Whether it is a block device (`volumeMode: Block`).
    pub device: bool,
    /// Whether the run is root, with no more rights than to write files of any owner.
    pub as_root: bool,
    /// The only node that it can be mounted on now.
    pub node: Option<String>,
    /// What the pod that has it mounted there tolerates.
    pub tolerations: Vec<Toleration>,
}

/// What is done around a Restore: before its Jobs, in this order, but for the last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Around {
    /// Have the Restore wait for us before it is deleted, and annotate it with what its workload was: see
    /// [`crate::api::SCALED_FROM`].
    pub hold: Option<String>,
    /// Scale a workload.
    pub scale: Option<ScaleTo>,
    /// Make this claim unless there is one of its name.
    pub create_claim: Option<Box<PersistentVolumeClaim>>,
    /// After all the rest: let it be deleted.
    pub release: bool,
}

/// How many replicas a workload gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScaleTo {
    /// Its kind.
    pub kind: ScaledKind,
    /// Its name.
    pub name: String,
    /// So many.
    pub replicas: i32,
}

/// An Event to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Occurrence {
    /// Whether somebody should look at it.
    pub is_warning: bool,
    /// The machine-readable cause.
    pub reason: String,
    /// What was being done, in one word.
    pub action: &'static str,
    /// The same for people.
    pub note: String,
    /// Name of the Job that it is about.
    pub job: Option<String>,
}

//! The stages of a source which is read from a CSI snapshot. A `VolumeSnapshot` of its claim is taken first. Then the
//! Job mounts a temporary claim, which is created from the `VolumeSnapshot`. Both are deleted when the run has ended,
//! with any result.
//!
//! Both have the name of the attempt's Job, so that the controller finds them after a restart.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{ResourceExt, core::DynamicObject};

use super::{Actions, BackupFacts, Planner};
use crate::{
    api::{Outcome, RepositoryKind, RepositoryReference, SourceState, SourceStatus},
    model::{Failure, Reason, RunReport, billionths},
    plan::{
        actions::{CreateSnapshot, TemporaryClaim},
        jobs::MissingVolume,
        names,
        provenance::is_snapshot_of,
        sources::{ClaimMount, ClaimSnapshot, PlannedSource, Target},
        text::{clip, later, until},
    },
};

/// A `VolumeSnapshot` fails if no snapshot controller has bound it to a content after this long.
pub const TAKEN_UP_LIMIT: Duration = Duration::from_mins(5);
/// A `VolumeSnapshot` fails if it is not ready to use after this long; and so does a temporary claim that is not bound.
pub const READY_LIMIT: Duration = Duration::from_hours(1);
/// How long an error of a new `VolumeSnapshot` is ignored, because snapshot controllers report conflicts between each
/// other as errors, and resolve them.
const ERROR_GRACE: Duration = Duration::from_mins(1);
/// How often a `VolumeSnapshot` is checked. The controller does not watch `VolumeSnapshot`s.
const REQUEUE_PAUSE: Duration = Duration::from_secs(3);
/// More attempts of one source than any Backup has.
const MAX_ATTEMPTS: u32 = 16;
/// The reason of a source that waits for its `VolumeSnapshot`.
const SNAPSHOT: &str = "Snapshot";

/// The objects besides Jobs which the attempts of a Backup have created.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staged<'a> {
    /// The `VolumeSnapshot`s.
    pub snapshots: &'a [DynamicObject],
    /// The temporary claims which were created from `snapshots`.
    pub claims: &'a [StagedClaim],
}

impl Staged<'_> {
    pub(super) fn has_snapshot(self, name: &str) -> bool {
        find_snapshot(self, name).is_some()
    }
}

/// A temporary claim which was created from a `VolumeSnapshot`.
#[derive(Clone, Debug)]
pub struct StagedClaim {
    pub claim: PersistentVolumeClaim,
    /// Warnings in Events about the claim, `reason: message`, the newest last.
    pub warning_events: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum SnapshotState {
    /// Not ready yet: the deadline, and the message for the status.
    Waits(Timestamp, String),
    /// Ready to use. A volume which is created from it needs this size, if the driver reports one.
    Ready(Option<Quantity>),
    Failed(Failure),
}

/// Deletes the `VolumeSnapshot`s and claims which no attempt needs any more. Returns whether a deletion is still
/// pending. `stored`: the sources as last written to the status.
///
/// A Job whose run has ended is kept for its log (see [`crate::plan::job_retention`]), and its pod delays the deletion
/// of the claim for as long. A Job that never ran has no log, and its pod would delay the deletion for ever, so the Job
/// is deleted.
pub(super) fn sweep(
    facts: BackupFacts<'_>,
    owner: &names::OwnerRef,
    needed: &BTreeSet<String>,
    stored: &[SourceStatus],
    actions: &mut Actions,
) -> bool {
    let is_present = |metadata: &&ObjectMeta| metadata.deletion_timestamp.is_none();
    // Only names which are derived from the Backup, because any author can set it as the owner of another object.
    let attempts = |source: &SourceStatus| 1..=source.attempt.saturating_add(1).min(MAX_ATTEMPTS);
    let names = stored
        .iter()
        .flat_map(|source| attempts(source).map(|attempt| names::job_name(owner, source.name.as_str(), attempt)));
    let own: BTreeSet<String> = names.collect();
    let is_over = |metadata: &&ObjectMeta| {
        metadata.name.as_ref().is_some_and(|name| own.contains(name) && !needed.contains(name))
    };
    let claims = || facts.staged.claims.iter().map(|staged| &staged.claim.metadata).filter(is_over);
    let jobs = claims().filter_map(|claim| {
        let jobs = facts.jobs.iter().filter(|observed| !observed.has_ended()).map(|observed| &observed.job.metadata);
        jobs.filter(is_present).find(|job| job.name == claim.name)?.name.clone()
    });
    let jobs: Vec<String> = jobs.collect();
    let snapshots = facts.staged.snapshots.iter().map(|snapshot| &snapshot.metadata).filter(is_over);
    let before = (actions.delete_claims.len(), actions.delete_snapshots.len());
    actions.delete_claims.extend(claims().filter(is_present).filter_map(|metadata| metadata.name.clone()));
    actions.delete_snapshots.extend(snapshots.filter(is_present).filter_map(|metadata| metadata.name.clone()));
    let is_left = !jobs.is_empty() || before != (actions.delete_claims.len(), actions.delete_snapshots.len());
    // The Job is deleted only after the status no longer has it as running.
    let is_stored = |job: &String| {
        let mut running = stored.iter().filter(|source| source.state == SourceState::Running);
        !running.any(|source| names::job_name(owner, source.name.as_str(), source.attempt) == *job)
    };
    actions.delete.extend(jobs.into_iter().filter(is_stored));
    if is_left {
        actions.requeue_within(REQUEUE_PAUSE);
    }
    is_left
}

impl Planner<'_, '_> {
    /// The Repositories of the sources whose `VolumeSnapshot` exists and whose Job does not yet. These sources count
    /// against the limits of concurrent Jobs already.
    pub(super) fn snapshot_repositories(
        sources: &[SourceStatus],
        facts: BackupFacts<'_>,
        owner: &names::OwnerRef,
    ) -> Vec<String> {
        let has_begun = |source: &&SourceStatus| {
            let name = names::job_name(owner, source.name.as_str(), source.attempt + 1);
            source.state == SourceState::Waiting && find_snapshot(facts.staged, &name).is_some()
        };
        let repository = |source: &SourceStatus| source.repository_ref.as_ref().map(|reference| reference.name.clone());
        sources.iter().filter(has_begun).filter_map(repository).collect()
    }

    /// Creates the `VolumeSnapshot` of a source, waits for it, and then starts the Job.
    pub(super) fn advance_snapshot(
        &mut self,
        source: &mut SourceStatus,
        repository: String,
        (planned, target): (&PlannedSource, &Target),
        (mount, settings): (&ClaimMount, &ClaimSnapshot),
    ) {
        let name = names::job_name(self.owner, source.name.as_str(), source.attempt + 1);
        self.needed.insert(name.clone());
        let is_of_claim = |snapshot: &&DynamicObject| is_snapshot_of(snapshot, &mount.claim, self.owner.since);
        let Some(snapshot) = find_snapshot(self.facts.staged, &name).filter(is_of_claim) else {
            match self.running_restore(source, target).or_else(|| self.queue(&repository)) {
                Some(why) => self.wait_in_queue(source, &why),
                None => self.create_snapshot(source, name.clone(), repository, (mount, settings)),
            }
            if source.state == SourceState::Done {
                self.needed.remove(&name);
            }
            return;
        };
        // The source itself is counted in `started`, and must not be blocked by that.
        if let Some(own) = self.started.iter().position(|other| *other == repository) {
            self.started.swap_remove(own);
        }
        match snapshot_state(snapshot, (&mount.claim, &settings.class), self.now) {
            SnapshotState::Waits(deadline, message) => {
                self.set_waiting(source, SNAPSHOT, &message, REQUEUE_PAUSE.min(until(deadline, self.now)));
                self.started.push(repository);
            }
            SnapshotState::Failed(failure) => {
                self.needed.remove(&name);
                source.attempt += 1;
                self.finish_attempt(source, None, RunReport::failed(failure, Duration::ZERO));
            }
            SnapshotState::Ready(needs) => {
                if let Some(why) = self.queue(&repository) {
                    self.wait_in_queue(source, &why);
                    if source.state == SourceState::Done {
                        self.needed.remove(&name);
                        return;
                    }
                    self.started.push(repository);
                    return;
                }
                let claim = TemporaryClaim {
                    snapshot: name,
                    storage_class: settings.storage_class.clone(),
                    access_mode: settings.access_mode.clone(),
                    device: mount.device,
                    size: larger(needs, &settings.size),
                };
                self.start(source, repository, planned, (target, Some(claim)));
            }
        }
    }

    fn create_snapshot(
        &mut self,
        source: &mut SourceStatus,
        name: String,
        repository: String,
        (mount, settings): (&ClaimMount, &ClaimSnapshot),
    ) {
        let message = format!("VolumeSnapshot {name} of class {} is being created", settings.class);
        self.set_waiting(source, SNAPSHOT, &message, REQUEUE_PAUSE);
        self.actions.snapshots.push(CreateSnapshot {
            name,
            claim: mount.claim.clone(),
            class: settings.class.clone(),
            source: source.name.to_string(),
            attempt: source.attempt + 1,
            repository: repository.clone(),
        });
        self.started.push(repository.clone());
        source.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name: repository });
    }

    fn set_waiting(&mut self, source: &mut SourceStatus, reason: &str, message: &str, requeue_after: Duration) {
        source.outcome = Outcome { reason: reason.into(), message: clip(message), ..Outcome::default() };
        self.actions.requeue_within(requeue_after);
    }

    /// The temporary claim of this name, if the claim exists and has no volume yet.
    pub(super) fn missing_volume(&self, name: &str) -> Option<MissingVolume> {
        let staged = self.facts.staged.claims.iter().find(|staged| staged.claim.name_any() == name)?;
        let phase = staged.claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Bound") {
            return None;
        }
        let since = staged.claim.creation_timestamp().map_or(self.now, |time| time.0);
        let why = staged.warning_events.last().map(|warning| format!(": {warning}")).unwrap_or_default();
        let message =
            format!("PersistentVolumeClaim {name}, which is created from the snapshot, has no volume yet{why}");
        Some(MissingVolume { message, deadline: Some(later(since, READY_LIMIT)) })
    }
}

fn find_snapshot<'a>(staged: Staged<'a>, name: &str) -> Option<&'a DynamicObject> {
    staged.snapshots.iter().find(|snapshot| snapshot.name_any() == name)
}

/// The state of the `VolumeSnapshot` of this claim and class.
fn snapshot_state(snapshot: &DynamicObject, (claim, class): (&str, &str), now: Timestamp) -> SnapshotState {
    let name = snapshot.name_any();
    let what = format!("VolumeSnapshot {name} of PersistentVolumeClaim {claim}, by class {class},");
    let failed = |reason: Reason, why: String| SnapshotState::Failed(Failure::new(reason, format!("{what} {why}")));
    let Some(since) = snapshot.creation_timestamp().filter(|_| snapshot.metadata.deletion_timestamp.is_none()) else {
        return failed(Reason::VolumeSnapshotFailed, "was deleted before it was used".into());
    };
    let status = |pointer: &str| snapshot.data.pointer(&format!("/status/{pointer}"));
    let text = |pointer: &str| status(pointer).and_then(|value| value.as_str());
    if status("readyToUse").and_then(serde_json::Value::as_bool) == Some(true) {
        return SnapshotState::Ready(text("restoreSize").map(|size| Quantity(size.to_owned())));
    }
    if let Some(error) = status("error") {
        let message = error.get("message").and_then(|message| message.as_str()).unwrap_or("without a message");
        let grace = later(since.0, ERROR_GRACE);
        if now >= grace {
            let why =
                format!("could not be created: {message}; see the logs of the CSI driver and its csi-snapshotter");
            return failed(Reason::VolumeSnapshotFailed, why);
        }
        return SnapshotState::Waits(grace, format!("waits for {what} which reports an error: {message}"));
    }
    let is_taken_up = text("boundVolumeSnapshotContentName").is_some();
    let (limit, why) = if is_taken_up {
        (READY_LIMIT, "is not ready to use; see the logs of the CSI driver and its csi-snapshotter")
    } else {
        (TAKEN_UP_LIMIT, "was not bound by any controller; check that the snapshot controller runs")
    };
    let deadline = later(since.0, limit);
    if now >= deadline {
        return failed(Reason::Timeout, format!("{why}: given up after {} minutes", limit.as_secs() / 60));
    }
    SnapshotState::Waits(deadline, format!("waits for {what} to be ready to use"))
}

/// The larger size; `requested` if a size cannot be parsed.
fn larger(needs: Option<Quantity>, requested: &Quantity) -> Quantity {
    let amount = |quantity: &Quantity| billionths(&quantity.0);
    match needs {
        Some(needs) if amount(&needs) > amount(requested) => needs,
        _ => requested.clone(),
    }
}

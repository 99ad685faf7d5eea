//! A source that is read from a CSI snapshot: the snapshot first, then a claim that is made of it, which its Job mounts; and
//! both are deleted when the run has ended, however it ended.
//!
//! Both have the name of the attempt's Job, so that whoever comes after a restart finds them. It must not know whether a
//! claim can be snapshot at all (`sources::snapshots`).

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
    model::{Failure, Reason, SourceReport, billionths},
    plan::{
        actions::{MakeSnapshot, TemporaryClaim},
        names,
        provenance::is_snapshot_of,
        sources::{ClaimMount, ClaimSnapshot, PlannedSource, Target},
        text::{clip, later, until},
    },
};

/// A snapshot that no controller has taken up after this long is given up.
pub const TAKEN_UP_LIMIT: Duration = Duration::from_mins(5);
/// A snapshot that cannot be used after this long is given up, and so is a volume that is not made of it.
pub const READY_LIMIT: Duration = Duration::from_hours(1);
/// So long a new snapshot may have an error that goes away by itself: controllers write one when they were only in each
/// other's way.
const ERROR_GRACE: Duration = Duration::from_mins(1);
/// How often a snapshot is looked at; nobody tells when it is ready.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// More attempts of one source than any Backup has.
const MOST_ATTEMPTS: u32 = 16;
/// What a source does that waits for its snapshot.
const SNAPSHOT: &str = "Snapshot";

/// What the attempts of a Backup have made besides their Jobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staged<'a> {
    /// Its `VolumeSnapshot`s.
    pub snapshots: &'a [DynamicObject],
    /// The claims that were made of them.
    pub claims: &'a [StagedClaim],
}

impl Staged<'_> {
    /// Whether there is a snapshot of this name.
    pub(super) fn has_snapshot(self, name: &str) -> bool {
        find(self, name).is_some()
    }
}

/// A claim that was made of a snapshot.
#[derive(Clone, Debug)]
pub struct StagedClaim {
    /// The claim as the API server has it.
    pub claim: PersistentVolumeClaim,
    /// Warnings in Events about it, `reason: message`, the newest last.
    pub complaints: Vec<String>,
}

/// How a snapshot stands.
#[derive(Debug, PartialEq)]
enum Standing {
    /// It is waited for; until when, and what people are told.
    Waits(Timestamp, String),
    /// It can be used, and a volume of it needs so much room, if it says.
    Ready(Option<Quantity>),
    /// It will not be.
    Failed(Failure),
}

/// Deletes what no attempt needs any more, and says whether some of it still waits for that. `stored` is what the status says
/// that is stored.
///
/// A Job whose run has ended stays for its log (see [`crate::plan::job_retention`]), and its pod holds the deleted claim for as
/// long. A Job that never ran has no log, and would hold its claim for ever.
pub(super) fn sweep(
    facts: BackupFacts<'_>,
    owner: &names::Owner,
    needed: &BTreeSet<String>,
    stored: &[SourceStatus],
    actions: &mut Actions,
) -> bool {
    let is_present = |metadata: &&ObjectMeta| metadata.deletion_timestamp.is_none();
    // Only names that follow from the Backup: any author can name it as the owner of something else.
    let attempts = |source: &SourceStatus| 1..=source.attempt.saturating_add(1).min(MOST_ATTEMPTS);
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
    let is_stored = |job: &String| {
        let mut running = stored.iter().filter(|source| source.state == SourceState::Running);
        !running.any(|source| names::job_name(owner, source.name.as_str(), source.attempt) == *job)
    };
    actions.delete.extend(jobs.into_iter().filter(is_stored));
    if is_left {
        actions.look_again_after(LOOK_AGAIN);
    }
    is_left
}

impl Planner<'_, '_> {
    /// The Repositories of those sources whose snapshot is made, and whose Job is not: they have their turn.
    pub(super) fn begun(sources: &[SourceStatus], facts: BackupFacts<'_>, owner: &names::Owner) -> Vec<String> {
        let has_begun = |source: &&SourceStatus| {
            let name = names::job_name(owner, source.name.as_str(), source.attempt + 1);
            source.state == SourceState::Waiting && find(facts.staged, &name).is_some()
        };
        let repository = |source: &SourceStatus| source.repository_ref.as_ref().map(|reference| reference.name.clone());
        sources.iter().filter(has_begun).filter_map(repository).collect()
    }

    /// A source that waits for its snapshot, or for the turn to make one.
    pub(super) fn stage(
        &mut self,
        source: &mut SourceStatus,
        repository: String,
        (planned, target): (&PlannedSource, &Target),
        (mount, wish): (&ClaimMount, &ClaimSnapshot),
    ) {
        let name = names::job_name(self.owner, source.name.as_str(), source.attempt + 1);
        self.needed.insert(name.clone());
        let is_its = |snapshot: &&DynamicObject| is_snapshot_of(snapshot, &mount.claim, self.owner.since);
        let Some(snapshot) = find(self.facts.staged, &name).filter(is_its) else {
            match self.restored(source, target).or_else(|| self.queue(&repository)) {
                Some(words) => self.wait_in_queue(source, &words),
                None => self.make(source, name.clone(), repository, (mount, wish)),
            }
            if source.state == SourceState::Done {
                self.needed.remove(&name);
            }
            return;
        };
        // Its own turn is no obstacle to itself.
        if let Some(own) = self.started.iter().position(|other| *other == repository) {
            self.started.swap_remove(own);
        }
        match standing(snapshot, (&mount.claim, &wish.class), self.now) {
            Standing::Waits(deadline, words) => {
                self.tell(source, SNAPSHOT, &words, LOOK_AGAIN.min(until(deadline, self.now)));
                self.started.push(repository);
            }
            Standing::Failed(failure) => {
                self.needed.remove(&name);
                source.attempt += 1;
                self.conclude(source, None, SourceReport::failed(failure, Duration::ZERO));
            }
            Standing::Ready(needs) => {
                if let Some(words) = self.queue(&repository) {
                    self.wait_in_queue(source, &words);
                    if source.state == SourceState::Done {
                        self.needed.remove(&name);
                        return;
                    }
                    self.started.push(repository);
                    return;
                }
                let claim = TemporaryClaim {
                    snapshot: name,
                    storage_class: wish.storage_class.clone(),
                    access_mode: wish.access_mode.clone(),
                    device: mount.device,
                    size: larger(needs, &wish.size),
                };
                self.start(source, repository, planned, (target, Some(claim)));
            }
        }
    }

    fn make(
        &mut self,
        source: &mut SourceStatus,
        name: String,
        repository: String,
        (mount, wish): (&ClaimMount, &ClaimSnapshot),
    ) {
        let words = format!("VolumeSnapshot {name} of class {} is being made", wish.class);
        self.tell(source, SNAPSHOT, &words, LOOK_AGAIN);
        self.actions.snapshots.push(MakeSnapshot {
            name,
            claim: mount.claim.clone(),
            class: wish.class.clone(),
            source: source.name.to_string(),
            attempt: source.attempt + 1,
            repository: repository.clone(),
        });
        self.started.push(repository.clone());
        source.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name: repository });
    }

    fn tell(&mut self, source: &mut SourceStatus, reason: &str, words: &str, look_again: Duration) {
        source.outcome = Outcome { reason: reason.into(), message: clip(words), ..Outcome::default() };
        self.actions.look_again_after(look_again);
    }

    /// The claim of this name that was made of a snapshot and has no volume yet: until when it is waited for, and what is
    /// said of it.
    pub(super) fn provisioning(&self, name: &str) -> Option<(Timestamp, String)> {
        let staged = self.facts.staged.claims.iter().find(|staged| staged.claim.name_any() == name)?;
        let phase = staged.claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Bound") {
            return None;
        }
        let since = staged.claim.creation_timestamp().map_or(self.now, |time| time.0);
        let said = staged.complaints.last().map(|words| format!(": {words}")).unwrap_or_default();
        let words = format!("PersistentVolumeClaim {name}, which is made of the snapshot, has no volume yet{said}");
        Some((later(since, READY_LIMIT), words))
    }
}

fn find<'a>(staged: Staged<'a>, name: &str) -> Option<&'a DynamicObject> {
    staged.snapshots.iter().find(|snapshot| snapshot.name_any() == name)
}

/// How the snapshot stands, of this claim and by this class.
fn standing(snapshot: &DynamicObject, (claim, class): (&str, &str), now: Timestamp) -> Standing {
    let name = snapshot.name_any();
    let what = format!("VolumeSnapshot {name} of PersistentVolumeClaim {claim}, by class {class},");
    let failed = |reason: Reason, why: String| Standing::Failed(Failure::new(reason, format!("{what} {why}")));
    let Some(since) = snapshot.creation_timestamp().filter(|_| snapshot.metadata.deletion_timestamp.is_none()) else {
        return failed(Reason::VolumeSnapshotFailed, "was deleted before it was used".into());
    };
    let status = |pointer: &str| snapshot.data.pointer(&format!("/status/{pointer}"));
    let text = |pointer: &str| status(pointer).and_then(|value| value.as_str());
    if status("readyToUse").and_then(serde_json::Value::as_bool) == Some(true) {
        return Standing::Ready(text("restoreSize").map(|size| Quantity(size.to_owned())));
    }
    if let Some(error) = status("error") {
        let message = error.get("message").and_then(|message| message.as_str()).unwrap_or("without a message");
        let grace = later(since.0, ERROR_GRACE);
        if now >= grace {
            let why = format!("could not be made: {message}; see the logs of the CSI driver and its csi-snapshotter");
            return failed(Reason::VolumeSnapshotFailed, why);
        }
        return Standing::Waits(grace, format!("waits for {what} which has an error: {message}"));
    }
    let is_taken_up = text("boundVolumeSnapshotContentName").is_some();
    let (limit, why) = if is_taken_up {
        (READY_LIMIT, "is not ready to use; see the logs of the CSI driver and its csi-snapshotter")
    } else {
        (TAKEN_UP_LIMIT, "was not taken up by anybody; see whether the snapshot controller runs")
    };
    let deadline = later(since.0, limit);
    if now >= deadline {
        return failed(Reason::Timeout, format!("{why}: given up after {} minutes", limit.as_secs() / 60));
    }
    Standing::Waits(deadline, format!("waits for {what} to be ready to use"))
}

/// The larger one; the second where one cannot be read.
fn larger(needs: Option<Quantity>, asked: &Quantity) -> Quantity {
    let amount = |quantity: &Quantity| billionths(&quantity.0);
    match needs {
        Some(needs) if amount(&needs) > amount(asked) => needs,
        _ => asked.clone(),
    }
}

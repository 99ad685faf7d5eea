//! Scales a workload to 0 before a Restore, and back to its replicas after it, with any result.
//!
//! The replicas are written into an annotation of the Restore before the workload is scaled, together with a finalizer
//! which keeps the Restore until the workload is scaled back, however often that is refused. So neither a restart of the
//! controller nor a deletion of the Restore leaves the workload down. The annotation is written once, by a patch with
//! the resource version which it is based on, so that two controllers cannot overwrite each other's number. The status
//! only shows the number.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    ObservedScale, RestoreFacts,
    claim::{self, refused},
    in_use::pod_beside,
    set_conditions,
    target::StartError,
};
use crate::{
    api::{Restore, RestoreStatus, SCALED_FINALIZER, SCALED_FROM, ScaleDown, Scaled},
    model::{Reason, Verdict},
    plan::{
        actions::{Actions, EventRecord, ScaleTo},
        jobs::{JobState, ObservedJob, job_state},
        text::{clip, later, until, with_statement},
    },
};

/// How long the pods of a workload may take to end, and the Job of a deleted Restore.
pub(super) const LIMIT: Duration = Duration::from_mins(5);
const REQUEUE_PAUSE: Duration = Duration::from_secs(2);
/// How often the workload is checked while the Job runs, because the controller does not watch workloads.
const RUNNING_REQUEUE: Duration = Duration::from_secs(10);
/// How often scaling back is tried again.
const REFUSED_REQUEUE: Duration = Duration::from_mins(1);

/// The name of another Restore of the namespace which has scaled the same workload down, and not back yet.
pub fn scaled_down_by(restore: &Restore, restores: &[Restore]) -> Option<String> {
    let scale_down = restore.spec.scale_down.as_ref()?;
    let holds = |other: &&Restore| {
        let scaled = other.status.as_ref().and_then(|status| status.scaled.as_ref());
        let is_back = scaled.map_or(!(is_held(other) && recorded(other).is_some()), |scaled| scaled.is_back);
        other.spec.scale_down.as_ref() == Some(scale_down) && !is_back
    };
    let mut others = restores.iter().filter(|other| other.metadata.uid != restore.metadata.uid);
    others.find(holds).map(ResourceExt::name_any)
}

fn scaled(uid: String, replicas: i32, now: Timestamp) -> Scaled {
    Scaled { uid, replicas, since: Time(now), disturbed_time: None, is_back: false }
}

fn is_held(restore: &Restore) -> bool {
    restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER)
}

/// UID and replicas of the workload before it was scaled down, from the annotation of the Restore.
fn recorded(restore: &Restore) -> Option<(String, i32)> {
    let (uid, replicas) = restore.annotations().get(SCALED_FROM)?.split_once(' ')?;
    Some((uid.to_owned(), replicas.parse().ok().filter(|replicas| *replicas >= 0)?))
}

/// Replaces the workload's UID and replicas in the status by those of the annotation, because a client which may write
/// a status may have no right to scale workloads.
pub(super) fn recover(restore: &Restore, status: &mut RestoreStatus, now: Timestamp) {
    if !is_held(restore) {
        // Without the finalizer, nothing was scaled, or it is scaled back already.
        status.scaled = status.scaled.take().filter(|scaled| scaled.is_back);
    } else if let Some((uid, replicas)) = recorded(restore) {
        let known = status.scaled.take().unwrap_or_else(|| scaled(String::new(), 0, now));
        status.scaled = Some(Scaled { uid, replicas, ..known });
    }
}

/// Records in the status that the workload was scaled up, or that pods used the claim, while the Job ran.
pub(super) fn record_disturbance(
    facts: RestoreFacts<'_>,
    job: &str,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) {
    let is_used = pod_beside(facts, (job, &status.claim), now).is_some();
    let Some(scaled) = status.scaled.as_mut().filter(|scaled| !scaled.is_back) else { return };
    let observed = facts.claim.and_then(|facts| facts.scale).filter(|observed| observed.uid == scaled.uid);
    if is_used || observed.is_some_and(|observed| observed.replicas != 0 || observed.pods != 0) {
        scaled.disturbed_time.get_or_insert(Time(now));
    }
    actions.requeue_within(RUNNING_REQUEUE);
}

/// Downgrades the verdict if the workload or the claim had pods while the Job ran, because they may have written into
/// the claim.
pub(super) fn report_disturbance(status: &mut RestoreStatus) {
    let Some(Time(time)) = status.scaled.as_ref().and_then(|scaled| scaled.disturbed_time.clone()) else { return };
    let outcome = &mut status.outcome;
    let separator = if outcome.message.is_empty() { "" } else { "; " };
    let warning = format!(
        "the workload of scaleDown was scaled up by another author, or another pod used the claim, while the restore ran \
         (first seen at {time}), so pods may have written into the claim: stop the autoscaler or GitOps tool which \
         starts them, and restore again"
    );
    outcome.message = format!("{}{separator}{warning}", outcome.message);
    if outcome.verdict == Some(Verdict::Succeeded) {
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.reason = Reason::TargetInUse.to_string();
    }
}

/// Scales the workload down. Returns `None` once it has no pods and no pod mounts the claim, else a message which states
/// what is being waited for.
pub(super) fn ensure_down(
    scale_down: &ScaleDown,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<Option<String>, StartError> {
    let ScaleDown { kind, name } = scale_down;
    let observed = facts.claim.and_then(|facts| facts.scale);
    let Some(scaled) = &status.scaled else {
        // The present replicas are not the workload's own while another Restore has scaled it down.
        if let Some(other) = facts.claim.and_then(|facts| facts.scaled_down_by) {
            actions.requeue_within(REQUEUE_PAUSE);
            return Ok(Some(format!("waits for Restore {other}, which has {kind} {name} scaled to 0")));
        }
        let Some(observed @ ObservedScale { uid, replicas, .. }) = observed else {
            return Err(refused(Reason::InvalidRequest, format!("there is no {kind} {name} in this namespace")));
        };
        if let Some(why) = deletes_claims(scale_down, observed) {
            return Err(refused(Reason::InvalidRequest, why));
        }
        actions.restore.hold = Some(format!("{uid} {replicas}"));
        status.scaled = Some(scaled(uid.clone(), *replicas, now));
        // The workload is scaled only after the annotation is written.
        actions.requeue_within(Duration::from_millis(10));
        return Ok(Some(format!("{kind} {name} is being scaled to 0")));
    };
    if let Some(other) = observed.filter(|observed| observed.uid != scaled.uid) {
        let message = format!(
            "{kind} {name} was deleted and created again by another author after it was scaled to 0 (its UID was {} and is \
             {}), so its pods may use the claim; nothing was changed: stop the tool which replaces it, and restore again",
            scaled.uid, other.uid
        );
        return Err(refused(Reason::TargetInUse, message));
    }
    keep_down(scale_down, facts, status, actions);
    // The pods of a workload which was deleted are still ending.
    let (replicas, pods) = observed.map_or((0, 0), |observed| (observed.replicas, observed.pods));
    let claim = status.claim.clone();
    let users: Vec<_> = claim::users(facts.pods, &claim).collect();
    let waiting = match (replicas, pods, users.as_slice()) {
        (0, 0, []) => return Ok(None),
        (0, 0, users) => format!("pods which mount claim {claim} ({})", claim::names(users)),
        (_, pods, _) => format!("{pods} pods of {kind} {name}"),
    };
    let deadline = later(scaled_since(status, now), LIMIT);
    if now >= deadline {
        let message = format!(
            "{waiting} had not ended {} minutes after {kind} {name} was scaled to 0; nothing was changed: end them{}",
            LIMIT.as_secs() / 60,
            claim::lost_node(&users)
        );
        return Err(refused(Reason::TargetInUse, message));
    }
    actions.requeue_within(REQUEUE_PAUSE.min(until(deadline, now)));
    Ok(Some(format!("{waiting} are ending")))
}

/// Why the workload must not be scaled down, if Kubernetes would delete the claims of its pods then, among them those
/// which the Restore does not concern.
fn deletes_claims(scale_down: &ScaleDown, observed: &ObservedScale) -> Option<String> {
    let ScaleDown { kind, name } = scale_down;
    let policy = "spec.persistentVolumeClaimRetentionPolicy.whenScaled";
    match observed.deletes_claims {
        Some(false) => None,
        // A workload which is down is not scaled.
        _ if observed.replicas == 0 && observed.pods == 0 => None,
        Some(true) => Some(format!(
            "Kubernetes deletes the claims of the pods of {kind} {name} when it is scaled down ({policy} is Delete); \
             nothing was changed: set it to Retain, and restore again"
        )),
        None => Some(format!(
            "the controller may not list StatefulSets, so it is unknown whether {kind} {name} deletes the claims of \
             its pods when it is scaled down ({policy}); nothing was changed: apply the manifests of Stowaway again, which \
             contain that right, and restore again"
        )),
    }
}

fn scaled_since(status: &RestoreStatus, now: Timestamp) -> Timestamp {
    status.scaled.as_ref().map_or(now, |scaled| scaled.since.0)
}

/// Scales the workload to 0 again if another client scaled it up meanwhile.
pub(super) fn keep_down(
    scale_down: &ScaleDown,
    facts: RestoreFacts<'_>,
    status: &RestoreStatus,
    actions: &mut Actions,
) {
    let scaled = status.scaled.as_ref().filter(|scaled| !scaled.is_back);
    let observed = facts.claim.and_then(|facts| facts.scale);
    if let (Some(scaled), Some(observed)) = (scaled, observed)
        && observed.uid == scaled.uid
        && observed.replicas != 0
    {
        actions.restore.scale = Some(ScaleTo { kind: scale_down.kind, name: scale_down.name.clone(), replicas: 0 });
    }
}

/// Scales the workload back once no Job of the Restore runs, and then removes the finalizer.
pub(super) fn scale_back(
    restore: &Restore,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) {
    let is_held = is_held(restore);
    let job = status.job.clone();
    if let (Some(scaled), Some(scale_down)) = (&mut status.scaled, &restore.spec.scale_down)
        && !scaled.is_back
    {
        let deleted = restore.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        if let (Some(deleted), Some(job)) = (deleted, running(facts.jobs, job.as_deref(), now))
            && now < later(deleted, LIMIT)
        {
            // The Job, which writes into the volume, ends before the app starts.
            actions.end.push(job.to_owned());
            actions.requeue_within(REQUEUE_PAUSE);
            return;
        }
        // `keep_down` may have requested a scale to 0 in this plan.
        actions.restore.scale = None;
        let observed = facts.claim.and_then(|facts| facts.scale).filter(|observed| observed.uid == scaled.uid);
        // A workload which was deleted, or has replicas, was changed by another client and is left alone.
        if observed.is_some_and(|observed| observed.replicas == 0) && scaled.replicas > 0 {
            let ScaleDown { kind, name } = scale_down;
            actions.restore.scale = Some(ScaleTo { kind: *kind, name: name.clone(), replicas: scaled.replicas });
            actions.events.push(EventRecord {
                is_warning: false,
                reason: "ScaledBack".to_owned(),
                action: "Restore",
                note: format!("{kind} {name} is scaled back to {} replicas", scaled.replicas),
                job,
            });
        }
        scaled.is_back = true;
    }
    actions.restore.release |= is_held;
}

/// Adds to the result of a Restore that the API server has not carried out the planned scaling. Scaling back is planned
/// again, and the finalizer stays until then. A workload which another client has scaled up beside the Job is reported
/// by [`report_disturbance`].
pub fn scaling_refused(status: &mut RestoreStatus, actions: &mut Actions, error: &str, now: Timestamp) {
    let (Some(ScaleTo { kind, name, replicas }), Some(scaled)) = (&actions.restore.scale, &mut status.scaled) else {
        return;
    };
    if *replicas == 0 {
        return;
    }
    scaled.is_back = false;
    let problem = format!("{kind} {name} could not be scaled back to {replicas} replicas");
    let next = format!(
        "it is tried again every minute until the workload has replicas; to do it yourself: kubectl scale {}/{name} \
         --replicas={replicas}",
        kind.to_string().to_lowercase()
    );
    actions.restore.release = false;
    // They report the planned verdict, and that the workload was scaled back.
    actions.events.clear();
    actions.requeue_after = None;
    actions.requeue_within(REFUSED_REQUEUE);
    if status.outcome.message.contains(&problem) {
        return;
    }
    let outcome = &mut status.outcome;
    // First, because a long message is cut.
    let statement = format!("{problem} when the restore ended ({error}); {next}");
    outcome.message = clip(&with_statement(&statement, &outcome.message));
    if outcome.verdict == Some(Verdict::Succeeded) {
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.reason = Reason::NotScaledBack.to_string();
    }
    if outcome.verdict.is_none() {
        // The Restore is being deleted.
        actions.events.push(EventRecord {
            is_warning: true,
            reason: Reason::NotScaledBack.to_string(),
            action: "Restore",
            note: clip(&statement),
            job: status.job.clone(),
        });
        return;
    }
    let condition = (outcome.reason.clone(), outcome.message.clone());
    let ended = status.completion_time.clone();
    let requeue_after = actions.requeue_after;
    set_conditions(status, actions, &condition, now);
    status.completion_time = ended.or(status.completion_time.take());
    actions.requeue_after = requeue_after;
}

/// The name of the Job, if it is not over.
fn running<'a>(jobs: &[ObservedJob], job: Option<&'a str>, now: Timestamp) -> Option<&'a str> {
    let job = job?;
    let observed = jobs.iter().find(|observed| observed.job.name_any() == job)?;
    (!matches!(job_state(observed, now), JobState::Ended(_))).then_some(job)
}

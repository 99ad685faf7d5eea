//! The workload around a Restore: down to 0 before it, back to what it was after it, whatever came out.
//!
//! What it was is written into an annotation of the Restore before it is touched, together with a finalizer that holds the
//! Restore until it is back; so neither a restart of the controller nor a deletion of the Restore leaves it down. The
//! annotation is written once, by a patch that names the version it is based on, so that two controllers cannot replace one
//! number by another; the status only shows it. It must not know what is restored.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{ObservedScale, RestoreFacts, claim::refused, target::Missing};
use crate::{
    api::{Restore, RestoreStatus, SCALED_FINALIZER, SCALED_FROM, ScaleDown, Scaled},
    model::{Reason, Verdict},
    plan::{
        actions::{Actions, Occurrence, ScaleTo},
        jobs::{ObservedJob, Standing, standing},
        text::{later, until},
    },
};

/// How long the pods of a workload are waited for, and those of a Job whose Restore is deleted.
pub(super) const LIMIT: Duration = Duration::from_mins(5);
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often the workload is looked at while the Job runs: nothing reports that it was scaled up.
const RUNNING_LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The other one of the namespace's Restores that has scaled the same workload down, and not back yet.
pub fn held_down_by(restore: &Restore, restores: &[Restore]) -> Option<String> {
    let wish = restore.spec.scale_down.as_ref()?;
    let holds = |other: &&Restore| {
        let scaled = other.status.as_ref().and_then(|status| status.scaled.as_ref());
        let is_back = scaled.map_or(!(is_held(other) && written(other).is_some()), |scaled| scaled.is_back);
        other.spec.scale_down.as_ref() == Some(wish) && !is_back
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

/// UID and replicas of the workload before it was scaled down, as the annotation of the Restore has them.
fn written(restore: &Restore) -> Option<(String, i32)> {
    let (uid, replicas) = restore.annotations().get(SCALED_FROM)?.split_once(' ')?;
    Some((uid.to_owned(), replicas.parse().ok().filter(|replicas| *replicas >= 0)?))
}

/// Replaces the status' record of the workload by what was written down before it was scaled: who may write a status need
/// not be allowed to scale anything.
pub(super) fn recover(restore: &Restore, status: &mut RestoreStatus, now: Timestamp) {
    if !is_held(restore) {
        // Nothing of it was scaled, or all of it is back.
        status.scaled = status.scaled.take().filter(|scaled| scaled.is_back);
    } else if let Some((uid, replicas)) = written(restore) {
        let known = status.scaled.take().unwrap_or_else(|| scaled(String::new(), 0, now));
        status.scaled = Some(Scaled { uid, replicas, ..known });
    }
}

/// Notes that the workload was scaled up, or had pods, while the Job runs.
pub(super) fn notice(facts: RestoreFacts<'_>, status: &mut RestoreStatus, actions: &mut Actions, now: Timestamp) {
    let Some(scaled) = status.scaled.as_mut().filter(|scaled| !scaled.is_back) else { return };
    let observed = facts.claim.and_then(|facts| facts.scale).filter(|observed| observed.uid == scaled.uid);
    if observed.is_some_and(|observed| observed.replicas != 0 || observed.pods != 0) {
        scaled.disturbed_time.get_or_insert(Time(now));
    }
    actions.look_again_after(RUNNING_LOOK_AGAIN);
}

/// A restore beside which the workload ran is not green: its pods may have written into the claim.
pub(super) fn tell_disturbance(status: &mut RestoreStatus) {
    let Some(Time(time)) = status.scaled.as_ref().and_then(|scaled| scaled.disturbed_time.clone()) else { return };
    let outcome = &mut status.outcome;
    let separator = if outcome.message.is_empty() { "" } else { "; " };
    let words = format!(
        "the workload of scaleDown was scaled up by another author while the restore ran (first seen at {time}), so that its \
         pods may have written into the claim: stop what scales it (an autoscaler, a GitOps tool), and restore again"
    );
    outcome.message = format!("{}{separator}{words}", outcome.message);
    if outcome.verdict == Some(Verdict::Succeeded) {
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.reason = Reason::TargetInUse.to_string();
    }
}

/// Whether the workload is down; what is being waited for otherwise.
pub(super) fn is_down(
    wish: &ScaleDown,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<Option<String>, Missing> {
    let ScaleDown { kind, name } = wish;
    let observed = facts.claim.and_then(|facts| facts.scale);
    let Some(scaled) = &status.scaled else {
        // What it is now is not what it was before the other one.
        if let Some(other) = facts.claim.and_then(|facts| facts.held_down_by) {
            actions.look_again_after(LOOK_AGAIN);
            return Ok(Some(format!("waits for Restore {other}, which has {kind} {name} scaled to 0")));
        }
        let Some(ObservedScale { uid, replicas, .. }) = observed else {
            return Err(refused(Reason::InvalidRequest, format!("there is no {kind} {name} in this namespace")));
        };
        actions.around.hold = Some(format!("{uid} {replicas}"));
        status.scaled = Some(scaled(uid.clone(), *replicas, now));
        // Only when that is written down.
        actions.look_again_after(Duration::from_millis(10));
        return Ok(Some(format!("{kind} {name} is being scaled to 0")));
    };
    let Some(observed) = observed.filter(|observed| observed.uid == scaled.uid) else { return Ok(None) };
    keep_down(wish, facts, status, actions);
    if observed.replicas == 0 && observed.pods == 0 {
        return Ok(None);
    }
    let deadline = later(scaled_since(status, now), LIMIT);
    if now >= deadline {
        let message = format!(
            "{} pods of {kind} {name} were not gone {} minutes after it was scaled to 0; nothing was changed",
            observed.pods,
            LIMIT.as_secs() / 60
        );
        return Err(refused(Reason::TargetInUse, message));
    }
    actions.look_again_after(LOOK_AGAIN.min(until(deadline, now)));
    Ok(Some(format!("{} pods of {kind} {name} are ending", observed.pods)))
}

fn scaled_since(status: &RestoreStatus, now: Timestamp) -> Timestamp {
    status.scaled.as_ref().map_or(now, |scaled| scaled.since.0)
}

/// Scales to 0 what somebody else scaled up meanwhile.
pub(super) fn keep_down(wish: &ScaleDown, facts: RestoreFacts<'_>, status: &RestoreStatus, actions: &mut Actions) {
    let ours = status.scaled.as_ref().filter(|scaled| !scaled.is_back);
    let observed = facts.claim.and_then(|facts| facts.scale);
    if let (Some(scaled), Some(observed)) = (ours, observed)
        && observed.uid == scaled.uid
        && observed.replicas != 0
    {
        actions.around.scale = Some(ScaleTo { kind: wish.kind, name: wish.name.clone(), replicas: 0 });
    }
}

/// Gives the workload its replicas back once nothing runs any more, and lets the Restore go.
pub(super) fn settle(
    restore: &Restore,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) {
    let is_held = is_held(restore);
    let job = status.job.clone();
    if let (Some(scaled), Some(wish)) = (&mut status.scaled, &restore.spec.scale_down)
        && !scaled.is_back
    {
        let deleted = restore.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        if let (Some(deleted), Some(job)) = (deleted, running(facts.jobs, job.as_deref(), now))
            && now < later(deleted, LIMIT)
        {
            // What writes into the volume ends before the app comes back.
            actions.end.push(job.to_owned());
            actions.look_again_after(LOOK_AGAIN);
            return;
        }
        // It may have been meant to be kept down until now.
        actions.around.scale = None;
        let observed = facts.claim.and_then(|facts| facts.scale).filter(|observed| observed.uid == scaled.uid);
        // One that is gone, or has replicas again, is somebody else's by now.
        if observed.is_some_and(|observed| observed.replicas == 0) && scaled.replicas > 0 {
            let ScaleDown { kind, name } = wish;
            actions.around.scale = Some(ScaleTo { kind: *kind, name: name.clone(), replicas: scaled.replicas });
            actions.events.push(Occurrence {
                is_warning: false,
                reason: "ScaledBack".to_owned(),
                action: "Restore",
                note: format!("{kind} {name} has its {} replicas back", scaled.replicas),
                job,
            });
        }
        scaled.is_back = true;
    }
    actions.around.release |= is_held;
}

/// The Job, if it is not over.
fn running<'a>(jobs: &[ObservedJob], job: Option<&'a str>, now: Timestamp) -> Option<&'a str> {
    let job = job?;
    let observed = jobs.iter().find(|observed| observed.job.name_any() == job)?;
    (!matches!(standing(observed, now), Standing::Ended(_))).then_some(job)
}

//! The workload around a Restore: down to 0 before it, back to what it was after it, whatever came out.
//!
//! What it was stands in the status before it is touched, and a finalizer holds the Restore until it is back; so neither a
//! restart of the controller nor a deletion of the Restore leaves it down. It must not know what is restored.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{ObservedScale, RestoreFacts, claim::refused, target::Missing};
use crate::{
    api::{Restore, RestoreStatus, SCALED_FINALIZER, ScaleDown, Scaled},
    model::Reason,
    plan::{
        actions::{Actions, Occurrence, ScaleTo},
        jobs::{ObservedJob, Standing, standing},
        text::{later, until},
    },
};

/// How long the pods of a workload are waited for, and those of a Job whose Restore is deleted.
pub(super) const LIMIT: Duration = Duration::from_mins(5);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The other one of the namespace's Restores that has scaled the same workload down, and not back yet.
pub fn held_down_by(restore: &Restore, restores: &[Restore]) -> Option<String> {
    let wish = restore.spec.scale_down.as_ref()?;
    let holds = |other: &&Restore| {
        let scaled = other.status.as_ref().and_then(|status| status.scaled.as_ref());
        other.spec.scale_down.as_ref() == Some(wish) && scaled.is_some_and(|scaled| !scaled.is_back)
    };
    let mut others = restores.iter().filter(|other| other.metadata.uid != restore.metadata.uid);
    others.find(holds).map(ResourceExt::name_any)
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
        actions.around.hold = true;
        status.scaled = Some(Scaled { uid: uid.clone(), replicas: *replicas, since: Time(now), is_back: false });
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
    let is_held = restore.finalizers().iter().any(|finalizer| finalizer == SCALED_FINALIZER);
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

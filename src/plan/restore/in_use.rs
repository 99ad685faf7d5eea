//! What happens to a claim while a Restore writes into it. The Restore is not green if other pods start on the claim,
//! because they may have written between the restored entries, or if the claim does not remain. Pods which mount the
//! claim before the Job starts are refused by `claim`.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{RestoreFacts, claim, pod_use};
use crate::{
    api::{Restore, RestoreStatus},
    model::{Reason, Verdict},
    plan::{end_of_run, is_run_pod, text::with_statement},
};

/// A pod which had a container running on the claim while the Job ran, and when that container started.
pub(super) fn pod_beside(
    facts: RestoreFacts<'_>,
    (job, claim): (&str, &str),
    now: Timestamp,
) -> Option<(String, Timestamp)> {
    let job = facts.jobs.iter().find(|observed| observed.job.name_any() == job)?;
    let status = job.job.status.as_ref();
    let began = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let completed = || status?.completion_time.as_ref().map(|time| time.0);
    let ended = end_of_run(job).or_else(completed).unwrap_or(now);
    let pods = facts.pods.iter().map(|observed| &observed.pod);
    let mut pods = pods.filter(|pod| !is_run_pod(pod) && claim::mounts(pod, claim));
    pods.find_map(|pod| {
        // The times are cut to seconds. A pod with a restore step starts only after the Job has released the volume.
        let has_step = pod_use::has_step(pod);
        let is_before_end = |start: Timestamp| if has_step { start < ended } else { start <= ended };
        let beside = pod_use::runs(pod, claim).into_iter().filter(|run| {
            let is_after_begin = run.end.zip(began).is_none_or(|(end, began)| end > began);
            is_after_begin && is_before_end(run.start)
        });
        Some((pod.name_any(), beside.map(|run| run.start).min()?))
    })
}

/// The UID of the target claim; empty if there is none.
pub(super) fn claim_uid(facts: RestoreFacts<'_>) -> String {
    facts.claim.and_then(|facts| facts.claim?.uid()).unwrap_or_default()
}

/// Why the claim does not keep what the Job has written into it. `uid`: that of the claim when the Job started; empty
/// if it is unknown.
pub(super) fn lost_claim(facts: RestoreFacts<'_>, (name, uid): (&str, &str)) -> Option<String> {
    let of_claim = facts.claim?;
    let present = claim_uid(facts);
    let what = match of_claim.claim {
        None => "was deleted",
        Some(_) if !uid.is_empty() && !present.is_empty() && uid != present => "was deleted and created again",
        Some(claim) if claim.metadata.deletion_timestamp.is_some() => "is being deleted",
        Some(_) => return None,
    };
    Some(format!(
        "claim {name} {what} by another author since the restore began, and what was restored is deleted with it: stop \
         the tool which deletes the claim, and restore again"
    ))
}

/// Downgrades the verdict if the claim does not remain, or if a container of another pod ran on it while the Job ran. A
/// Restore with `overwrite` may have such pods, unless it keeps a workload down. Returns reason and message for the
/// condition.
pub(super) fn report_use(
    restore: &Restore,
    facts: RestoreFacts<'_>,
    job: &str,
    status: &mut RestoreStatus,
    now: Timestamp,
) -> Option<(String, String)> {
    let to = restore.spec.to.as_ref()?.claim.as_ref()?;
    let verdict = status.outcome.verdict.filter(|verdict| *verdict != Verdict::Failed)?;
    let why = match lost_claim(facts, (&to.name, &status.claim_uid)) {
        Some(why) => why,
        None if !verdict.is_green() || to.overwrite && restore.spec.scale_down.is_none() => return None,
        None => {
            let (pod, first) = pod_beside(facts, (job, &to.name), now)?;
            format!(
                "pod {pod} mounts claim {} and started at {first}, while the restore ran, so it may have written into \
                 the claim: end it, empty the claim, and restore again (spec.scaleDown keeps a workload down meanwhile)",
                to.name
            )
        }
    };
    let outcome = &mut status.outcome;
    outcome.message = with_statement(&outcome.message, &why);
    outcome.verdict = Some(Verdict::Incomplete);
    outcome.reason = Reason::TargetInUse.to_string();
    Some((outcome.reason.clone(), outcome.message.clone()))
}

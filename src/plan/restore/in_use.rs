//! Pods which start while a Restore writes into their claim: the Restore is not green, because they may have written
//! between the restored entries. Pods which mount the claim before the Job starts are refused by `claim`.

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

/// Downgrades the verdict of a green Restore if a container of another pod ran on its claim while its Job ran. A
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
    if to.overwrite && restore.spec.scale_down.is_none() {
        return None;
    }
    status.outcome.verdict.filter(|verdict| verdict.is_green())?;
    let (pod, first) = pod_beside(facts, (job, &to.name), now)?;
    let outcome = &mut status.outcome;
    let use_beside = format!(
        "pod {pod} mounts claim {} and started at {first}, while the restore ran, so it may have written into \
         the claim: end it, empty the claim, and restore again (spec.scaleDown keeps a workload down meanwhile)",
        to.name
    );
    outcome.message = with_statement(&outcome.message, &use_beside);
    outcome.verdict = Some(Verdict::Incomplete);
    outcome.reason = Reason::TargetInUse.to_string();
    Some((outcome.reason.clone(), outcome.message.clone()))
}

//! How long a finished Job is kept after its result is stored in a status. Its pod holds the log, but also keeps the
//! claims which it mounts from being deleted.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};

use super::{ObservedJob, finished, has_ended, is_over};
use crate::plan::names::RUNNER_CONTAINER;

/// How long a successful Job is kept.
const AFTER_SUCCESS: Duration = Duration::from_hours(1);
/// How long a failed Job is kept, for its log.
const AFTER_FAILURE: Duration = Duration::from_hours(24);
/// The same if the pod mounts a claim, because Kubernetes does not delete a claim while a pod names it, even if the pod
/// has ended.
const AFTER_SUCCESS_ON_CLAIM: Duration = Duration::from_mins(1);
/// See [`AFTER_SUCCESS_ON_CLAIM`].
const AFTER_FAILURE_ON_CLAIM: Duration = Duration::from_mins(10);

/// How often the claims of ended Jobs are looked at, because a claim that is being deleted waits for them.
pub const CLAIM_LOOK: Duration = Duration::from_secs(10);

/// The cleanup of a Job whose result is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JobRetention {
    /// Nothing: the Job has not ended, or its time to live is set already.
    Keep,
    /// Set the Job's time to live after its end.
    Expire(Duration),
    /// Delete the Job now. Either the run has ended and another container, such as a service mesh proxy, keeps its pod
    /// alive, or a claim that the pod mounts is being deleted.
    Delete,
}

/// `ending`: the claims of the namespace which are being deleted.
pub fn job_retention(observed: &ObservedJob, ending: &BTreeSet<String>) -> JobRetention {
    let ObservedJob { job, pods, .. } = observed;
    if job.metadata.deletion_timestamp.is_some() {
        return JobRetention::Keep;
    }
    if !is_over(job) {
        let is_held_up = has_ended(job, pods) && pods.iter().any(has_other_container);
        return if is_held_up { JobRetention::Delete } else { JobRetention::Keep };
    }
    // A user who deletes a claim waits for that. The status has the result, and the end of the log of a failed run.
    if claims(job).any(|claim| ending.contains(claim)) {
        return JobRetention::Delete;
    }
    let spec = job.spec.as_ref();
    if spec.is_some_and(|spec| spec.ttl_seconds_after_finished.is_some()) {
        return JobRetention::Keep;
    }
    JobRetention::Expire(match (finished(job, "Complete").is_some(), mounts_claim(job)) {
        (true, false) => AFTER_SUCCESS,
        (true, true) => AFTER_SUCCESS_ON_CLAIM,
        (false, false) => AFTER_FAILURE,
        (false, true) => AFTER_FAILURE_ON_CLAIM,
    })
}

fn has_other_container(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .filter(|status| status.name != RUNNER_CONTAINER)
        .any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn mounts_claim(job: &Job) -> bool {
    mounted_claims(job).next().is_some()
}

fn mounted_claims(job: &Job) -> impl Iterator<Item = &str> {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let volumes = pod.into_iter().flat_map(|pod| pod.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// The claims of users which the Job's pod mounts. A temporary claim, which has the name of its Job, waits for the Job,
/// whose log is kept.
fn claims(job: &Job) -> impl Iterator<Item = &str> {
    let own = job.metadata.name.as_deref().unwrap_or_default();
    mounted_claims(job).filter(move |claim| *claim != own)
}

/// Whether the Job is over, and delays the deletion of a user's claim.
pub fn holds_claim(job: &Job) -> bool {
    is_over(job) && job.metadata.deletion_timestamp.is_none() && claims(job).next().is_some()
}

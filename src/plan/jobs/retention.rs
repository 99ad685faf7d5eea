//! How long a finished Job is kept after its result is stored in a status. Its pod holds the log, but also keeps the
//! claims which it mounts from being deleted.

use std::time::Duration;

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

/// The cleanup of a Job whose result is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JobRetention {
    /// Nothing: the Job has not ended, or its time to live is set already.
    Keep,
    /// Set the Job's time to live after its end.
    Expire(Duration),
    /// Delete the Job now, because the run has ended and another container, such as a service mesh proxy, keeps its pod
    /// alive.
    Delete,
}

pub fn job_retention(observed: &ObservedJob) -> JobRetention {
    let ObservedJob { job, pods, .. } = observed;
    if job.metadata.deletion_timestamp.is_some() {
        return JobRetention::Keep;
    }
    if !is_over(job) {
        let is_held_up = has_ended(job, pods) && pods.iter().any(has_other_container);
        return if is_held_up { JobRetention::Delete } else { JobRetention::Keep };
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
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let mut volumes = pod.into_iter().flat_map(|pod| pod.volumes.iter().flatten());
    volumes.any(|volume| volume.persistent_volume_claim.is_some())
}

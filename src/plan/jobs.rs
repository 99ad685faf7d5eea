//! How a run's Job stands, from the Job, its pod and the Events about both. The one place where silence becomes a reason.
//!
//! It must not know what the run is for, nor whether it is tried again.

mod explain;
mod retention;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::{ContainerState, ContainerStateTerminated, Pod},
};
use kube::ResourceExt;

pub(super) use self::explain::advised;
use self::explain::{disruption, hint};
pub use self::retention::{JobRetention, job_retention};
use super::text::later;
use crate::model::{Failure, Reason, RunProgress, SourceReport};

/// A pod that does not run after this long is given up.
pub const START_LIMIT: Duration = Duration::from_mins(5);

/// A Job, and all that can be known of it.
#[derive(Clone, Debug, Default)]
pub struct ObservedJob {
    /// The Job as the API server has it.
    pub job: Job,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Warnings in Events about the Job and its pods, `reason: message`, the newest last.
    pub complaints: Vec<String>,
    /// How far its run says that it is.
    pub progress: Option<RunProgress>,
}

impl ObservedJob {
    /// Whether its run has ended, although its pod may live on.
    pub(super) fn has_ended(&self) -> bool {
        is_over(&self.job) || !self.pods.is_empty() && self.pods.iter().all(is_ended)
    }
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It was made, and is to be started.
    Suspended,
    /// Its pod does not run yet; with what Kubernetes says about that, or nothing.
    Starting {
        /// When it is given up.
        deadline: Timestamp,
        /// Kubernetes' own words; empty when it says nothing.
        hint: String,
    },
    /// Its pod runs.
    Running,
    /// It is over, and this is how.
    Ended(Box<SourceReport>),
    /// Its pod did not start in time; it must be cut short.
    Stuck(Box<SourceReport>),
}

/// How the Job stands.
pub fn standing(observed: &ObservedJob, now: Timestamp) -> Standing {
    let ObservedJob { job, .. } = observed;
    let name = job.name_any();
    let pod = observed.pods.iter().max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let failed = finished(job, "Failed");
    let state = pod.and_then(runner_state);
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        // Between the deadline and the end of the pod, Kubernetes says `FailureTarget`.
        let failing = failed.or_else(|| finished(job, "FailureTarget"));
        let report = report_of(&name, terminated, failing);
        let report = match pod.and_then(disruption).filter(|_| report.reason == Reason::Cancelled) {
            Some(why) => SourceReport { message: format!("{}: {why}", report.message), ..report },
            None => report,
        };
        return Standing::Ended(Box::new(report));
    }
    if let Some(condition) = failed {
        let running = state.is_some_and(|state| state.running.is_some());
        return Standing::Ended(Box::new(lost(&name, condition, pod, running)));
    }
    if finished(job, "Complete").is_some() {
        let message =
            format!("Job {name} is complete, and its pod is gone, so its report is lost; it may have done its work");
        return Standing::Ended(failure(Reason::ResultLost, message));
    }
    if state.is_some_and(|state| state.running.is_some()) {
        return Standing::Running;
    }
    if is_suspended(job) {
        return Standing::Suspended;
    }
    let started = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let since = started.or_else(|| job.creation_timestamp().map(|time| time.0)).unwrap_or(now);
    let deadline = later(since, START_LIMIT);
    let hint = hint(job, pod, &observed.complaints);
    if now < deadline {
        return Standing::Starting { deadline, hint };
    }
    let why = if hint.is_empty() { "Kubernetes does not say why".to_owned() } else { hint };
    let message = format!("the pod of Job {name} did not start within {} minutes: {why}", START_LIMIT.as_secs() / 60);
    Standing::Stuck(failure(Reason::PodNotStarted, message))
}

/// Whether the Events about this Job and its pods would tell more than the objects do.
pub fn wants_complaints(job: &Job, pods: &[Pod]) -> bool {
    let is_over = finished(job, "Failed").or(finished(job, "Complete")).is_some();
    let has_begun = pods
        .iter()
        .any(|pod| runner_state(pod).is_some_and(|state| state.running.is_some() || state.terminated.is_some()));
    !is_suspended(job) && !is_over && !has_begun
}

/// The pod of the Job whose runner runs, by name and UID.
pub fn running_pod(pods: &[Pod]) -> Option<(String, String)> {
    let is_running = |pod: &&Pod| runner_state(pod).is_some_and(|state| state.running.is_some());
    pods.iter().find(is_running).and_then(|pod| Some((pod.name_any(), pod.uid()?)))
}

/// Whether the Job does not run, because it was made so or a person has suspended it.
pub fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

/// Whether the Job is started and not over, as far as the Job itself shows it.
pub fn is_started(job: &Job) -> bool {
    !is_suspended(job) && !is_over(job)
}

/// Whether the Job is started, and its runner has not ended. `pods` are those of any Jobs.
pub fn is_active(job: &Job, pods: &[Pod]) -> bool {
    is_started(job) && !has_ended(job, pods)
}

/// Whether the runner of the Job has ended, although another container may keep its pod alive.
pub(super) fn has_ended(job: &Job, pods: &[Pod]) -> bool {
    let uid = job.metadata.uid.as_deref();
    let is_own = |pod: &&Pod| pod.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid);
    let mut own = pods.iter().filter(is_own).peekable();
    own.peek().is_some() && own.all(is_ended)
}

/// Whether the runner in the pod has ended.
pub(super) fn is_ended(pod: &Pod) -> bool {
    runner_state(pod).is_some_and(|state| state.terminated.is_some())
}

/// Whether the Job is over, however.
pub fn is_over(job: &Job) -> bool {
    finished(job, "Failed").is_some() || finished(job, "Complete").is_some()
}

/// Whether the Job has ended well.
pub fn is_complete(job: &Job) -> bool {
    finished(job, "Complete").is_some()
}

fn finished<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// What the kubelet reports of a container that the kernel killed because its memory was out.
const OUT_OF_MEMORY: &str = "OOMKilled";
const MORE_MEMORY: &str = "; the run needed more memory than its limit allows: set a higher one by \
                           `runnerPod.resources.limits.memory` of the Repository, or raise the default of a LimitRange in \
                           the namespace";

/// The state of the runner's container, which is the only one of ours in the pod.
fn runner_state(pod: &Pod) -> Option<&ContainerState> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == super::names::RUNNER_CONTAINER)?.state.as_ref()
}

/// The runner's own report, or why there is none.
fn report_of(job: &str, terminated: &ContainerStateTerminated, failed: Option<&JobCondition>) -> SourceReport {
    let parsed = serde_json::from_str::<SourceReport>(terminated.message.as_deref().unwrap_or_default());
    match parsed {
        // Who was ended by the deadline only knows that somebody ended it.
        Ok(report) if report.reason == Reason::Cancelled && failed.is_some_and(is_deadline) => {
            SourceReport { reason: Reason::Timeout, message: format!("Job {job} reached its deadline"), ..report }
        }
        Ok(report) => report,
        Err(_) if failed.is_some_and(is_deadline) => {
            *failure(Reason::Timeout, format!("Job {job} reached its deadline and left no report"))
        }
        Err(_) => {
            let cause = terminated.reason.as_deref().unwrap_or("no reason");
            let message = format!(
                "the runner of Job {job} ended without a readable report (exit code {}, {cause}); see `kubectl logs job/{job}`{}",
                terminated.exit_code,
                if cause == OUT_OF_MEMORY { MORE_MEMORY } else { "" }
            );
            *failure(Reason::ResultLost, message)
        }
    }
}

/// The Job failed, and no report of the runner is to be had.
fn lost(job: &str, condition: &JobCondition, pod: Option<&Pod>, was_running: bool) -> SourceReport {
    if is_deadline(condition) {
        return *failure(Reason::Timeout, format!("Job {job} reached its deadline and left no report"));
    }
    let status = pod.and_then(|pod| pod.status.as_ref());
    let words = [
        status.and_then(|status| status.reason.as_deref()).or(condition.reason.as_deref()),
        status.and_then(|status| status.message.as_deref()).or(condition.message.as_deref()),
    ];
    let why = words.into_iter().flatten().collect::<Vec<_>>().join(": ");
    // A pod that the node refused or evicted before its container began is there, without a state of that container.
    let never_ran =
        !was_running && pod.is_some_and(|pod| runner_state(pod).is_none_or(|state| state.waiting.is_some()));
    if never_ran {
        return *failure(Reason::PodNotStarted, format!("the pod of Job {job} failed before it started: {why}"));
    }
    *failure(Reason::ResultLost, format!("the pod of Job {job} is gone, and its report with it: {why}"))
}

fn is_deadline(condition: &JobCondition) -> bool {
    condition.reason.as_deref() == Some("DeadlineExceeded")
}

fn failure(reason: Reason, message: String) -> Box<SourceReport> {
    Box::new(SourceReport::failed(Failure::new(reason, message), Duration::ZERO))
}

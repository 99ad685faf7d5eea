//! The state of a run's Job, derived from the Job, its pod and the Events about both. Only this module decides which
//! reason a run gets that left no report.

mod explain;
mod retention;
mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::{ContainerState, ContainerStateTerminated, Pod, PodSpec},
};
use kube::ResourceExt;
use serde_json::Value;

pub(super) use self::explain::with_advice;
use self::explain::{disruption, hint, is_refused_for_good, node_of};
pub use self::retention::{CLAIM_LOOK, JobRetention, holds_claim, job_retention};
pub(super) use self::run::{JobRun, MissingVolume, RUNNING_REQUEUE, job_run};
use super::{
    labels,
    names::{RUNNER_CONTAINER, RunKind},
    text::{if_lost, later},
};
use crate::model::{Failure, Reason, RunProgress, RunReport, mounts};

/// A run whose pod has not started after this long fails.
pub const START_LIMIT: Duration = Duration::from_mins(5);
/// How long a pod may take to end after its grace period, when its Job has failed for good.
const END_LIMIT: Duration = Duration::from_mins(5);

/// A Job, with its pods and what was reported about it.
#[derive(Clone, Debug, Default)]
pub struct ObservedJob {
    pub job: Job,
    pub pods: Vec<Pod>,
    /// Warnings in Events about the Job and its pods, `reason: message`, the newest last.
    pub warning_events: Vec<String>,
    /// The progress which the run reported last.
    pub progress: Option<RunProgress>,
}

impl ObservedJob {
    /// Whether the run has ended. Its pod may still exist.
    pub(super) fn has_ended(&self) -> bool {
        is_over(&self.job) || !self.pods.is_empty() && self.pods.iter().all(is_ended)
    }
}

/// The task of a run's pod, as untyped JSON, because a Job of another version may have fields which this version does not
/// know.
pub(super) fn task_of(pod: &PodSpec) -> Option<Value> {
    let runner = pod.containers.iter().find(|container| container.name == RUNNER_CONTAINER)?;
    let variable = runner.env.iter().flatten().find(|variable| variable.name == mounts::TASK_VARIABLE)?;
    serde_json::from_str(variable.value.as_deref()?).ok()
}

#[derive(Clone, Debug, PartialEq)]
pub enum JobState {
    /// The Job was created suspended and is not started yet.
    Suspended,
    /// The Job is started, and its pod does not run yet.
    Starting {
        /// When the start fails.
        deadline: Timestamp,
        /// The message of Kubernetes about the start; empty if there is none.
        hint: String,
    },
    Running,
    Ended(Box<RunReport>),
    /// The pod did not start in time, or is refused until a user changes something; the caller must end the Job.
    Stuck(Box<RunReport>),
}

pub fn job_state(observed: &ObservedJob, now: Timestamp) -> JobState {
    let ObservedJob { job, .. } = observed;
    let name = job.name_any();
    let pod = observed.pods.iter().max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let failed = finished(job, "Failed");
    let state = pod.and_then(runner_state);
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        // Between the deadline and the end of the pod, Kubernetes sets the condition `FailureTarget`.
        let failing = failed.or_else(|| finished(job, "FailureTarget"));
        let report = report_of(&name, terminated, failing);
        let report = match pod.and_then(disruption).filter(|_| report.reason == Reason::Cancelled) {
            Some(why) => RunReport { message: format!("{}: {why}", report.message), ..report },
            None => report,
        };
        return JobState::Ended(Box::new(report));
    }
    let running = state.is_some_and(|state| state.running.is_some());
    if let Some(condition) = failed {
        let report = match pod {
            Some(pod) => failure_without_report(&name, condition, pod, running),
            None => failure_without_pod(job, condition),
        };
        return JobState::Ended(report);
    }
    if finished(job, "Complete").is_some() {
        let message = format!(
            "Job {name} is complete, but its pod no longer exists, so the report is lost; the run may have taken effect"
        );
        return JobState::Ended(failure(Reason::ResultLost, message));
    }
    if let Some(report) = pod.and_then(|pod| overdue(job, pod, running, now)) {
        return JobState::Ended(Box::new(report));
    }
    if running {
        return JobState::Running;
    }
    if is_suspended(job) {
        return JobState::Suspended;
    }
    let started = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let since = started.or_else(|| job.creation_timestamp().map(|time| time.0)).unwrap_or(now);
    let deadline = later(since, START_LIMIT);
    let hint = hint(job, pod, &observed.warning_events);
    if pod.is_none() && is_refused_for_good(&observed.warning_events) {
        let message =
            format!("no pod of Job {name} can be created, and a repetition would fail in the same manner: {hint}");
        return JobState::Stuck(failure(Reason::PodRefused, message));
    }
    if now < deadline {
        return JobState::Starting { deadline, hint };
    }
    let node = pod.and_then(node_of).map(|node| format!("; {}", if_lost(node))).unwrap_or_default();
    let why = if hint.is_empty() { format!("Kubernetes reports no cause{node}") } else { hint };
    let message = format!("the pod of Job {name} did not start within {} minutes: {why}", START_LIMIT.as_secs() / 60);
    JobState::Stuck(failure(Reason::PodNotStarted, message))
}

/// Whether the Events about this Job and its pods may contain more than the objects, because the run has not started.
pub fn wants_warning_events(job: &Job, pods: &[Pod]) -> bool {
    let is_over = finished(job, "Failed").or(finished(job, "Complete")).is_some();
    let has_begun = pods
        .iter()
        .any(|pod| runner_state(pod).is_some_and(|state| state.running.is_some() || state.terminated.is_some()));
    !is_suspended(job) && !is_over && !has_begun
}

/// The name and UID of the Job's pod whose runner container is running.
pub fn running_pod(pods: &[Pod]) -> Option<(String, String)> {
    let is_running = |pod: &&Pod| runner_state(pod).is_some_and(|state| state.running.is_some());
    pods.iter().find(is_running).and_then(|pod| Some((pod.name_any(), pod.uid()?)))
}

/// Whether the Job is suspended: since its creation, or by a user.
pub fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

/// Whether the Job is started and has neither completed nor failed, according to the Job alone.
pub fn is_started(job: &Job) -> bool {
    !is_suspended(job) && !is_over(job)
}

/// Whether the Job is started, and its runner has not ended. `pods` may include pods of other Jobs.
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

pub(super) fn is_ended(pod: &Pod) -> bool {
    runner_state(pod).is_some_and(|state| state.terminated.is_some())
}

/// When the run ended. The Job has a `completionTime` only if its runner has exited with 0.
pub fn end_of_run(observed: &ObservedJob) -> Option<Timestamp> {
    let end = |pod: &Pod| Some(runner_state(pod)?.terminated.as_ref()?.finished_at.as_ref()?.0);
    observed.pods.iter().filter_map(end).max()
}

/// Whether the Job has failed for good, although its pods may not have ended.
pub(super) fn has_failed(job: &Job) -> bool {
    finished(job, "Failed").or(finished(job, "FailureTarget")).is_some()
}

/// Whether the Job has completed or failed.
pub fn is_over(job: &Job) -> bool {
    finished(job, "Failed").is_some() || finished(job, "Complete").is_some()
}

pub fn is_complete(job: &Job) -> bool {
    finished(job, "Complete").is_some()
}

fn finished<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// The kubelet's reason for a container which exceeded its memory limit.
const OUT_OF_MEMORY: &str = "OOMKilled";
const MORE_MEMORY: &str = "; the run exceeded its memory limit: raise `runnerPod.resources.limits.memory` of the \
                           Repository, or the default of a LimitRange in the namespace";

/// The state of the runner's container. Any other container in the pod was injected by another client.
fn runner_state(pod: &Pod) -> Option<&ContainerState> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == RUNNER_CONTAINER)?.state.as_ref()
}

/// The runner's report from its termination message, or a report of a failure if there is no readable one.
fn report_of(job: &str, terminated: &ContainerStateTerminated, failed: Option<&JobCondition>) -> RunReport {
    let parsed = serde_json::from_str::<RunReport>(terminated.message.as_deref().unwrap_or_default());
    match parsed {
        // A runner which the deadline ended only received SIGTERM, so it reports a cancellation.
        Ok(report) if report.reason == Reason::Cancelled && failed.is_some_and(is_deadline) => {
            RunReport { reason: Reason::Timeout, message: format!("Job {job} reached its deadline"), ..report }
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

/// The report of a Job which failed without a report of its runner.
fn failure_without_report(job: &str, condition: &JobCondition, pod: &Pod, was_running: bool) -> Box<RunReport> {
    if is_deadline(condition) {
        return failure(Reason::Timeout, format!("Job {job} reached its deadline and left no report"));
    }
    let status = pod.status.as_ref();
    let texts = [
        status.and_then(|status| status.reason.as_deref()).or(condition.reason.as_deref()),
        status.and_then(|status| status.message.as_deref()).or(condition.message.as_deref()),
    ];
    let why = texts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    // A pod which the node rejected or evicted before its container started has no state of that container.
    let never_ran = !was_running && runner_state(pod).is_none_or(|state| state.waiting.is_some());
    if never_ran {
        return failure(Reason::PodNotStarted, format!("the pod of Job {job} failed before it started: {why}"));
    }
    failure(Reason::ResultLost, format!("the pod of Job {job} ended without a report: {why}"))
}

/// The report of a failed Job whose pod no longer exists. The Job does not state why: after an eviction, its reason is
/// that of any failed pod.
fn failure_without_pod(job: &Job, condition: &JobCondition) -> Box<RunReport> {
    let name = job.name_any();
    if is_deadline(condition) {
        return failure(Reason::Timeout, format!("Job {name} reached its deadline and left no report"));
    }
    let why = [condition.reason.as_deref(), condition.message.as_deref()];
    let why = why.into_iter().flatten().collect::<Vec<_>>().join(": ");
    let effect = if job.labels().get(labels::KIND) == Some(&RunKind::Restore.to_string()) {
        "the restore may have taken effect in part: check its target, and create the Restore again"
    } else {
        "if the run is not repeated, create it again"
    };
    let message = format!(
        "the pod of Job {name} was deleted before its report was read, such as by an eviction, a drain or the loss of its \
         node, or by a user ({why}); {effect}, while its node is not drained; runnerPod.priorityClassName keeps other \
         pods from preempting the run"
    );
    failure(Reason::ResultLost, message)
}

/// The report of a Job which has failed for good and whose pod has not ended long after it was deleted. The kubelet of a
/// lost node reports nothing, so the condition `Failed` would never follow.
fn overdue(job: &Job, pod: &Pod, was_running: bool, now: Timestamp) -> Option<RunReport> {
    let condition = finished(job, "FailureTarget")?;
    let due = pod.metadata.deletion_timestamp.as_ref().map(|time| later(time.0, END_LIMIT))?;
    let node = node_of(pod).filter(|_| now >= due)?;
    let report = failure_without_report(&job.name_any(), condition, pod, was_running);
    let message = format!(
        "{}; its pod {} is being deleted and has not ended on node {node}: {}",
        report.message,
        pod.name_any(),
        if_lost(node)
    );
    Some(RunReport { message, ..*report })
}

fn is_deadline(condition: &JobCondition) -> bool {
    condition.reason.as_deref() == Some("DeadlineExceeded")
}

fn failure(reason: Reason, message: String) -> Box<RunReport> {
    Box::new(RunReport::failed(Failure::new(reason, message), Duration::ZERO))
}

//! The list of a Backup's sources, made once, before the first Job.
//!
//! It must not know how a source goes on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, Occurrence, PlannedSource, SourcePlan, clip};
use crate::{
    api::{
        Backup, BackupStatus, COVERED, MissingSource, Outcome, SkipReason, SkippedClaim, SourceState, SourceStatus,
        set_condition_status,
    },
    model::{Reason, SourceName, Verdict},
    plan::{
        sources::{MAXIMUM_SOURCES, PlanProblem},
        text::{clip_line, selector_text},
    },
};

/// The reason of an Event about what was probably not meant.
const ANNOTATION_WARNING: &str = "AnnotationWarning";

/// Puts every source into the status; what asked for a backup and cannot have one is a source that failed. Returns why
/// the run as a whole cannot begin, if it cannot.
pub(super) fn freeze(
    backup: &Backup,
    plan: &SourcePlan,
    status: &mut BackupStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Option<String> {
    status.start_time = Some(Time(now));
    let mut sources: BTreeMap<SourceName, SourceStatus> = plan.sources.iter().map(waiting).collect();
    let mut whole = Vec::new();
    for problem in &plan.problems {
        actions.events.push(occurrence(&problem.reason().to_string(), problem.to_string()));
        let Some(name) = name_of(problem) else {
            whole.push(problem.to_string());
            continue;
        };
        let source = sources.entry(name.clone()).or_insert_with(|| new(name, SourceState::Done));
        let so_far = std::mem::take(&mut source.outcome.message);
        let separator = if so_far.is_empty() { "" } else { "; " };
        source.outcome = Outcome {
            verdict: Some(Verdict::Failed),
            reason: problem.reason().to_string(),
            message: clip(&format!("{so_far}{separator}{problem}")),
            ..Outcome::default()
        };
    }
    for warning in &plan.warnings {
        actions.events.push(occurrence(ANNOTATION_WARNING, warning.to_string()));
    }
    let count = sources.len();
    if let Some(first) = sources.keys().nth(MAXIMUM_SOURCES).cloned() {
        let problem = PlanProblem::TooManySources { count, first: first.clone() };
        sources.split_off(&first);
        actions.events.push(occurrence(&problem.reason().to_string(), problem.to_string()));
        status.left_out = Some(clip(&problem.to_string()));
    }
    if sources.is_empty() && whole.is_empty() {
        // Nothing was backed up, and silence would look like a success.
        let skipped = plan.skipped.iter().map(|claim| format!("; {}: {}", title(&claim.name), claim.message));
        let missing = plan.missing.iter().map(|source| format!("; {} is missing: {}", source.name, source.message));
        let nothing = match &backup.spec.selector {
            None => {
                "no pod of the namespace asks for a backup by annotation, and there is no volume to back up".to_owned()
            }
            Some(selector) => format!(
                "the selector {} matches no pod of the namespace that asks for a backup by annotation, and no volume: look at \
                 the labels (kubectl get pods,persistentvolumeclaims --show-labels), or leave the selector out",
                selector_text(selector)
            ),
        };
        whole.push(format!("{nothing}{}", skipped.chain(missing).collect::<String>()));
    }
    status.sources = sources.into_values().collect();
    let (skipped, skipped_not_listed) = listed(&plan.skipped);
    let clipped = |claim: SkippedClaim| SkippedClaim { message: clip_line(&claim.message), ..claim };
    status.skipped = skipped.into_iter().map(clipped).collect();
    status.skipped_not_listed = skipped_not_listed;
    // What makes the verdict comes first, so that it is never the part that is cut.
    let mut missing = plan.missing.clone();
    missing.sort_by_key(|source| !source.reason.is_loss());
    (status.missing, status.missing_not_listed) = listed(&missing);
    tell_covered(plan, status, actions, now);
    (!whole.is_empty()).then(|| whole.join("; "))
}

/// As many as a status lists, and how many those are not.
fn listed<T: Clone>(all: &[T]) -> (Vec<T>, u32) {
    let rest = all.len().saturating_sub(MAXIMUM_SOURCES);
    (all.iter().take(MAXIMUM_SOURCES).cloned().collect(), u32::try_from(rest).unwrap_or(u32::MAX))
}

/// Kind and name of what is left out.
fn title(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("PersistentVolumeClaim {name}") }
}

/// Sets the condition, and reports what is missing in one Event.
fn tell_covered(plan: &SourcePlan, status: &mut BackupStatus, actions: &mut Actions, now: Timestamp) {
    let generation = status.observed_generation;
    let mut set = |state: &str, reason: &str, message: &str| {
        set_condition_status(&mut status.conditions, COVERED, state, (reason, message), generation, now);
    };
    if plan.missing.is_empty() {
        return if plan.is_complete {
            set("True", "NothingMissing", "every source of the last Backup and of the workloads is there");
        } else {
            set("Unknown", "WorkloadsNotListed", "the controller may not list the workloads of the namespace");
        };
    }
    let reason = Reason::SourcesMissing.to_string();
    let note = missing_words(&plan.missing);
    set("False", &reason, &note);
    actions.events.push(occurrence(&reason, note));
}

/// The first ones of them, and how many there are.
pub(super) fn missing_words(missing: &[MissingSource]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<&MissingSource> = missing.iter().collect();
    shown.sort_by_key(|source| !source.reason.is_loss());
    let words =
        shown.iter().take(SHOWN).map(|source| format!("{} ({:?}): {}", source.name, source.reason, source.message));
    let words = words.collect::<Vec<_>>().join("; ");
    let rest = missing.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    clip(&format!("missing: {words}{more}"))
}

/// Takes the sources of Jobs off the list that wait for a pod which has ended since: its end was what was wanted. One that was
/// tried before has failed, because its pod ended under it.
pub(super) fn release_ended(
    sources: &mut Vec<SourceStatus>,
    plan: &SourcePlan,
    status: &mut BackupStatus,
    now: Timestamp,
) {
    let is_of_job = |source: &SourceStatus| {
        ["job/", "cronjob/"].iter().any(|kind| source.name.as_str().starts_with(kind))
            && source.state == SourceState::Waiting
            && source.next_attempt_time.as_ref().is_none_or(|due| due.0 <= now)
            && !plan.sources.iter().any(|planned| planned.name == source.name && planned.target.is_some())
    };
    let mut ended = Vec::new();
    sources.retain_mut(|source| {
        if !is_of_job(source) {
            return true;
        }
        if source.attempt == 0 {
            ended.push(source.name.clone());
            return false;
        }
        let message = format!("its pod ended while it was dumped: {}", source.outcome.message);
        source.state = SourceState::Done;
        source.next_attempt_time = None;
        source.outcome.verdict = Some(Verdict::Failed);
        source.outcome.message = clip(&message);
        true
    });
    for name in ended {
        let workload: Vec<&str> = name.as_str().splitn(3, '/').take(2).collect();
        let workload = workload.join("/");
        if status.skipped.iter().any(|skipped| skipped.name == workload) {
            continue;
        }
        if status.skipped.len() >= MAXIMUM_SOURCES {
            status.skipped_not_listed = status.skipped_not_listed.saturating_add(1);
            continue;
        }
        let message = "its pod ended before its turn came, and its pods are not waited for".to_owned();
        status.skipped.push(SkippedClaim { name: workload, reason: SkipReason::RunsToCompletion, message });
    }
}

fn waiting(planned: &PlannedSource) -> (SourceName, SourceStatus) {
    let mut source = new(planned.name.clone(), SourceState::Waiting);
    source.pod.clone_from(&planned.pod);
    if let Some(target) = &planned.target {
        target.container().clone_into(&mut source.container);
    }
    (planned.name.clone(), source)
}

fn new(name: SourceName, state: SourceState) -> SourceStatus {
    SourceStatus {
        transfer: None,
        name,
        state,
        pod: String::new(),
        container: String::new(),
        repository_ref: None,
        attempt: 0,
        jobs: Vec::new(),
        next_attempt_time: None,
        waiting_since: None,
        queued_since: None,
        outcome: Outcome::default(),
    }
}

/// A source that cannot be named has the pod's name; two parts, so that it is no other source's. None for a problem of
/// the whole Backup.
pub(super) fn name_of(problem: &PlanProblem) -> Option<SourceName> {
    match problem {
        PlanProblem::Annotations { pod, .. }
        | PlanProblem::UnknownContainer { pod, .. }
        | PlanProblem::Volume { pod, .. }
        | PlanProblem::Unnamable { pod, .. } => format!("pod/{pod}").parse().ok(),
        PlanProblem::NotInjected { name, .. }
        | PlanProblem::Claim { name, .. }
        | PlanProblem::SidecarOnly { name, .. } => Some(name.clone()),
        PlanProblem::Selector { .. } | PlanProblem::TooManySources { .. } => None,
    }
}

fn occurrence(reason: &str, note: String) -> Occurrence {
    Occurrence { is_warning: true, reason: reason.to_owned(), action: "Plan", note, job: None }
}

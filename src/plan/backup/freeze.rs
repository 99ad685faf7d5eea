//! The list of a Backup's sources, which is fixed once, before the first Job.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, EventRecord, PlannedSource, SourcePlan, clip, mistakes};
use crate::{
    api::{
        Backup, BackupStatus, COVERED, MissingSource, Outcome, SkipReason, SkippedClaim, SourceState, SourceStatus,
        set_condition_status,
    },
    model::{Reason, SourceName, Verdict},
    plan::{
        sources::{MAX_SOURCES, PlanProblem},
        text::{clip_line, selector_text},
    },
};

/// Writes every source into the status. A source which was requested and cannot be backed up is listed as failed.
/// Returns why the Backup as a whole cannot start, if it cannot.
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
        actions.events.push(event_record(&problem.reason().to_string(), problem.to_string()));
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
    mistakes::record(plan, status, actions);
    let count = sources.len();
    if let Some(first) = sources.keys().nth(MAX_SOURCES).cloned() {
        let problem = PlanProblem::TooManySources { count, first: first.clone() };
        sources.split_off(&first);
        actions.events.push(event_record(&problem.reason().to_string(), problem.to_string()));
        status.left_out = Some(clip(&problem.to_string()));
    }
    if sources.is_empty() && whole.is_empty() {
        // A Backup without sources fails, because it would look like a success otherwise. A mistake in an annotation
        // is the probable cause, so it comes first.
        let wrong = mistakes::message(status).map(|wrong| format!("; {wrong}")).unwrap_or_default();
        let skipped = plan.skipped.iter().map(|claim| format!("; {}: {}", title(&claim.name), claim.message));
        let missing = plan.missing.iter().map(|source| format!("; {} is missing: {}", source.name, source.message));
        let nothing = match &backup.spec.selector {
            None => {
                "no pod of the namespace requests a backup by annotation, and there is no volume to back up".to_owned()
            }
            Some(selector) => format!(
                "the selector {} matches no pod of the namespace which requests a backup by annotation, and no volume: \
                 check the labels (kubectl get pods,persistentvolumeclaims --show-labels), or remove the selector",
                selector_text(selector)
            ),
        };
        whole.push(format!("{nothing}{wrong}{}", skipped.chain(missing).collect::<String>()));
    }
    status.sources = sources.into_values().collect();
    let (skipped, skipped_not_listed) = listed(&plan.skipped);
    let clipped = |claim: SkippedClaim| SkippedClaim { message: clip_line(&claim.message), ..claim };
    status.skipped = skipped.into_iter().map(clipped).collect();
    status.skipped_not_listed = skipped_not_listed;
    // Sources which affect the verdict come first, so that they are never cut off.
    let mut missing = plan.missing.clone();
    missing.sort_by_key(|source| !source.reason.is_loss());
    (status.missing, status.missing_not_listed) = listed(&missing);
    set_covered_condition(plan, status, actions, now);
    (!whole.is_empty()).then(|| whole.join("; "))
}

/// The entries which fit into the status, and the number of those which do not.
fn listed<T: Clone>(all: &[T]) -> (Vec<T>, u32) {
    let rest = all.len().saturating_sub(MAX_SOURCES);
    (all.iter().take(MAX_SOURCES).cloned().collect(), u32::try_from(rest).unwrap_or(u32::MAX))
}

/// Kind and name of a skipped claim or workload.
fn title(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("PersistentVolumeClaim {name}") }
}

/// Sets the condition `Covered`, and reports all missing sources in one Event.
fn set_covered_condition(plan: &SourcePlan, status: &mut BackupStatus, actions: &mut Actions, now: Timestamp) {
    let generation = status.observed_generation;
    let mut set = |state: &str, reason: &str, message: &str| {
        set_condition_status(&mut status.conditions, COVERED, state, (reason, message), generation, now);
    };
    if plan.missing.is_empty() {
        return if plan.is_complete {
            set("True", "NothingMissing", "no source of the last Backup or of the workloads is missing");
        } else {
            set("Unknown", "WorkloadsNotListed", "the controller has no right to list the workloads of the namespace");
        };
    }
    let reason = Reason::SourcesMissing.to_string();
    let note = missing_message(&plan.missing);
    set("False", &reason, &note);
    actions.events.push(event_record(&reason, note));
}

/// The first missing sources, and the number of the rest.
pub(super) fn missing_message(missing: &[MissingSource]) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<&MissingSource> = missing.iter().collect();
    shown.sort_by_key(|source| !source.reason.is_loss());
    let entries =
        shown.iter().take(SHOWN).map(|source| format!("{} ({:?}): {}", source.name, source.reason, source.message));
    let entries = entries.collect::<Vec<_>>().join("; ");
    let rest = missing.len().saturating_sub(SHOWN);
    let more = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    clip(&format!("missing: {entries}{more}"))
}

/// Removes the sources of app Jobs whose pod has ended before the backup started, because a Job's pod is supposed to
/// end. Such a source has failed if an attempt was made before, because its pod ended during that attempt.
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
        let message = format!("its pod ended during the backup: {}", source.outcome.message);
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
        if status.skipped.len() >= MAX_SOURCES {
            status.skipped_not_listed = status.skipped_not_listed.saturating_add(1);
            continue;
        }
        let message = "its pod ended before the backup started, and Stowaway does not wait for pods of Jobs".to_owned();
        status.skipped.push(SkippedClaim { name: workload, reason: SkipReason::RunsToCompletion, message });
    }
}

fn waiting(planned: &PlannedSource) -> (SourceName, SourceStatus) {
    let mut source = new(planned.name.clone(), SourceState::Waiting);
    source.pod.clone_from(&planned.pod);
    source.allow_missing = planned.allow_missing;
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
        allow_missing: false,
        outcome: Outcome::default(),
    }
}

/// The name of the source which the problem is about. A problem of a pod gets a name of two parts, so that it differs
/// from any source's name. `None` for a problem of the whole Backup.
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

fn event_record(reason: &str, note: String) -> EventRecord {
    EventRecord { is_warning: true, reason: reason.to_owned(), action: "Plan", note, job: None }
}

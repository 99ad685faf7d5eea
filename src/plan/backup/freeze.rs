//! The list of a Backup's sources, made once, before the first Job.
//!
//! It must not know how a source goes on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, Occurrence, PlannedSource, SourcePlan, clip};
use crate::{
    api::{Backup, BackupStatus, Outcome, SourceState, SourceStatus},
    model::{SourceName, Verdict},
    plan::sources::{MAXIMUM_SOURCES, PlanProblem},
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
        let selected = if backup.spec.selector.is_some() { " that the selector matches" } else { "" };
        let skipped: Vec<String> = plan
            .skipped
            .iter()
            .map(|claim| format!("; PersistentVolumeClaim {}: {}", claim.name, claim.message))
            .collect();
        whole.push(format!(
            "no pod of the namespace{selected} asks for a backup by annotation, and there is no volume to back up{}",
            skipped.concat()
        ));
    }
    status.sources = sources.into_values().collect();
    status.skipped = plan.skipped.iter().take(MAXIMUM_SOURCES).cloned().collect();
    (!whole.is_empty()).then(|| whole.join("; "))
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

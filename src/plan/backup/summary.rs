//! What the sources of a Backup make together: verdict, conditions, counts.
//!
//! It must not know what is done next.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, Occurrence, clip};
use crate::{
    api::{BackupStatus, SourceState, SourceStatus, set_run_conditions},
    model::{Reason, Verdict},
};

/// Whether the result of the Job is in the status, so that the Job is not needed any more.
pub fn is_recorded(status: &BackupStatus, job: &str) -> bool {
    status.sources.iter().any(|source| {
        let is_under_way = source.state == SourceState::Running && source.jobs.last().is_some_and(|last| last == job);
        source.jobs.iter().any(|one| one == job) && !is_under_way
    })
}

/// Brings counts, verdict and conditions up to the sources' own states. `refused` says why the run cannot begin at all, and
/// `is_left` that it has made something which is to be deleted: it has no verdict until then, since nobody looks at it after.
pub(super) fn summarize(
    status: &mut BackupStatus,
    actions: &mut Actions,
    (refused, is_left): (Option<String>, bool),
    now: Timestamp,
) {
    let sources = &status.sources;
    let green = sources.iter().filter(|source| source.outcome.verdict.is_some_and(Verdict::is_green)).count();
    let stored =
        |source: &&SourceStatus| matches!(source.outcome.verdict, Some(Verdict::Succeeded | Verdict::Unproven));
    status.bytes = sources.iter().filter(stored).filter_map(|source| source.outcome.bytes).sum();
    status.progress = Some(format!("{green}/{}", sources.len()));
    let is_over = sources.iter().all(|source| source.state == SourceState::Done);
    let (verdict, reason, message) = match refused {
        Some(message) => (Some(Verdict::Failed), Reason::InvalidRequest.to_string(), message),
        None if is_over && is_left => {
            (None, "CleaningUp".to_owned(), "snapshots and their volumes are deleted".to_owned())
        }
        None if is_over => over(sources, green),
        None => under_way(sources),
    };
    let message = clip(&message);
    let words = (reason.as_str(), message.as_str());
    let generation = status.observed_generation;
    status.verdict = verdict;
    let is_green = verdict.is_some_and(Verdict::is_green);
    set_run_conditions(&mut status.conditions, verdict, words, generation, now);
    if let Some(verdict) = verdict {
        status.completion_time = Some(Time(now));
        actions.look_again = None;
        actions.events.push(Occurrence {
            is_warning: !is_green,
            reason,
            action: "Finish",
            note: format!("{verdict}: {message}"),
            job: None,
        });
    }
}

/// The verdict of a run whose sources all have one.
fn over(sources: &[SourceStatus], green: usize) -> (Option<Verdict>, String, String) {
    let has = |verdict| sources.iter().find(|source| source.outcome.verdict == Some(verdict));
    let count = sources.len();
    let counted = format!("{green} of {count} sources are green");
    let worst = has(Verdict::Failed).or_else(|| has(Verdict::Incomplete)).or_else(|| has(Verdict::Unproven));
    let Some(worst) = worst else {
        return (Some(Verdict::Succeeded), Reason::Completed.to_string(), counted);
    };
    let failed = sources.iter().filter(|source| source.outcome.verdict == Some(Verdict::Failed)).count();
    let verdict = match worst.outcome.verdict {
        Some(Verdict::Unproven) => Verdict::Unproven,
        _ if failed == count => Verdict::Failed,
        _ => Verdict::Incomplete,
    };
    let message = format!("{counted}; {}: {}", worst.name, worst.outcome.message);
    (Some(verdict), worst.outcome.reason.clone(), message)
}

/// What a run that is under way does, or waits for.
fn under_way(sources: &[SourceStatus]) -> (Option<Verdict>, String, String) {
    let count = |state| sources.iter().filter(|source| source.state == state).count();
    let (done, running) = (count(SourceState::Done), count(SourceState::Running));
    let counted = format!("{done} of {} sources are done, {running} run", sources.len());
    let first_words = sources
        .iter()
        .filter(|source| source.state != SourceState::Done && !source.outcome.message.is_empty())
        .map(|source| format!("; {}: {}", source.name, source.outcome.message))
        .next()
        .unwrap_or_default();
    let reason = if running > 0 { "Running" } else { "Waiting" };
    (None, reason.to_owned(), counted + &first_words)
}

//! The verdict, conditions and counts of a Backup, derived from its sources.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, EventRecord, clip, freeze::missing_message, mistakes};
use crate::{
    api::{BackupStatus, MissingSource, SourceState, SourceStatus, set_run_conditions},
    model::{Reason, RunProgress, Verdict, short_amount},
    plan::text::fit,
};

/// The limit of all messages of a status together. With names, times and the API server's managed fields, the object
/// stays below etcd's limit of 1.5 MiB.
const TEXTS: usize = 256 * 1024;

/// Cuts the messages of the status to [`TEXTS`] bytes.
pub(super) fn fit_texts(status: &mut BackupStatus) {
    let outcomes = status.sources.iter_mut().map(|source| &mut source.outcome);
    let of_sources =
        outcomes.flat_map(|outcome| [&mut outcome.message, &mut outcome.stderr_tail, &mut outcome.log_tail]);
    let skipped = status.skipped.iter_mut().map(|skipped| &mut skipped.message);
    let missing = status.missing.iter_mut().map(|missing| &mut missing.message);
    let warnings = status.annotation_warnings.iter_mut().map(|warning| &mut warning.message);
    let mut texts: Vec<&mut String> =
        of_sources.chain(skipped).chain(missing).chain(warnings).filter(|text| !text.is_empty()).collect();
    fit(&mut texts, TEXTS);
}

/// Sets the conditions of a Backup that has not started.
pub(super) fn set_waiting(status: &mut BackupStatus, message: &str, now: Timestamp) {
    let (generation, message) = (status.observed_generation, clip(message));
    set_run_conditions(&mut status.conditions, None, ("Waiting", &message), generation, now);
}

/// Whether the result of the Job is in the status, so that the Job is not needed any more.
pub fn is_recorded(status: &BackupStatus, job: &str) -> bool {
    status.sources.iter().any(|source| {
        let is_running = source.state == SourceState::Running && source.jobs.last().is_some_and(|last| last == job);
        source.jobs.iter().any(|one| one == job) && !is_running
    })
}

/// Derives counts, verdict and conditions from the sources. `refused`: why the Backup cannot start at all. `is_left`:
/// the Backup has created objects which are still to be deleted; it gets its verdict after that, because a Backup with
/// a verdict is not reconciled any more.
pub(super) fn summarize(
    status: &mut BackupStatus,
    actions: &mut Actions,
    (refused, is_left): (Option<String>, bool),
    now: Timestamp,
) {
    let sources = &status.sources;
    let green = sources.iter().filter(|source| source.outcome.verdict.is_some_and(Verdict::is_green)).count();
    let stored = |source: &&SourceStatus| {
        matches!(source.outcome.verdict, Some(Verdict::Succeeded | Verdict::Unproven | Verdict::Suspect))
    };
    let stored_bytes: u64 = sources.iter().filter(stored).filter_map(|source| source.outcome.bytes).sum();
    let in_progress = RunProgress::sum(sources.iter().filter_map(|source| source.transfer));
    status.transfer = in_progress.map(|progress| progress.describe(short_amount));
    status.bytes = stored_bytes.saturating_add(in_progress.map_or(0, |progress| progress.bytes));
    status.progress = Some(format!("{green}/{}", sources.len()));
    let is_over = sources.iter().all(|source| source.state == SourceState::Done);
    let (verdict, reason, message) = match refused {
        Some(message) => (Some(Verdict::Failed), Reason::InvalidRequest.to_string(), message),
        None if is_over && is_left => {
            (None, "CleaningUp".to_owned(), "VolumeSnapshots and their temporary claims are being deleted".to_owned())
        }
        None if is_over => {
            let (verdict, reason, message) =
                final_verdict(sources, (&status.missing, status.left_out.as_deref()), green);
            let wrong = mistakes::message(status).map(|wrong| format!("; {wrong}")).unwrap_or_default();
            (verdict, reason, message + &wrong)
        }
        None => progress_message(sources),
    };
    let message = clip(&message);
    let condition = (reason.as_str(), message.as_str());
    let generation = status.observed_generation;
    status.verdict = verdict;
    let is_green = verdict.is_some_and(Verdict::is_green);
    set_run_conditions(&mut status.conditions, verdict, condition, generation, now);
    if let Some(verdict) = verdict {
        status.completion_time = Some(Time(now));
        actions.requeue_after = None;
        actions.events.push(EventRecord {
            is_warning: !is_green,
            reason,
            action: "Finish",
            note: format!("{verdict}: {message}"),
            job: None,
        });
    }
}

/// The verdict of a Backup whose sources all have one. The Backup is not green if a source is missing although its data
/// probably exists, or if sources are left out because there are too many.
fn final_verdict(
    sources: &[SourceStatus],
    (missing, left_out): (&[MissingSource], Option<&str>),
    green: usize,
) -> (Option<Verdict>, String, String) {
    let has = |verdict| sources.iter().find(|source| source.outcome.verdict == Some(verdict));
    let count = sources.len();
    let lost: Vec<MissingSource> = missing.iter().filter(|source| source.reason.is_loss()).cloned().collect();
    let is_whole = lost.is_empty() && left_out.is_none();
    let mut also = left_out.map_or_else(String::new, |left_out| format!("; {left_out}"));
    if !lost.is_empty() {
        also = format!("{also}; {}", missing_message(&lost));
    }
    let counted = format!("{green} of {count} sources are green{also}");
    if sources.is_empty() {
        // The pods of all sources ended before their backup started.
        let message = format!("nothing was stored, because the pods of all sources have ended{also}");
        return (Some(Verdict::Failed), Reason::PodGone.to_string(), message);
    }
    let by_weight = [Verdict::Failed, Verdict::Incomplete, Verdict::Suspect, Verdict::Unproven];
    let worst = by_weight.into_iter().find_map(has);
    let Some(worst) = worst else {
        let (verdict, reason) = match left_out {
            Some(_) => (Verdict::Incomplete, Reason::InvalidRequest),
            None if !lost.is_empty() => (Verdict::Incomplete, Reason::SourcesMissing),
            None => (Verdict::Succeeded, Reason::Completed),
        };
        return (Some(verdict), reason.to_string(), counted);
    };
    let failed = sources.iter().filter(|source| source.outcome.verdict == Some(Verdict::Failed)).count();
    let verdict = match worst.outcome.verdict {
        Some(verdict @ (Verdict::Suspect | Verdict::Unproven)) if is_whole => verdict,
        _ if failed == count => Verdict::Failed,
        _ => Verdict::Incomplete,
    };
    let message = format!("{counted}; {}: {}", worst.name, worst.outcome.message);
    (Some(verdict), worst.outcome.reason.clone(), message)
}

/// The state of a Backup that is not over: counts, and the first message of a source that is not done.
fn progress_message(sources: &[SourceStatus]) -> (Option<Verdict>, String, String) {
    let count = |state| sources.iter().filter(|source| source.state == state).count();
    let (done, running) = (count(SourceState::Done), count(SourceState::Running));
    let counted = format!("{done} of {} sources are done, {running} run", sources.len());
    let first = sources
        .iter()
        .filter(|source| source.state != SourceState::Done && !source.outcome.message.is_empty())
        .map(|source| format!("; {}: {}", source.name, source.outcome.message))
        .next()
        .unwrap_or_default();
    let reason = if running > 0 { "Running" } else { "Waiting" };
    (None, reason.to_owned(), counted + &first)
}

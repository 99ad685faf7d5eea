//! What the sources of a Backup make together: verdict, conditions, counts.
//!
//! It must not know what is done next.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Actions, Occurrence, clip, freeze::missing_words};
use crate::{
    api::{BackupStatus, MissingSource, SourceState, SourceStatus, set_run_conditions},
    model::{Reason, RunProgress, Verdict, short_amount},
    plan::text::fit,
};

/// All messages of a status together: with names and times, and what the API server notes of each field, it is below the
/// 1.5 MiB that etcd takes.
const TEXTS: usize = 256 * 1024;

/// Keeps the messages of all sources below what an object can hold.
pub(super) fn fit_texts(status: &mut BackupStatus) {
    let outcomes = status.sources.iter_mut().map(|source| &mut source.outcome);
    let of_sources =
        outcomes.flat_map(|outcome| [&mut outcome.message, &mut outcome.stderr_tail, &mut outcome.log_tail]);
    let skipped = status.skipped.iter_mut().map(|skipped| &mut skipped.message);
    let missing = status.missing.iter_mut().map(|missing| &mut missing.message);
    let mut texts: Vec<&mut String> =
        of_sources.chain(skipped).chain(missing).filter(|text| !text.is_empty()).collect();
    fit(&mut texts, TEXTS);
}

/// A run that has not begun.
pub(super) fn wait(status: &mut BackupStatus, message: &str, now: Timestamp) {
    let (generation, message) = (status.observed_generation, clip(message));
    set_run_conditions(&mut status.conditions, None, ("Waiting", &message), generation, now);
}

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
    let stored = |source: &&SourceStatus| {
        matches!(source.outcome.verdict, Some(Verdict::Succeeded | Verdict::Unproven | Verdict::Suspect))
    };
    let stored_bytes: u64 = sources.iter().filter(stored).filter_map(|source| source.outcome.bytes).sum();
    let under_way = RunProgress::sum(sources.iter().filter_map(|source| source.transfer));
    status.transfer = under_way.map(|progress| progress.words(short_amount));
    status.bytes = stored_bytes.saturating_add(under_way.map_or(0, |progress| progress.bytes));
    status.progress = Some(format!("{green}/{}", sources.len()));
    let is_over = sources.iter().all(|source| source.state == SourceState::Done);
    let (verdict, reason, message) = match refused {
        Some(message) => (Some(Verdict::Failed), Reason::InvalidRequest.to_string(), message),
        None if is_over && is_left => {
            (None, "CleaningUp".to_owned(), "snapshots and their volumes are deleted".to_owned())
        }
        None if is_over => over(sources, (&status.missing, status.left_out.as_deref()), green),
        None => words_under_way(sources),
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

/// The verdict of a run whose sources all have one. What is missing although data of it is probably there makes it less than
/// green, as does what is left out because it is too much.
fn over(
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
        also = format!("{also}; {}", missing_words(&lost));
    }
    let counted = format!("{green} of {count} sources are green{also}");
    if sources.is_empty() {
        // The pods of all sources have ended before their turn.
        return (Some(Verdict::Failed), Reason::PodGone.to_string(), format!("nothing was left to store{also}"));
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

/// What a run that is under way does, or waits for.
fn words_under_way(sources: &[SourceStatus]) -> (Option<Verdict>, String, String) {
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

//! Sources whose Job or `VolumeSnapshot` could not be created. They wait with the cause in their status, and are tried
//! again until a limit.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{QUEUE_LIMIT, WAIT_LIMIT, WAITING_REQUEUE, summary};
use crate::{
    api::{BackupStatus, Outcome, SourceState, SourceStatus},
    model::{Reason, Verdict},
    plan::{
        actions::{Actions, EventRecord},
        jobs::with_advice,
        text::{clip, later},
    },
};

/// Reverts a source to `Waiting` because the API server refused its Job or `VolumeSnapshot`. After [`WAIT_LIMIT`] the
/// source fails. `before` is the status which the plan started from. `is_staged`: the Backup has created objects which
/// must be deleted before it gets a verdict.
pub fn job_refused(
    (before, is_staged): (Option<&BackupStatus>, bool),
    status: &mut BackupStatus,
    actions: &mut Actions,
    (source, reason, message): (&str, Reason, &str),
    now: Timestamp,
) {
    let old = source_of(before, source);
    let since = old.and_then(|source| source.waiting_since.clone()).map_or(now, |Time(since)| since);
    let Some((source, what_failed)) = reverted(status, source) else { return };
    let reason = if reason == Reason::NameTaken { reason } else { what_failed };
    wait(source, old, (reason, message), actions);
    source.waiting_since = Some(Time(since));
    if now >= later(since, WAIT_LIMIT) {
        source.outcome.verdict = Some(Verdict::Failed);
        source.state = SourceState::Done;
    }
    summary::fit_texts(status);
    summary::summarize(status, actions, (None, is_staged), now);
}

/// Does the same as [`job_refused`] for a creation that failed and may succeed later, for example because an admission
/// webhook is slow. The source fails after [`QUEUE_LIMIT`].
pub fn job_delayed(
    (before, is_staged): (Option<&BackupStatus>, bool),
    status: &mut BackupStatus,
    actions: &mut Actions,
    (source, message): (&str, &str),
    now: Timestamp,
) {
    let old = source_of(before, source);
    let since = old.and_then(|source| source.queued_since.clone()).map_or(now, |Time(since)| since);
    let Some((source, what_failed)) = reverted(status, source) else { return };
    if now >= later(since, QUEUE_LIMIT) {
        let message = format!("given up after {} hours: {message}", QUEUE_LIMIT.as_secs() / 3600);
        wait(source, None, (what_failed, &message), actions);
        source.queued_since = None;
        source.outcome.verdict = Some(Verdict::Failed);
        source.state = SourceState::Done;
    } else {
        wait(source, old, (what_failed, &format!("{message}; the creation is repeated")), actions);
        source.queued_since = Some(Time(since));
    }
    summary::fit_texts(status);
    summary::summarize(status, actions, (None, is_staged), now);
}

fn source_of<'a>(status: Option<&'a BackupStatus>, name: &str) -> Option<&'a SourceStatus> {
    status?.sources.iter().find(|candidate| candidate.name.as_str() == name)
}

/// The source, without the attempt that did not begin, and the reason by the object which was not created.
fn reverted<'a>(status: &'a mut BackupStatus, name: &str) -> Option<(&'a mut SourceStatus, Reason)> {
    let source = status.sources.iter_mut().find(|candidate| candidate.name.as_str() == name)?;
    if source.state != SourceState::Running {
        return Some((source, Reason::VolumeSnapshotFailed));
    }
    source.state = SourceState::Waiting;
    source.attempt = source.attempt.saturating_sub(1);
    source.jobs.pop();
    Some((source, Reason::PodNotStarted))
}

/// Sets the message of a source that waits, and reports it by an Event if the reason differs from that of `old`.
fn wait(
    source: &mut SourceStatus,
    old: Option<&SourceStatus>,
    (reason, message): (Reason, &str),
    actions: &mut Actions,
) {
    let reason = reason.to_string();
    if old.is_none_or(|old| old.outcome.reason != reason) {
        let note = format!("{}: {message}", source.name);
        let (reason, action) = (reason.clone(), "Backup");
        actions.events.push(EventRecord { is_warning: true, reason, action, note, job: None });
    }
    source.outcome = Outcome { reason, message: clip(&with_advice(message.to_owned())), ..Outcome::default() };
    actions.requeue_within(WAITING_REQUEUE);
}

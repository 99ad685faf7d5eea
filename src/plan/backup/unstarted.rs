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
        applied::{Applied, Refused},
        jobs::with_advice,
        text::{clip, later},
    },
};

/// Corrects the planned status of a Backup by what was created. `before` is the status which the plan started from.
/// `is_staged`: the Backup has created objects which must be deleted before it gets a verdict.
pub fn settle_backup(
    before: Option<&BackupStatus>,
    status: &mut BackupStatus,
    actions: &mut Actions,
    applied: &Applied,
    is_staged: bool,
    now: Timestamp,
) {
    if applied.refused.is_empty() {
        return;
    }
    for refused in &applied.refused {
        let is_named = |source: &&SourceStatus| source.name.as_str() == refused.source;
        let old = before.and_then(|before| before.sources.iter().find(is_named));
        if let Some(source) = status.sources.iter_mut().find(|source| source.name.as_str() == refused.source) {
            wait(source, old, refused, actions, now);
        }
    }
    summary::fit_texts(status);
    summary::summarize(status, actions, (None, is_staged), now);
}

/// Lets a source wait whose object was not created. `old` is the source before the plan. The source fails after
/// [`WAIT_LIMIT`], or after [`QUEUE_LIMIT`] if the creation may succeed later. An Event reports a reason which differs
/// from that of `old`, and the end of the longer wait.
fn wait(
    source: &mut SourceStatus,
    old: Option<&SourceStatus>,
    refused: &Refused,
    actions: &mut Actions,
    now: Timestamp,
) {
    let is_job = source.state == SourceState::Running;
    if is_job {
        // The attempt did not begin.
        source.state = SourceState::Waiting;
        source.attempt = old.map_or(0, |old| old.attempt);
        source.jobs = old.map_or_else(Vec::new, |old| old.jobs.clone());
    }
    let reason = match refused.reason {
        Reason::NameTaken => Reason::NameTaken,
        _ if is_job => Reason::PodNotStarted,
        _ => Reason::VolumeSnapshotFailed,
    };
    let (since, limit) = if refused.is_temporary {
        (old.and_then(|old| old.queued_since.as_ref()), QUEUE_LIMIT)
    } else {
        (old.and_then(|old| old.waiting_since.as_ref()), WAIT_LIMIT)
    };
    let since = since.map_or(now, |Time(since)| *since);
    let is_over = now >= later(since, limit);
    let message = match (refused.is_temporary, is_over) {
        (false, _) => refused.message.clone(),
        (true, false) => format!("{}; the creation is repeated", refused.message),
        (true, true) => format!("given up after {} hours: {}", limit.as_secs() / 3600, refused.message),
    };
    if refused.is_temporary {
        source.queued_since = Some(Time(since)).filter(|_| !is_over);
    } else {
        source.waiting_since = Some(Time(since));
    }
    let reason = reason.to_string();
    if old.is_none_or(|old| old.outcome.reason != reason) || refused.is_temporary && is_over {
        let note = format!("{}: {message}", source.name);
        let (reason, action) = (reason.clone(), "Backup");
        actions.events.push(EventRecord { is_warning: true, reason, action, note, job: None });
    }
    let verdict = is_over.then_some(Verdict::Failed);
    source.outcome = Outcome { verdict, reason, message: clip(&with_advice(message)), ..Outcome::default() };
    if is_over {
        source.state = SourceState::Done;
    }
    actions.requeue_within(WAITING_REQUEUE);
}

//! Repositories which a run did not find, or found replaced, although they were Ready: each of them is opened again at
//! once and not after the hourly pause, so that its condition shows what the run has found.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        BackupStatus, Outcome, READY, Repository, RepositoryStatus, RestoreStatus, SourceState, SourceStatus,
        condition_is_true,
    },
    model::Reason,
};

/// The reasons of runs which have not found the repository which was opened before.
const MISSED: [Reason; 2] = [Reason::RepositoryNotFound, Reason::RepositoryChanged];

/// Whether a run which ends for this reason has not found the repository which was opened before.
pub(in crate::plan) fn is_missed(reason: Reason) -> bool {
    MISSED.contains(&reason)
}

/// Whether the outcome has such a reason. Statuses contain reasons as text.
fn has_missed(outcome: &Outcome) -> bool {
    MISSED.iter().any(|reason| outcome.reason == reason.to_string())
}

/// The names of the Repositories which runs of a Backup have not found since its status was stored.
pub fn missed_by_backup(stored: Option<&BackupStatus>, status: &BackupStatus) -> BTreeSet<String> {
    let is_new = |source: &&SourceStatus| {
        let known = stored.and_then(|stored| stored.sources.iter().find(|known| known.name == source.name));
        known.is_none_or(|known| known.state != SourceState::Done)
    };
    let ended = status.sources.iter().filter(|source| source.state == SourceState::Done && has_missed(&source.outcome));
    ended.filter(is_new).filter_map(|source| Some(source.repository_ref.as_ref()?.name.clone())).collect()
}

/// The name of the Repository which the run of a Restore has not found, if the stored status has no verdict yet.
pub fn missed_by_restore(stored: Option<&RestoreStatus>, status: &RestoreStatus) -> BTreeSet<String> {
    let is_new = stored.is_none_or(|stored| stored.outcome.verdict.is_none());
    let is_missed = is_new && status.outcome.verdict.is_some() && has_missed(&status.outcome);
    status.repository_ref.iter().filter(|_| is_missed).map(|reference| reference.name.clone()).collect()
}

/// The status by which a Repository is opened again at once. `None` for a Repository which is not Ready or is being
/// opened, because it is opened soon in any case.
pub fn in_doubt(repository: &Repository, now: Timestamp) -> Option<RepositoryStatus> {
    let mut status =
        repository.status.clone().filter(|status| status.observed_generation == repository.metadata.generation)?;
    open_at_once(&mut status, now).then_some(status)
}

/// Makes the next attempt due, and returns whether this changed the status.
pub(in crate::plan) fn open_at_once(status: &mut RepositoryStatus, now: Timestamp) -> bool {
    let is_later = status.next_attempt_time.as_ref().is_some_and(|Time(due)| *due > now);
    let is_changed = is_later && condition_is_true(&status.conditions, READY);
    if is_changed {
        status.next_attempt_time = Some(Time(now));
    }
    is_changed
}

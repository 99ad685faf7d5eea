//! Scheduled prune and check of a Repository: from the observed objects to the next Job and the next status.
//!
//! A due slot is written to the status first, and its Job is created by the next reconcile. So a restarted controller
//! knows the slot, and backups see that a prune is due. A prune consists of two Jobs. The first Job repacks beside
//! other runs. The second Job starts only when no other run uses the repository, and no other run starts while it is
//! due. After that, the next prune is not due for as long as this one took, so that other runs can start.

mod facts;
mod outcome;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub(super) use self::facts::excludes_others;
pub use self::facts::{
    ActiveJob, PruneRuns, closed_repositories, damaged_packs, differing_retentions, pruned_repositories,
    same_repositories,
};
use self::facts::{Operation, is_due_now};
use super::{
    actions::{Actions, EventRecord, StartJob},
    applied::Refused,
    jobs::{JobRun, ObservedJob, RUNNING_REQUEUE, job_run},
    names::{self, OwnerRef, RunKind},
    repository::{explain, is_missed, open_at_once, set_key_escrow_condition},
    retry,
    schedule::Schedule,
    text::{clip, later, until},
};
use crate::{
    api::{CheckStatus, MaintenanceStatus, READY, Repository, RepositoryStatus, SourceState, condition_is_true},
    model::{DataPart, Failure, MaintenanceReport, Retention, RunReport, TaskKind, Verdict},
};

/// The number of attempts of a slot's run.
const ATTEMPTS: u32 = 4;
/// How often a waiting run is reconciled.
const WAITING_REQUEUE: Duration = Duration::from_secs(10);
/// The longest wait for the next slot, because clocks may jump.
const MAX_SLEEP: Duration = Duration::from_hours(1);
/// The shortest time after a prune in which the next one is not due.
const SHORTEST_REST: Duration = Duration::from_mins(1);
const DEFAULT_TIME_ZONE: &str = "UTC";
/// The default of `spec.check.readAllWithin`.
const READ_ALL_WITHIN: &str = "90d";
/// The reason of a queued run.
const QUEUED: &str = "Queued";

/// The observed facts which the maintenance is planned from.
#[derive(Clone, Copy, Debug, Default)]
pub struct MaintenanceFacts<'a> {
    /// The Repository's own prune and check Jobs.
    pub jobs: &'a [ObservedJob],
    /// All Jobs of the cluster which are started and not over, and use this repository, through any Repository object.
    /// Filled only if [`needs_facts`].
    pub active: &'a [ActiveJob],
    /// Whether a prune is due or runs in another Repository object which is the same repository. Filled only if
    /// [`needs_facts`].
    pub is_closed: bool,
    /// The result of [`differing_retentions`]. Filled only if [`needs_facts`].
    pub differing_retentions: &'a [String],
}

/// Whether the plan needs all of [`MaintenanceFacts`], and not only `jobs`, because a prune or check is due.
pub fn needs_facts(repository: &Repository, now: Timestamp) -> bool {
    Operation::ALL.into_iter().any(|operation| {
        let run = repository.status.as_ref().and_then(|status| operation.run(status));
        run.is_some_and(|run| run.state == Some(SourceState::Waiting))
            || matches!((operation.schedule(repository), run), (Some(Ok(schedule)), Some(run)) if is_due_now(&schedule, run, now))
    })
}

/// Plans the next actions and the status of a Repository's maintenance. Called after [`super::plan_repository`].
pub fn plan_maintenance(
    repository: &Repository,
    facts: MaintenanceFacts<'_>,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    now: Timestamp,
) {
    let Some(owner) = OwnerRef::of(repository).filter(|_| repository.metadata.deletion_timestamp.is_none()) else {
        return;
    };
    let mut planner = Planner { repository, owner: &owner, facts, status, actions, now };
    // Prune first, because no check starts while a prune is due.
    for operation in Operation::ALL {
        planner.plan(operation);
    }
}

/// Counts a Job which was not created as a failed attempt. A source of another run is ignored.
pub(super) fn attempt_refused(
    repository: &Repository,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    refused: &Refused,
    now: Timestamp,
) {
    let Some(owner) = OwnerRef::of(repository) else { return };
    let mut planner = Planner { repository, owner: &owner, facts: MaintenanceFacts::default(), status, actions, now };
    for operation in Operation::ALL {
        let Some(mut run) = operation.take(planner.status) else { continue };
        if source_of(operation, &run) == refused.source {
            let failure = Failure::new(refused.reason, &refused.message);
            run.job = None;
            planner.finish_attempt(operation, &mut run, RunReport::failed(failure, Duration::ZERO));
        }
        operation.put(planner.status, run);
    }
}

/// The source of a run's [`StartJob`], which makes the Job's name unique: kind and slot.
fn source_of(operation: Operation, run: &MaintenanceStatus) -> String {
    let slot = run.slot.as_ref().map_or_else(String::new, |slot| slot.0.to_string());
    format!("{}/{slot}", operation.kind(run))
}

/// Whether the Job repacks for a prune which is not over.
pub(super) fn is_preparation_of_prune(owner: &OwnerRef, status: &RepositoryStatus, job: &str) -> bool {
    let is_unfinished =
        |run: &&MaintenanceStatus| matches!(run.state, Some(SourceState::Waiting | SourceState::Running));
    status.prune.as_ref().filter(is_unfinished).is_some_and(|run| {
        let source = source_of(Operation::Prune, &MaintenanceStatus { repacked_bytes: None, ..run.clone() });
        (1..=ATTEMPTS).any(|attempt| names::job_name(owner, &source, attempt) == job)
    })
}

struct Planner<'a, 'b> {
    repository: &'a Repository,
    owner: &'a OwnerRef,
    facts: MaintenanceFacts<'a>,
    status: &'b mut RepositoryStatus,
    actions: &'b mut Actions,
    now: Timestamp,
}

impl Planner<'_, '_> {
    fn plan(&mut self, operation: Operation) {
        let schedule = operation.schedule(self.repository);
        let Some(mut run) = operation.take(self.status).or_else(|| schedule.is_some().then(MaintenanceStatus::default))
        else {
            return;
        };
        let stage = operation.kind(&run);
        if run.state == Some(SourceState::Running) {
            self.follow_job(operation, &mut run);
        }
        // The next stage of a prune is stored in the status before its Job is created, like a slot.
        if run.state != Some(SourceState::Running) && operation.kind(&run) == stage {
            match schedule {
                Some(Ok(schedule)) => {
                    run.since.get_or_insert(Time(self.now));
                    self.try_start(operation, &schedule, &mut run);
                    if operation == Operation::Check {
                        outcome::mark_overdue_check(self.status, &schedule, &run, self.now);
                    }
                }
                Some(Err(why)) => self.unschedule(operation, &mut run, "InvalidSchedule", &why),
                None => self.unschedule(operation, &mut run, "", ""),
            }
        }
        operation.put(self.status, run);
    }

    /// Cancels a due slot because the schedule was removed or is invalid, so that no other run waits for it.
    fn unschedule(&mut self, operation: Operation, run: &mut MaintenanceStatus, reason: &str, why: &str) {
        run.next_time = None;
        if operation == Operation::Prune {
            outcome::report_differing_retentions(self.status, &self.owner.name, &[], self.now);
        }
        if !why.is_empty() && run.message != why {
            self.record_event(operation, true, reason, why.to_owned(), None);
        }
        if run.state == Some(SourceState::Waiting) || !why.is_empty() {
            run.state = None;
            (run.reason, run.message) = (reason.to_owned(), clip(why));
        }
        // A later schedule does not make up for the time without a schedule.
        run.since = None;
    }

    /// Updates a run from the state of its Job.
    fn follow_job(&mut self, operation: Operation, run: &mut MaintenanceStatus) {
        // The name is derived again and not read from the status, which other clients may be allowed to write.
        let name = names::job_name(self.owner, &source_of(operation, run), run.attempt);
        run.job = Some(name.clone());
        match job_run(self.facts.jobs, &name, None, self.actions, self.now) {
            JobRun::Suspended => {
                // The Job was created and never started. It may be outdated, so the attempt is planned again.
                run.state = Some(SourceState::Waiting);
                run.attempt = run.attempt.saturating_sub(1);
                run.job = None;
                // The other runs of the repository are only observed for a waiting run.
                run.next_time = Some(Time(later(self.now, Duration::from_secs(1))));
            }
            JobRun::Starting { hint } => {
                run.message = clip(&hint);
                self.actions.requeue_within(RUNNING_REQUEUE);
            }
            JobRun::Running { .. } => run.message.clear(),
            JobRun::Lost(report) | JobRun::Ended(report) => self.finish_attempt(operation, run, *report),
        }
    }

    /// Starts a run without a Job if it is due and nothing blocks it.
    fn try_start(&mut self, operation: Operation, schedule: &Schedule, run: &mut MaintenanceStatus) {
        let now = self.now;
        if run.state != Some(SourceState::Waiting) {
            let since = facts::since(run).unwrap_or(now);
            let slots = schedule.slots(since, now);
            let rest_end = rest_end(operation, run);
            match slots.due {
                Some(due) if rest_end <= now => {
                    *run = MaintenanceStatus {
                        since: run.since.clone(),
                        last_success_time: run.last_success_time.clone(),
                        state: Some(SourceState::Waiting),
                        slot: Some(Time(due.slot)),
                        missed_slots: due.missed,
                        reason: QUEUED.to_owned(),
                        ..MaintenanceStatus::default()
                    };
                    // The Job is created after this status is stored.
                    self.actions.requeue_within(Duration::ZERO);
                }
                due => {
                    let next = if due.is_some() { Some(rest_end) } else { slots.next };
                    run.next_time = next.map(Time);
                    self.actions.requeue_within(next.map_or(MAX_SLEEP, |next| until(next, now)).min(MAX_SLEEP));
                }
            }
            return;
        }
        if let Some(Time(due)) = &run.next_time
            && *due > now
        {
            self.actions.requeue_within(until(*due, now));
            return;
        }
        match self.blocked_by(operation, run) {
            Some(why) => {
                run.next_time = None;
                (run.reason, run.message) = (QUEUED.to_owned(), clip(&why));
                self.actions.requeue_within(WAITING_REQUEUE);
            }
            None => self.start(operation, schedule, run),
        }
    }

    /// Why a due run has to wait, if it has to.
    fn blocked_by(&self, operation: Operation, run: &MaintenanceStatus) -> Option<String> {
        if !condition_is_true(&self.status.conditions, READY) {
            return Some("waits until the repository is Ready".to_owned());
        }
        // The Job of this attempt may exist already, if the controller restarted after creating it.
        let own = names::job_name(self.owner, &source_of(operation, run), run.attempt + 1);
        let others = || self.facts.active.iter().filter(|job| job.name != own);
        let is_pruned = || self.facts.is_closed || others().any(|job| job.kind == RunKind::Prune.to_string());
        match operation {
            Operation::Prune if run.repacked_bytes.is_some() => {
                let first = others().next()?;
                let (count, namespace, name) = (others().count(), &first.namespace, &first.name);
                Some(format!("waits for {count} Jobs which use the repository, such as {namespace}/{name}"))
            }
            Operation::Prune => is_pruned().then(|| "waits for another prune of the repository".to_owned()),
            Operation::Check => (is_pruned() || facts::blocks_new_runs(self.status.prune.as_ref(), self.now))
                .then(|| "waits for a prune of the repository".to_owned()),
        }
    }

    fn start(&mut self, operation: Operation, schedule: &Schedule, run: &mut MaintenanceStatus) {
        let (kind, source) = (operation.kind(run), source_of(operation, run));
        run.attempt += 1;
        run.state = Some(SourceState::Running);
        run.next_time = None;
        (run.start_time, run.completion_time) = (Some(Time(self.now)), None);
        (run.reason, run.message) = (String::new(), String::new());
        run.job = Some(names::job_name(self.owner, &source, run.attempt));
        let spec = &self.repository.spec;
        let retention = if operation == Operation::Prune { self.retention() } else { Retention::default() };
        let time_zone = spec.time_zone.clone().unwrap_or_else(|| DEFAULT_TIME_ZONE.to_owned());
        let task = match (operation, run.repacked_bytes) {
            (Operation::Prune, None) => TaskKind::Repack { retention, time_zone },
            (Operation::Prune, Some(repacked_bytes)) => TaskKind::Prune { retention, time_zone, repacked_bytes },
            (Operation::Check, _) => TaskKind::Check { part: self.part_to_read(schedule) },
        };
        // Jobs of this slot are kept for their logs; Jobs of earlier slots are deleted.
        let of_slot: Vec<String> =
            (1..=run.attempt.min(ATTEMPTS)).map(|attempt| names::job_name(self.owner, &source, attempt)).collect();
        let is_old = |job: &&ObservedJob| facts::is_of_kind(&job.job, kind) && !of_slot.contains(&job.job.name_any());
        self.actions.delete.extend(self.facts.jobs.iter().filter(is_old).map(|job| job.job.name_any()));
        self.actions.start.push(StartJob {
            kind,
            source,
            attempt: run.attempt,
            task,
            repository: self.owner.name.clone(),
            timeout: None,
            claim: None,
            data_source: None,
            target: None,
            note: String::new(),
        });
        self.actions.requeue_within(RUNNING_REQUEUE);
    }

    /// The retention which a prune applies. While another Repository object of the same repository has another one, a
    /// prune forgets nothing, because the stricter of the two would forget what the other one keeps.
    fn retention(&mut self) -> Retention {
        let others = self.facts.differing_retentions;
        let event = outcome::report_differing_retentions(self.status, &self.owner.name, others, self.now);
        self.actions.events.extend(event);
        let spec = &self.repository.spec;
        spec.retention.clone().filter(|_| others.is_empty()).unwrap_or_default()
    }

    /// The part of the data which the next check reads: the part with more damaged packs than are listed, else the damaged
    /// part again, else the next part. The number of parts is the number of slots within `readAllWithin`.
    fn part_to_read(&self, schedule: &Schedule) -> DataPart {
        let unread = CheckStatus::default();
        let CheckStatus { read_part, damaged_part, damaged_packs, .. } = self.status.check.as_ref().unwrap_or(&unread);
        let within = self.repository.spec.check.as_ref().and_then(|check| check.read_all_within);
        let within = within.or_else(|| READ_ALL_WITHIN.parse().ok()).unwrap_or_default();
        let parts = schedule.fewest_within(within.span(), DataPart::MOST.into());
        let first = DataPart::first(u16::try_from(parts).unwrap_or(DataPart::MOST));
        let next = || read_part.filter(|read| read.of() == first.of())?.next();
        // Every backup reads the part with packs that could not be listed, so that this part comes first.
        let unlisted = damaged_packs.as_ref().and_then(|packs| packs.more_in);
        unlisted.or(*damaged_part).or_else(next).unwrap_or(first)
    }

    /// Ends an attempt: the run gets its verdict, or waits for the next attempt.
    fn finish_attempt(&mut self, operation: Operation, run: &mut MaintenanceStatus, report: RunReport) {
        let job = run.job.take();
        self.actions.revoke.extend(job.clone());
        let report = outcome::require_details(operation.kind(run), report);
        let message = explain(self.repository, self.status, report.reason, &report.message);
        let report = RunReport { message, ..report };
        if is_missed(report.reason) && open_at_once(self.status, self.now) {
            self.actions.requeue_within(Duration::ZERO);
        }
        if let (Verdict::Succeeded, Some(MaintenanceReport::Repack { bytes })) = (report.verdict, &report.maintenance) {
            // The first Job of a prune is not reported; the second one is.
            *run = MaintenanceStatus {
                state: Some(SourceState::Waiting),
                repacked_bytes: Some(*bytes),
                attempt: 0,
                reason: QUEUED.to_owned(),
                message: String::new(),
                completion_time: Some(Time(self.now)),
                ..run.clone()
            };
            self.actions.requeue_within(Duration::ZERO);
            return;
        }
        set_key_escrow_condition(self.repository, self.status, &report, self.now);
        let is_tried_again =
            report.verdict == Verdict::Failed && retry::is_transient(report.reason) && run.attempt < ATTEMPTS;
        let result = outcome::result(&report, run.missed_slots);
        let next =
            if is_tried_again { format!(" (attempt {}; another one follows)", run.attempt) } else { String::new() };
        let reason = report.reason.to_string();
        self.record_event(operation, !report.verdict.is_green(), &reason, result.clone() + &next, job.clone());
        (run.reason, run.message) = (reason, clip(&result));
        run.completion_time = Some(Time(self.now));
        run.job = job;
        if is_tried_again {
            let pause = retry::source_pause(run.attempt);
            run.state = Some(SourceState::Waiting);
            run.next_time = Some(Time(later(self.now, pause)));
            self.actions.requeue_within(pause);
            return;
        }
        run.state = Some(SourceState::Done);
        run.verdict = Some(report.verdict);
        if report.verdict.is_green() {
            run.last_success_time = Some(Time(self.now));
        }
        let event = outcome::apply_report(operation, self.status, &report, self.now);
        self.actions.events.extend(event);
    }

    fn record_event(
        &mut self,
        operation: Operation,
        is_warning: bool,
        reason: &str,
        note: String,
        job: Option<String>,
    ) {
        let reason = reason.to_owned();
        self.actions.events.push(EventRecord { is_warning, reason, action: operation.action(), note, job });
    }
}

/// The end of the time after a prune in which the next one is not due.
fn rest_end(operation: Operation, run: &MaintenanceStatus) -> Timestamp {
    match (operation, &run.start_time, &run.completion_time) {
        (Operation::Prune, Some(Time(start)), Some(Time(end))) => later(*end, until(*end, *start).max(SHORTEST_REST)),
        _ => Timestamp::MIN,
    }
}

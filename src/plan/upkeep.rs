//! Prune and check of a Repository on schedule: from what is observed now to the next Job and the next status.
//!
//! A slot that is due is put into the status first, and its Job is made at the next look, so that a restart knows which one it
//! was, and backups see that a prune is due. A prune is two Jobs: the first packs anew, beside all others. The second begins
//! only when nothing else works on the repository, and nothing else begins while it is due; then it rests as long as it took,
//! so that others come to their turn, too. It must not know what a Job looks like, nor what a store is.

mod facts;
mod outcome;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub(super) use self::facts::excludes_others;
pub use self::facts::{ActiveJob, PruneRuns, closed_repositories, pruned_repositories, same_repositories};
use self::facts::{Verb, is_due_now};
use super::{
    actions::{Actions, Occurrence, StartJob},
    jobs::{ObservedJob, Standing, standing},
    names::{self, Owner, RunKind},
    repository::tell_escrow,
    retry,
    schedule::Schedule,
    text::{clip, later, until},
};
use crate::{
    api::{CheckStatus, READY, Repository, RepositoryStatus, SourceState, UpkeepStatus, condition_is_true},
    model::{DataPart, Failure, Reason, SourceReport, TaskKind, UpkeepReport, Verdict},
};

/// How often a run is tried before its slot is given up.
const ATTEMPTS: u32 = 4;
/// How often something that waits is looked at.
const WAITING_LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long nothing may be heard of a Job that runs.
const RUNNING_LOOK_AGAIN: Duration = Duration::from_mins(1);
/// No sleep is longer, since clocks jump.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);
/// After each prune as long as it took, and at least so long, no other one is due: others come to their turn.
const SHORTEST_REST: Duration = Duration::from_mins(1);
/// The time zone where none is named.
const DEFAULT_TIME_ZONE: &str = "UTC";
/// Within which all data is read where nothing is said.
const READ_ALL_WITHIN: &str = "90d";
/// The reason of a run that waits for its turn.
const QUEUED: &str = "Queued";

/// What the plan of upkeep is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpkeepFacts<'a> {
    /// The Repository's own prune and check Jobs.
    pub jobs: &'a [ObservedJob],
    /// All Jobs in the cluster that are started and not over, and work on this repository, by whatever name; looked for
    /// only if [`wants_facts`].
    pub active: &'a [ActiveJob],
    /// Whether a prune of another Repository is due or runs that is the same repository; looked for only if [`wants_facts`].
    pub is_closed: bool,
}

/// Whether something is due, so that it matters who else works on the repository.
pub fn wants_facts(repository: &Repository, now: Timestamp) -> bool {
    Verb::ALL.into_iter().any(|verb| {
        let run = repository.status.as_ref().and_then(|status| verb.run(status));
        run.is_some_and(|run| run.state == Some(SourceState::Waiting))
            || matches!((verb.schedule(repository), run), (Some(Ok(schedule)), Some(run)) if is_due_now(&schedule, run, now))
    })
}

/// What is to be done for a Repository's upkeep, and what its status then says; after [`super::plan_repository`].
pub fn plan_upkeep(
    repository: &Repository,
    facts: UpkeepFacts<'_>,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    now: Timestamp,
) {
    let Some(owner) = Owner::of(repository).filter(|_| repository.metadata.deletion_timestamp.is_none()) else {
        return;
    };
    let mut planner = Planner { repository, owner: &owner, facts, status, actions, now };
    // In this order: while a prune is due, no check begins.
    for verb in Verb::ALL {
        planner.go(verb);
    }
}

/// Takes back the start of a Job that the API server refused: it counts as an attempt that failed. `source` is that of its
/// [`StartJob`]; nothing happens if it is none of upkeep.
pub fn upkeep_refused(
    repository: &Repository,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    (source, reason, message): (&str, Reason, &str),
    now: Timestamp,
) {
    let Some(owner) = Owner::of(repository) else { return };
    let mut planner = Planner { repository, owner: &owner, facts: UpkeepFacts::default(), status, actions, now };
    for verb in Verb::ALL {
        let Some(mut run) = verb.take(planner.status) else { continue };
        if source_of(verb, &run) == source {
            let failure = Failure::new(reason, message);
            run.job = None;
            planner.conclude(verb, &mut run, SourceReport::failed(failure, Duration::ZERO));
        }
        verb.put(planner.status, run);
    }
}

/// What makes the name of a run's Job unique: verb and slot.
fn source_of(verb: Verb, run: &UpkeepStatus) -> String {
    let slot = run.slot.as_ref().map_or_else(String::new, |slot| slot.0.to_string());
    format!("{}/{slot}", verb.kind(run))
}

/// Whether the Job is one that repacks for a prune which is not over.
pub(super) fn is_preparation_of_prune(owner: &Owner, status: &RepositoryStatus, job: &str) -> bool {
    let is_under_way = |run: &&UpkeepStatus| matches!(run.state, Some(SourceState::Waiting | SourceState::Running));
    status.prune.as_ref().filter(is_under_way).is_some_and(|run| {
        let source = source_of(Verb::Prune, &UpkeepStatus { repacked_bytes: None, ..run.clone() });
        (1..=ATTEMPTS).any(|attempt| names::job_name(owner, &source, attempt) == job)
    })
}

/// Goes through the upkeep of one Repository.
struct Planner<'a, 'b> {
    repository: &'a Repository,
    owner: &'a Owner,
    facts: UpkeepFacts<'a>,
    status: &'b mut RepositoryStatus,
    actions: &'b mut Actions,
    now: Timestamp,
}

impl Planner<'_, '_> {
    fn go(&mut self, verb: Verb) {
        let schedule = verb.schedule(self.repository);
        let Some(mut run) = verb.take(self.status).or_else(|| schedule.is_some().then(UpkeepStatus::default)) else {
            return;
        };
        let stage = verb.kind(&run);
        if run.state == Some(SourceState::Running) {
            self.watch(verb, &mut run);
        }
        // What comes next is stored before its Job is made, as a slot is.
        if run.state != Some(SourceState::Running) && verb.kind(&run) == stage {
            match schedule {
                Some(Ok(schedule)) => {
                    run.since.get_or_insert(Time(self.now));
                    self.wait(verb, &schedule, &mut run);
                    if verb == Verb::Check {
                        outcome::age(self.status, &schedule, &run, self.now);
                    }
                }
                Some(Err(why)) => self.give_up(verb, &mut run, "InvalidSchedule", &why),
                None => self.give_up(verb, &mut run, "", ""),
            }
        }
        verb.put(self.status, run);
    }

    /// There is no schedule any more, or none that could be read: what was due is not, so that nobody waits for it.
    fn give_up(&mut self, verb: Verb, run: &mut UpkeepStatus, reason: &str, why: &str) {
        run.next_time = None;
        if !why.is_empty() && run.message != why {
            self.tell(verb, true, reason, why.to_owned(), None);
        }
        if run.state == Some(SourceState::Waiting) || !why.is_empty() {
            run.state = None;
            (run.reason, run.message) = (reason.to_owned(), clip(why));
        }
        // A schedule that comes back does not make up for the time without one.
        run.since = None;
    }

    /// A run with a Job.
    fn watch(&mut self, verb: Verb, run: &mut UpkeepStatus) {
        // Never the name that stands in the status, which others may be allowed to write.
        let name = names::job_name(self.owner, &source_of(verb, run), run.attempt);
        run.job = Some(name.clone());
        let Some(observed) = self.facts.jobs.iter().find(|observed| observed.job.name_any() == name) else {
            let failure = Failure::new(Reason::ResultLost, format!("Job {name} was deleted before it ended"));
            self.conclude(verb, run, SourceReport::failed(failure, Duration::ZERO));
            return;
        };
        match standing(observed, self.now) {
            Standing::Suspended => {
                // It was made and never started. What it may do follows from the plan, so that it is planned again.
                run.state = Some(SourceState::Waiting);
                run.attempt = run.attempt.saturating_sub(1);
                run.job = None;
                // Who else works on the repository is looked for while it waits.
                run.next_time = Some(Time(later(self.now, Duration::from_secs(1))));
            }
            Standing::Starting { deadline, hint } => {
                run.message = clip(&hint);
                self.actions.look_again_after(until(deadline, self.now).min(RUNNING_LOOK_AGAIN));
            }
            Standing::Running => {
                run.message.clear();
                self.actions.look_again_after(RUNNING_LOOK_AGAIN);
            }
            Standing::Ended(report) => self.conclude(verb, run, *report),
            Standing::Stuck(report) => {
                self.actions.end.push(name);
                self.conclude(verb, run, *report);
            }
        }
    }

    /// A run without a Job: it gets one if it is due, and nothing is in the way.
    fn wait(&mut self, verb: Verb, schedule: &Schedule, run: &mut UpkeepStatus) {
        let now = self.now;
        if run.state != Some(SourceState::Waiting) {
            let since = facts::since(run).unwrap_or(now);
            let slots = schedule.slots(since, now);
            let rested = rested(verb, run);
            match slots.due {
                Some(due) if rested <= now => {
                    *run = UpkeepStatus {
                        since: run.since.clone(),
                        last_success_time: run.last_success_time.clone(),
                        state: Some(SourceState::Waiting),
                        slot: Some(Time(due.slot)),
                        missed_slots: due.missed,
                        reason: QUEUED.to_owned(),
                        ..UpkeepStatus::default()
                    };
                    // The Job is made when this is stored.
                    self.actions.look_again_after(Duration::ZERO);
                }
                due => {
                    let next = if due.is_some() { Some(rested) } else { slots.next };
                    run.next_time = next.map(Time);
                    self.actions
                        .look_again_after(next.map_or(LONGEST_SLEEP, |next| until(next, now)).min(LONGEST_SLEEP));
                }
            }
            return;
        }
        if let Some(Time(due)) = &run.next_time
            && *due > now
        {
            self.actions.look_again_after(until(*due, now));
            return;
        }
        match self.obstacle(verb, run) {
            Some(words) => {
                run.next_time = None;
                (run.reason, run.message) = (QUEUED.to_owned(), clip(&words));
                self.actions.look_again_after(WAITING_LOOK_AGAIN);
            }
            None => self.start(verb, schedule, run),
        }
    }

    /// What a run that is due waits for, if for anything.
    fn obstacle(&self, verb: Verb, run: &UpkeepStatus) -> Option<String> {
        if !condition_is_true(&self.status.conditions, READY) {
            return Some("waits until the repository is Ready".to_owned());
        }
        // The Job of this very attempt, if the controller was ended after it was made.
        let own = names::job_name(self.owner, &source_of(verb, run), run.attempt + 1);
        let others = || self.facts.active.iter().filter(|job| job.name != own);
        let is_pruned = || self.facts.is_closed || others().any(|job| job.kind == RunKind::Prune.to_string());
        match verb {
            Verb::Prune if run.repacked_bytes.is_some() => {
                let first = others().next()?;
                let (count, namespace, name) = (others().count(), &first.namespace, &first.name);
                Some(format!("waits for {count} Jobs that work on the repository, such as {namespace}/{name}"))
            }
            Verb::Prune => is_pruned().then(|| "waits for another prune of the repository".to_owned()),
            Verb::Check => (is_pruned() || facts::is_under_way(self.status.prune.as_ref(), self.now))
                .then(|| "waits for a prune of the repository".to_owned()),
        }
    }

    fn start(&mut self, verb: Verb, schedule: &Schedule, run: &mut UpkeepStatus) {
        let (kind, source) = (verb.kind(run), source_of(verb, run));
        run.attempt += 1;
        run.state = Some(SourceState::Running);
        run.next_time = None;
        (run.start_time, run.completion_time) = (Some(Time(self.now)), None);
        (run.reason, run.message) = (String::new(), String::new());
        run.job = Some(names::job_name(self.owner, &source, run.attempt));
        let spec = &self.repository.spec;
        let retention = spec.retention.clone().unwrap_or_default();
        let time_zone = spec.time_zone.clone().unwrap_or_else(|| DEFAULT_TIME_ZONE.to_owned());
        let task = match (verb, run.repacked_bytes) {
            (Verb::Prune, None) => TaskKind::Repack { retention, time_zone },
            (Verb::Prune, Some(repacked_bytes)) => TaskKind::Prune { retention, time_zone, repacked_bytes },
            (Verb::Check, _) => TaskKind::Check { part: self.part_to_read(schedule) },
        };
        // The Jobs of this slot stay, for their logs; all others go.
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
            made_of: None,
            target: None,
            note: String::new(),
        });
        self.actions.look_again_after(RUNNING_LOOK_AGAIN);
    }

    /// The damaged part again; else the next one, where there are as many as slots in the time in which all is to be read.
    fn part_to_read(&self, schedule: &Schedule) -> DataPart {
        let unread = CheckStatus::default();
        let CheckStatus { read_part, damaged_part, .. } = self.status.check.as_ref().unwrap_or(&unread);
        let within = self.repository.spec.check.as_ref().and_then(|check| check.read_all_within);
        let within = within.or_else(|| READ_ALL_WITHIN.parse().ok()).unwrap_or_default();
        let parts = schedule.fewest_within(within.span(), DataPart::MOST.into());
        let first = DataPart::first(u16::try_from(parts).unwrap_or(DataPart::MOST));
        let next = || read_part.filter(|read| read.of() == first.of())?.next();
        damaged_part.or_else(next).unwrap_or(first)
    }

    /// An attempt is over: the run has its verdict, or waits for another attempt.
    fn conclude(&mut self, verb: Verb, run: &mut UpkeepStatus, report: SourceReport) {
        let job = run.job.take();
        self.actions.revoke.extend(job.clone());
        let report = outcome::must_say_what_was_done(verb.kind(run), report);
        if let (Verdict::Succeeded, Some(UpkeepReport::Repack { bytes })) = (report.verdict, &report.upkeep) {
            // Of the second Job people hear.
            *run = UpkeepStatus {
                state: Some(SourceState::Waiting),
                repacked_bytes: Some(*bytes),
                attempt: 0,
                reason: QUEUED.to_owned(),
                message: String::new(),
                completion_time: Some(Time(self.now)),
                ..run.clone()
            };
            self.actions.look_again_after(Duration::ZERO);
            return;
        }
        tell_escrow(self.repository, self.status, &report, self.now);
        let is_tried_again =
            report.verdict == Verdict::Failed && retry::may_pass(report.reason) && run.attempt < ATTEMPTS;
        let words = outcome::words(&report, run.missed_slots);
        let next =
            if is_tried_again { format!(" (attempt {}; it is tried again)", run.attempt) } else { String::new() };
        let reason = report.reason.to_string();
        self.tell(verb, !report.verdict.is_green(), &reason, words.clone() + &next, job.clone());
        (run.reason, run.message) = (reason, clip(&words));
        run.completion_time = Some(Time(self.now));
        run.job = job;
        if is_tried_again {
            let pause = retry::source_pause(run.attempt);
            run.state = Some(SourceState::Waiting);
            run.next_time = Some(Time(later(self.now, pause)));
            self.actions.look_again_after(pause);
            return;
        }
        run.state = Some(SourceState::Done);
        run.verdict = Some(report.verdict);
        if report.verdict.is_green() {
            run.last_success_time = Some(Time(self.now));
        }
        let occurrences = outcome::conclude(verb, self.status, &report, self.now);
        self.actions.events.extend(occurrences);
    }

    fn tell(&mut self, verb: Verb, is_warning: bool, reason: &str, note: String, job: Option<String>) {
        let reason = reason.to_owned();
        self.actions.events.push(Occurrence { is_warning, reason, action: verb.action(), note, job });
    }
}

/// Until when no other prune is due.
fn rested(verb: Verb, run: &UpkeepStatus) -> Timestamp {
    match (verb, &run.start_time, &run.completion_time) {
        (Verb::Prune, Some(Time(start)), Some(Time(end))) => later(*end, until(*end, *start).max(SHORTEST_REST)),
        _ => Timestamp::MIN,
    }
}

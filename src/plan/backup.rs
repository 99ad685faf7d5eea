//! How a Backup goes on: from what is observed now to the next Jobs and the next status.
//!
//! Everything is derived from the objects, so that a restart of the controller changes nothing. It must not know how pods
//! become sources (`sources`) or what a Job looks like.

mod freeze;
mod summary;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, Occurrence, StartJob},
    choose::{Obstacle, choose},
    jobs::{ObservedJob, Standing, standing},
    names::{self, Owner, RunKind},
    retry,
    sources::{PlannedSource, SourcePlan, Target},
    text::{clip, later, until},
};
use crate::{
    api::{Backup, BackupStatus, Outcome, Repository, RepositoryKind, RepositoryReference, SourceState, SourceStatus},
    model::{Failure, Reason, SourceReport, TaskKind, Verdict},
};

/// How many backup Jobs work on one repository at once.
pub const JOBS_PER_REPOSITORY: usize = 4;
/// How many backup Jobs run at once in the whole cluster.
pub const JOBS_IN_CLUSTER: usize = 16;
/// How long a source waits for its Repository to be ready, or for a pod of its workload to be.
pub const WAIT_LIMIT: Duration = Duration::from_mins(5);
/// How often something that waits is looked at.
const WAITING_LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long nothing may be heard of a Job that runs.
const RUNNING_LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What a Backup's plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct BackupFacts<'a> {
    /// The Repositories of its namespace.
    pub repositories: &'a [Repository],
    /// Its own Jobs.
    pub jobs: &'a [ObservedJob],
    /// What its pods ask for now.
    pub sources: &'a SourcePlan,
    /// The Repositories, by namespace and name, of all backup Jobs in the cluster that are started and not over.
    pub active: &'a [(String, String)],
    /// The Repositories, by namespace and name, in which a prune is due or runs.
    pub closed: &'a BTreeSet<(String, String)>,
}

/// What is to be done for a Backup, and what its status then says.
pub fn plan_backup(backup: &Backup, facts: BackupFacts<'_>, now: Timestamp) -> (BackupStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = backup.status.clone().unwrap_or_default();
    let owner = Owner::of(backup).filter(|_| backup.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.verdict) else { return (status, actions) };
    status.observed_generation = backup.metadata.generation;
    let mut refused = None;
    if status.start_time.is_none() {
        // No Job before this list is stored: the next look, which the new status causes, begins them.
        refused = freeze::freeze(backup, facts.sources, &mut status, &mut actions, now);
        actions.look_again_after(WAITING_LOOK_AGAIN);
    } else {
        let mut sources = std::mem::take(&mut status.sources);
        let mut planner = Planner { backup, owner: &owner, facts, now, started: Vec::new(), actions: &mut actions };
        for source in &mut sources {
            match source.state {
                SourceState::Done => {}
                SourceState::Running => planner.watch(source),
                SourceState::Waiting => planner.wait(source),
            }
        }
        status.sources = sources;
    }
    summary::summarize(&mut status, &mut actions, refused, now);
    (status, actions)
}

/// Takes back the start of a source's Job that the API server refused: the source waits, and says why, until its time is
/// up. `before` is the status that the plan began with.
pub fn job_refused(
    before: Option<&BackupStatus>,
    status: &mut BackupStatus,
    actions: &mut Actions,
    (source, message): (&str, &str),
    now: Timestamp,
) {
    let is_it = |candidate: &&SourceStatus| candidate.name.as_str() == source;
    let old = before.and_then(|status| status.sources.iter().find(is_it));
    let since = old.and_then(|source| source.waiting_since.clone()).map_or(now, |Time(since)| since);
    let Some(source) = status.sources.iter_mut().find(|candidate| candidate.name.as_str() == source) else { return };
    source.state = SourceState::Waiting;
    source.attempt = source.attempt.saturating_sub(1);
    source.jobs.pop();
    source.waiting_since = Some(Time(since));
    source.outcome =
        Outcome { reason: Reason::PodNotStarted.to_string(), message: clip(message), ..Outcome::default() };
    if now >= later(since, WAIT_LIMIT) {
        source.outcome.verdict = Some(Verdict::Failed);
        source.state = SourceState::Done;
    }
    actions.look_again_after(WAITING_LOOK_AGAIN);
    summary::summarize(status, actions, None, now);
}

/// Goes through the sources of one Backup.
struct Planner<'a, 'b> {
    backup: &'a Backup,
    owner: &'a Owner,
    facts: BackupFacts<'a>,
    now: Timestamp,
    /// The Repositories of the Jobs that this plan starts.
    started: Vec<String>,
    actions: &'b mut Actions,
}

impl<'a> Planner<'a, '_> {
    /// A source with a Job.
    fn watch(&mut self, source: &mut SourceStatus) {
        let name = source.jobs.last().cloned().unwrap_or_default();
        let Some(observed) = self.facts.jobs.iter().find(|observed| observed.job.name_any() == name) else {
            let failure = Failure::new(Reason::ResultLost, format!("Job {name} was deleted before it ended"));
            self.conclude(source, SourceReport::failed(failure, Duration::ZERO));
            return;
        };
        match standing(observed, self.now) {
            Standing::Suspended => {
                self.actions.resume.push(name);
                self.actions.look_again_after(RUNNING_LOOK_AGAIN);
            }
            Standing::Starting { deadline, hint } => {
                source.outcome.message = clip(&hint);
                self.actions.look_again_after(until(deadline, self.now).min(RUNNING_LOOK_AGAIN));
            }
            Standing::Running => {
                source.outcome = Outcome::default();
                self.actions.look_again_after(RUNNING_LOOK_AGAIN);
            }
            Standing::Ended(report) => self.conclude(source, *report),
            Standing::Stuck(report) => {
                self.actions.end.push(name);
                self.conclude(source, *report);
            }
        }
    }

    /// An attempt is over: the source has its verdict, or waits for another attempt.
    fn conclude(&mut self, source: &mut SourceStatus, report: SourceReport) {
        let job = source.jobs.last().cloned();
        self.actions.revoke.extend(job.clone());
        let is_tried_again = report.verdict == Verdict::Failed
            && retry::may_pass(report.reason)
            && source.attempt <= self.backup.spec.retry_limit;
        let (name, attempt) = (&source.name, source.attempt);
        let words = match (report.verdict, report.message.as_str()) {
            (verdict, "") => format!("{name}: {verdict}, {} bytes, proof {}", report.bytes, report.proof),
            (verdict, message) => format!("{name}: {verdict}: {message}"),
        };
        let next = if is_tried_again { format!(" (attempt {attempt}; it is tried again)") } else { String::new() };
        self.actions.events.push(Occurrence {
            is_warning: !report.verdict.is_green(),
            reason: report.reason.to_string(),
            action: "Backup",
            note: words + &next,
            job,
        });
        let reason = report.reason;
        source.outcome = Outcome::from(report);
        source.outcome.message = clip(&source.outcome.message);
        source.waiting_since = None;
        if is_tried_again {
            let pause = retry::source_pause(attempt);
            source.outcome = Outcome {
                reason: reason.to_string(),
                message: std::mem::take(&mut source.outcome.message),
                exit_code: source.outcome.exit_code,
                stderr_tail: std::mem::take(&mut source.outcome.stderr_tail),
                ..Outcome::default()
            };
            source.state = SourceState::Waiting;
            source.next_attempt_time = Some(Time(later(self.now, pause)));
            self.actions.look_again_after(pause);
        } else {
            source.state = SourceState::Done;
            source.next_attempt_time = None;
        }
    }

    /// A source without a Job: it gets one, if nothing is in the way.
    fn wait(&mut self, source: &mut SourceStatus) {
        if let Some(Time(due)) = &source.next_attempt_time
            && *due > self.now
        {
            self.actions.look_again_after(until(*due, self.now));
            return;
        }
        match self.obstacle(source) {
            Ok((repository, planned, target)) => {
                source.waiting_since = None;
                if let Some(words) = self.queue(&repository) {
                    source.outcome = Outcome { reason: "Queued".into(), message: words, ..Outcome::default() };
                    self.actions.look_again_after(WAITING_LOOK_AGAIN);
                } else {
                    self.start(source, repository, planned, target);
                }
            }
            Err(obstacle) => {
                let since = source.waiting_since.get_or_insert(Time(self.now)).0;
                let deadline = later(since, WAIT_LIMIT);
                source.outcome =
                    Outcome { reason: obstacle.reason, message: clip(&obstacle.message), ..Outcome::default() };
                if self.now < deadline {
                    self.actions.look_again_after(WAITING_LOOK_AGAIN.min(until(deadline, self.now)));
                    return;
                }
                source.outcome.verdict = Some(Verdict::Failed);
                source.state = SourceState::Done;
                source.next_attempt_time = None;
                self.actions.events.push(Occurrence {
                    is_warning: true,
                    reason: source.outcome.reason.clone(),
                    action: "Backup",
                    note: format!(
                        "{}: given up after {} s: {}",
                        source.name,
                        WAIT_LIMIT.as_secs(),
                        source.outcome.message
                    ),
                    job: None,
                });
            }
        }
    }

    /// What an attempt needs, or what is in its way.
    fn obstacle(&self, source: &SourceStatus) -> Result<(String, &'a PlannedSource, &'a Target), Obstacle> {
        let facts = self.facts;
        let planned = facts.sources.sources.iter().find(|planned| planned.name == source.name);
        // An attempt goes where the one before it went, so that it finds what that one committed.
        let settled = source.repository_ref.as_ref().or(self.backup.spec.repository_ref.as_ref());
        let asked = planned.and_then(|planned| planned.repository.as_deref());
        let name = settled.map(|reference| reference.name.as_str()).or(asked);
        let repository = choose(facts.repositories, name)?.name_any();
        let Some((planned, target)) = planned.and_then(|planned| Some((planned, planned.target.as_ref()?))) else {
            let message = format!("{} has no Ready pod now that asks for this backup", source.name);
            return Err(Obstacle::new(Reason::PodGone, message));
        };
        Ok((repository, planned, target))
    }

    /// Why the source has to wait for its turn, if it has to.
    fn queue(&self, repository: &str) -> Option<String> {
        let namespace = &self.owner.namespace;
        let started = self.started.iter().map(|repository| (namespace, repository));
        let active = || self.facts.active.iter().map(|(namespace, name)| (namespace, name)).chain(started.clone());
        if self.facts.closed.contains(&(namespace.clone(), repository.to_owned())) {
            return Some(format!("waits for the prune of Repository {repository}"));
        }
        let here = active().filter(|(space, name)| *space == namespace && *name == repository).count();
        if here >= JOBS_PER_REPOSITORY {
            return Some(format!("waits for its turn: {here} Jobs work on Repository {repository}"));
        }
        let all = active().count();
        (all >= JOBS_IN_CLUSTER).then(|| format!("waits for its turn: {all} backup Jobs run in the cluster"))
    }

    fn start(&mut self, source: &mut SourceStatus, name: String, planned: &PlannedSource, target: &Target) {
        let spec = &self.backup.spec;
        let timeout = spec.timeout.map(Duration::from).or(planned.timeout);
        source.attempt += 1;
        source.state = SourceState::Running;
        source.next_attempt_time = None;
        source.outcome = Outcome::default();
        target.pod().clone_into(&mut source.pod);
        target.container().clone_into(&mut source.container);
        source.jobs.push(names::job_name(self.owner, source.name.as_str(), source.attempt));
        let claim = match target {
            Target::Claim(mount) => Some(mount.clone()),
            Target::Command(_) | Target::Volume(_) => None,
        };
        self.actions.start.push(StartJob {
            kind: RunKind::Backup,
            source: source.name.to_string(),
            attempt: source.attempt,
            task: match target.clone() {
                Target::Command(target) => TaskKind::Backup {
                    target,
                    source: source.name.clone(),
                    identity: planned.identity.clone(),
                    alternative_path: planned.alternative_path.clone(),
                    timeout,
                    idle_timeout: spec.idle_timeout.map(Duration::from).or(planned.idle_timeout),
                    allow_empty: planned.allow_empty,
                    accept_unproven: planned.accept_unproven,
                },
                Target::Volume(target) => TaskKind::BackupVolume {
                    target,
                    source: source.name.clone(),
                    identity: planned.identity.clone(),
                    exclude: planned.exclude.clone(),
                    timeout,
                },
                Target::Claim(mount) => TaskKind::BackupClaim {
                    claim: mount.claim,
                    device: mount.device,
                    source: source.name.clone(),
                    identity: planned.identity.clone(),
                    exclude: planned.exclude.clone(),
                    timeout,
                },
            },
            repository: name.clone(),
            timeout,
            claim,
            target: None,
        });
        self.started.push(name.clone());
        source.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name });
        self.actions.look_again_after(RUNNING_LOOK_AGAIN);
    }
}

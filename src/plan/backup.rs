//! How a Backup goes on: from what is observed now to the next Jobs and the next status.
//!
//! Everything is derived from the objects, so that a restart of the controller changes nothing. It must not know how pods
//! become sources (`sources`) or what a Job looks like.

mod earlier;
mod freeze;
mod stage;
#[cfg(test)]
mod stage_tests;
mod summary;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, Occurrence, StartJob, TemporaryClaim},
    choose::{Obstacle, choose},
    claim_uses::{ClaimUses, Subject, claim_of},
    jobs::{ObservedJob, Standing, advised, standing},
    names::{self, Owner, RunKind},
    retry,
    sources::{ClaimMount, PlannedSource, SourcePlan, Target},
    text::{clip, later, until},
};
use crate::{
    api::{Backup, BackupStatus, Outcome, Repository, RepositoryKind, RepositoryReference, SourceState, SourceStatus},
    model::{Failure, Reason, RunProgress, SourceReport, TaskKind, Verdict},
};

pub use earlier::{newer_of, sources_of};
pub use stage::{Staged, StagedClaim};
pub use summary::is_recorded;

/// How many backup Jobs work on one repository at once.
pub const JOBS_PER_REPOSITORY: usize = 4;
/// How many backup Jobs run at once in the whole cluster.
pub const JOBS_IN_CLUSTER: usize = 16;
/// How many of them may be of one namespace while half of the cluster's are taken: the other half is for those that have less.
pub const JOBS_PER_NAMESPACE: usize = 4;
/// After so long in the queue people are warned.
pub const QUEUE_PATIENCE: Duration = Duration::from_hours(1);
/// A source that has waited so long for its turn is given up: it is not stored, and the Backup reports it. No run that it may
/// wait for takes longer.
pub const QUEUE_LIMIT: Duration = Duration::from_hours(26);
/// The reason of a source that waits for its turn.
const QUEUED: &str = "Queued";
/// The same after [`QUEUE_PATIENCE`].
const QUEUED_LONG: &str = "QueuedLong";
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
    /// What it has made besides them.
    pub staged: Staged<'a>,
    /// What its pods ask for now.
    pub sources: &'a SourcePlan,
    /// The Repositories, by namespace and name, of all backup Jobs in the cluster that are started and not over.
    pub active: &'a [(String, String)],
    /// The Repositories, by namespace and name, in which a prune is due or runs.
    pub closed: &'a BTreeSet<(String, String)>,
    /// What our own runs do in the claims of its namespace; see [`super::wants_claim_uses`].
    pub uses: &'a ClaimUses,
}

/// What is to be done for a Backup, and what its status then says.
pub fn plan_backup(backup: &Backup, facts: BackupFacts<'_>, now: Timestamp) -> (BackupStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = backup.status.clone().unwrap_or_default();
    let owner = Owner::of(backup).filter(|_| backup.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.verdict) else { return (status, actions) };
    status.observed_generation = backup.metadata.generation;
    let (mut refused, mut is_left) = (None, false);
    let created = backup.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let too_early = facts.sources.undecided.as_ref().filter(|_| now < later(created, WAIT_LIMIT));
    if let (None, Some(message)) = (&status.start_time, too_early) {
        summary::wait(&mut status, message, now);
        actions.look_again_after(WAITING_LOOK_AGAIN);
        return (status, actions);
    }
    if status.start_time.is_none() {
        // No Job before this list is stored: the next look, which the new status causes, begins them.
        refused = freeze::freeze(backup, facts.sources, &mut status, &mut actions, now);
        actions.look_again_after(WAITING_LOOK_AGAIN);
    } else {
        let mut sources = std::mem::take(&mut status.sources);
        freeze::release_ended(&mut sources, facts.sources, &mut status, now);
        let started = Planner::begun(&sources, facts, &owner);
        let needed = BTreeSet::new();
        let mut planner =
            Planner { backup, owner: &owner, facts, now, started, needed, queued: 0, actions: &mut actions };
        for source in &mut sources {
            match source.state {
                SourceState::Done => {}
                SourceState::Running => planner.watch(source),
                SourceState::Waiting => planner.wait(source),
            }
        }
        let needed = planner.needed;
        let stored = backup.status.as_ref().map_or(&[][..], |status| &status.sources);
        is_left = stage::sweep(facts, &owner, &needed, stored, &mut actions);
        status.sources = sources;
    }
    summary::fit_texts(&mut status);
    summary::summarize(&mut status, &mut actions, (refused, is_left), now);
    (status, actions)
}

/// Takes back the start of a source's Job, or of its snapshot, that the API server refused: the source waits, and says why,
/// until its time is up. `before` is the status that the plan began with; `is_staged` says that the Backup has made
/// something that has to go before it is over.
pub fn job_refused(
    (before, is_staged): (Option<&BackupStatus>, bool),
    status: &mut BackupStatus,
    actions: &mut Actions,
    (source, reason, message): (&str, Reason, &str),
    now: Timestamp,
) {
    let is_it = |candidate: &&SourceStatus| candidate.name.as_str() == source;
    let old = before.and_then(|status| status.sources.iter().find(is_it));
    let since = old.and_then(|source| source.waiting_since.clone()).map_or(now, |Time(since)| since);
    let Some(source) = status.sources.iter_mut().find(|candidate| candidate.name.as_str() == source) else { return };
    let what_failed = if source.state == SourceState::Running {
        source.state = SourceState::Waiting;
        source.attempt = source.attempt.saturating_sub(1);
        source.jobs.pop();
        Reason::PodNotStarted
    } else {
        Reason::VolumeSnapshotFailed
    };
    let reason = if reason == Reason::NameTaken { reason } else { what_failed }.to_string();
    if old.is_none_or(|old| old.outcome.reason != reason) {
        let note = format!("{}: {message}", source.name);
        let (reason, action) = (reason.clone(), "Backup");
        actions.events.push(Occurrence { is_warning: true, reason, action, note, job: None });
    }
    source.waiting_since = Some(Time(since));
    source.outcome = Outcome { reason, message: clip(&advised(message.to_owned())), ..Outcome::default() };
    if now >= later(since, WAIT_LIMIT) {
        source.outcome.verdict = Some(Verdict::Failed);
        source.state = SourceState::Done;
    }
    actions.look_again_after(WAITING_LOOK_AGAIN);
    summary::fit_texts(status);
    summary::summarize(status, actions, (None, is_staged), now);
}

/// Goes through the sources of one Backup.
struct Planner<'a, 'b> {
    backup: &'a Backup,
    owner: &'a Owner,
    facts: BackupFacts<'a>,
    now: Timestamp,
    /// The Repositories of the Jobs that this plan starts, and of those whose snapshots are under way.
    started: Vec<String>,
    /// The names of the attempts whose snapshots are needed.
    needed: BTreeSet<String>,
    /// How many sources wait for their turn.
    queued: usize,
    actions: &'b mut Actions,
}

impl<'a> Planner<'a, '_> {
    /// A source with a Job.
    fn watch(&mut self, source: &mut SourceStatus) {
        // Never the name that stands in the status, which others may be allowed to write.
        let name = names::job_name(self.owner, source.name.as_str(), source.attempt);
        let Some(observed) = self.facts.jobs.iter().find(|observed| observed.job.name_any() == name) else {
            let failure = Failure::new(Reason::ResultLost, format!("Job {name} was deleted before it ended"));
            self.conclude(source, Some(name), SourceReport::failed(failure, Duration::ZERO));
            return;
        };
        source.transfer = None;
        let provisioning = self.provisioning(&name);
        let mut is_over = false;
        match standing(observed, self.now) {
            Standing::Suspended => {
                // It was made and never started. What it may do follows from the plan, so that it is planned again.
                source.state = SourceState::Waiting;
                source.attempt = source.attempt.saturating_sub(1);
                source.jobs.pop();
                self.actions.look_again_after(Duration::ZERO);
            }
            Standing::Starting { deadline, hint } => {
                source.outcome.message = clip(&provisioning.map_or(hint, |(_, words)| words));
                self.actions.look_again_after(until(deadline, self.now).min(RUNNING_LOOK_AGAIN));
            }
            Standing::Running => {
                source.outcome = Outcome::default();
                source.transfer = observed.progress.map(RunProgress::capped);
                self.actions.look_again_after(RUNNING_LOOK_AGAIN);
            }
            Standing::Ended(report) => {
                is_over = true;
                self.conclude(source, Some(name.clone()), *report);
            }
            Standing::Stuck(report) => match provisioning {
                // A volume that is copied from its snapshot takes longer than a pod.
                Some((deadline, words)) if self.now < deadline => {
                    source.outcome.message = clip(&words);
                    self.actions.look_again_after(until(deadline, self.now).min(RUNNING_LOOK_AGAIN));
                }
                late => {
                    is_over = true;
                    let also = late.map(|(_, words)| format!("; {words}")).unwrap_or_default();
                    let report = SourceReport { message: report.message.clone() + &also, ..*report };
                    self.actions.end.push(name.clone());
                    self.conclude(source, Some(name.clone()), report);
                }
            },
        }
        if !is_over {
            self.needed.insert(name);
        }
    }

    /// An attempt is over, with its Job if it had one: the source has its verdict, or waits for another attempt.
    fn conclude(&mut self, source: &mut SourceStatus, job: Option<String>, report: SourceReport) {
        source.transfer = None;
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
                log_tail: std::mem::take(&mut source.outcome.log_tail),
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
                let mount = if let Target::Claim(mount) = target { Some(mount) } else { None };
                if let Some((mount, wish)) = mount.and_then(|mount| Some((mount, mount.snapshot.as_deref()?))) {
                    self.stage(source, repository, (planned, target), (mount, wish));
                } else if let Some(words) = self.restored(source, target).or_else(|| self.queue(&repository)) {
                    self.wait_in_queue(source, &words);
                } else {
                    self.start(source, repository, planned, (target, None));
                }
            }
            Err(obstacle) => {
                let since = source.waiting_since.get_or_insert(Time(self.now)).0;
                let deadline = later(since, WAIT_LIMIT);
                source.outcome =
                    Outcome { reason: obstacle.reason, message: clip(&obstacle.message), ..Outcome::default() };
                if self.now < deadline {
                    // A snapshot that was made is kept for when it is out of the way.
                    self.needed.insert(names::job_name(self.owner, source.name.as_str(), source.attempt + 1));
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

    /// A source that waits for its turn. The wait has an end: what is not stored is never silent.
    fn wait_in_queue(&mut self, source: &mut SourceStatus, why: &str) {
        self.queued += 1;
        let since = source.queued_since.get_or_insert(Time(self.now)).0;
        let waited = until(self.now, since);
        let was_long = source.outcome.reason == QUEUED_LONG;
        let reason = if waited >= QUEUE_PATIENCE { QUEUED_LONG } else { QUEUED };
        let words = format!("{why} (number {} in the queue of this Backup)", self.queued);
        source.outcome = Outcome { reason: reason.into(), message: clip(&words), ..Outcome::default() };
        let note = if waited >= QUEUE_LIMIT {
            source.outcome.verdict = Some(Verdict::Failed);
            source.outcome.reason = Reason::Timeout.to_string();
            source.outcome.message = clip(&format!("given up after {} hours: {why}", QUEUE_LIMIT.as_secs() / 3600));
            source.state = SourceState::Done;
            source.queued_since = None;
            format!("{}: {}", source.name, source.outcome.message)
        } else {
            self.actions.look_again_after(WAITING_LOOK_AGAIN);
            if reason == QUEUED || was_long {
                return;
            }
            format!("{}: has waited for {} minutes: {why}", source.name, waited.as_secs() / 60)
        };
        let (reason, action) = (source.outcome.reason.clone(), "Backup");
        self.actions.events.push(Occurrence { is_warning: true, reason, action, note, job: None });
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
        let problem =
            facts.sources.problems.iter().find(|problem| freeze::name_of(problem).as_ref() == Some(&source.name));
        if let Some(problem) = problem {
            return Err(Obstacle::new(problem.reason(), problem.to_string()));
        }
        let attempt = names::job_name(self.owner, source.name.as_str(), source.attempt + 1);
        // What was snapshot before is sound.
        let is_sound = facts.staged.has_snapshot(&attempt);
        let pod = planned.map_or(source.pod.as_str(), |planned| planned.pod.as_str());
        let subject = Subject::of(source.name.as_str(), pod);
        if let Some(step) = facts.uses.restore_step(&subject).filter(|_| !is_sound) {
            let message = format!("waits for {step}. Nothing half restored is stored");
            return Err(Obstacle::new(Reason::RestoreUnfinished, message));
        }
        let Some((planned, target)) = planned.and_then(|planned| Some((planned, planned.target.as_ref()?))) else {
            let skipped = claim_of(source.name.as_str())
                .and_then(|claim| facts.sources.skipped.iter().find(|skipped| skipped.name == claim));
            if let Some(skipped) = skipped {
                let message = format!("{} is left out by now: {}", source.name, skipped.message);
                return Err(Obstacle { reason: format!("{:?}", skipped.reason), message });
            }
            let message = format!("{} has no Ready pod now that asks for this backup", source.name);
            return Err(Obstacle::new(Reason::PodGone, message));
        };
        if let Some(pod) = facts.uses.lingers(&subject).filter(|_| !is_sound) {
            let message = format!(
                "waits for {pod} to be gone; if its node is lost, taint the node with \
                 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
            );
            return Err(Obstacle::new(Reason::TargetInUse, message));
        }
        Ok((repository, planned, target))
    }

    /// Why the source has to wait until it is no longer being restored, if it has to.
    fn restored(&self, source: &SourceStatus, target: &Target) -> Option<String> {
        let run = self.facts.uses.before_backup(&Subject::of(source.name.as_str(), target.pod()))?;
        Some(format!("waits for {run}, so that nothing half restored is stored"))
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
        let own = active().filter(|(space, _)| *space == namespace).count();
        if own >= JOBS_PER_NAMESPACE && all >= JOBS_IN_CLUSTER / 2 {
            return Some(format!(
                "waits for its turn: {own} of the {all} backup Jobs that run in the cluster are of this namespace, and it \
                 has {JOBS_PER_NAMESPACE} while others need the rest"
            ));
        }
        (all >= JOBS_IN_CLUSTER).then(|| format!("waits for its turn: {all} backup Jobs run in the cluster"))
    }

    /// Starts the Job of the next attempt; on a claim that is made for it, where its own is read from a snapshot.
    fn start(
        &mut self,
        source: &mut SourceStatus,
        name: String,
        planned: &PlannedSource,
        (target, made_of): (&Target, Option<TemporaryClaim>),
    ) {
        let spec = &self.backup.spec;
        let timeout = spec.timeout.map(Duration::from).or(planned.timeout);
        source.attempt += 1;
        source.state = SourceState::Running;
        source.transfer = None;
        source.next_attempt_time = None;
        source.queued_since = None;
        source.outcome = Outcome::default();
        target.pod().clone_into(&mut source.pod);
        target.container().clone_into(&mut source.container);
        source.jobs.push(names::job_name(self.owner, source.name.as_str(), source.attempt));
        let claim = match target {
            Target::Claim(mount) => Some(match &made_of {
                Some(made) => ClaimMount { claim: made.snapshot.clone(), snapshot: None, ..mount.clone() },
                None => mount.clone(),
            }),
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
                    skip_format_check: planned.skip_format_check,
                },
                Target::Volume(target) => TaskKind::BackupVolume {
                    target,
                    source: source.name.clone(),
                    identity: planned.identity.clone(),
                    exclude: planned.exclude.clone(),
                    accept_shrunken: planned.accept_shrunken,
                    timeout,
                },
                Target::Claim(mount) => TaskKind::BackupClaim {
                    claim: mount.claim,
                    device: mount.device,
                    source: source.name.clone(),
                    identity: planned.identity.clone(),
                    exclude: planned.exclude.clone(),
                    accept_shrunken: planned.accept_shrunken,
                    timeout,
                },
            },
            repository: name.clone(),
            timeout,
            claim,
            made_of,
            target: None,
            note: planned.note.clone(),
        });
        self.started.push(name.clone());
        source.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name });
        self.actions.look_again_after(RUNNING_LOOK_AGAIN);
    }
}

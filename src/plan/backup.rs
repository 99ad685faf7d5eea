//! The next step of a Backup: from the observed objects to the next Jobs and the next status. Everything is derived
//! from the objects, so that a restart of the controller changes nothing.

mod earlier;
mod exclusion;
mod freeze;
mod mistakes;
mod stage;
mod summary;
#[cfg(test)]
mod tests;
mod unstarted;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, EventRecord, StartJob, TemporaryClaim},
    choose::{Blocked, choose_for_source},
    claim_uses::{ClaimUses, Subject, claim_of},
    jobs::{JobRun, ObservedJob, RUNNING_REQUEUE, job_run},
    names::{self, OwnerRef, RunKind},
    repository::with_acceptance,
    retry,
    sources::{ClaimMount, PlannedSource, SourcePlan, Target},
    text::{clip, later, until},
};
use crate::{
    api::{Backup, BackupStatus, Outcome, Repository, RepositoryKind, RepositoryReference, SourceState, SourceStatus},
    model::{Reason, RunReport, TaskKind, Verdict},
};

pub use earlier::{newer_of, sources_of};
pub use stage::{Staged, StagedClaim};
pub use summary::is_recorded;
pub use unstarted::settle_backup;

/// The limit of concurrent backup Jobs in one repository.
pub const JOBS_PER_REPOSITORY: usize = 4;
/// The limit of concurrent backup Jobs in the whole cluster.
pub const JOBS_IN_CLUSTER: usize = 16;
/// The limit of concurrent backup Jobs of one namespace while half of [`JOBS_IN_CLUSTER`] run. The other half is for
/// namespaces with fewer Jobs.
pub const JOBS_PER_NAMESPACE: usize = 4;
/// A source that has been queued for this long is reported by a warning.
pub const QUEUE_WARNING: Duration = Duration::from_hours(1);
/// A source that has been queued for this long fails. No run which it may wait for takes longer.
pub const QUEUE_LIMIT: Duration = Duration::from_hours(26);
/// The reason of a queued source.
const QUEUED: &str = "Queued";
/// The reason of a source that has been queued for [`QUEUE_WARNING`].
const QUEUED_LONG: &str = "QueuedLong";
/// How long a source waits until its Repository or a pod of its workload is ready.
pub const WAIT_LIMIT: Duration = Duration::from_mins(5);
/// How often a waiting source is reconciled.
const WAITING_REQUEUE: Duration = Duration::from_secs(10);

/// The observed facts which a Backup is planned from.
#[derive(Clone, Copy, Debug)]
pub struct BackupFacts<'a> {
    /// The Repositories of the Backup's namespace.
    pub repositories: &'a [Repository],
    /// The Backup's own Jobs.
    pub jobs: &'a [ObservedJob],
    /// The `VolumeSnapshot`s and temporary claims which the Backup has created.
    pub staged: Staged<'a>,
    /// The sources which the namespace's pods and claims request now.
    pub sources: &'a SourcePlan,
    /// The Repositories, by namespace and name, of all backup Jobs in the cluster that are started and not over.
    pub active: &'a [(String, String)],
    /// The Repositories, by namespace and name, in which a prune is due or runs.
    pub closed: &'a BTreeSet<(String, String)>,
    /// The claims and commands of the namespace which Stowaway's runs use; see [`super::needs_claim_uses`].
    pub uses: &'a ClaimUses,
}

/// Plans the next actions for a Backup, and its next status.
pub fn plan_backup(backup: &Backup, facts: BackupFacts<'_>, now: Timestamp) -> (BackupStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = backup.status.clone().unwrap_or_default();
    let owner = OwnerRef::of(backup).filter(|_| backup.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.verdict) else { return (status, actions) };
    status.observed_generation = backup.metadata.generation;
    let (mut refused, mut is_left) = (None, false);
    let created = backup.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let too_early = facts.sources.undecided.as_ref().filter(|_| now < later(created, WAIT_LIMIT));
    if let (None, Some(message)) = (&status.start_time, too_early) {
        summary::set_waiting(&mut status, message, now);
        actions.requeue_within(WAITING_REQUEUE);
        return (status, actions);
    }
    if status.start_time.is_none() {
        // No Job starts before this list is stored. The new status causes the reconcile which starts them.
        refused = freeze::freeze(backup, facts.sources, &mut status, &mut actions, now);
        actions.requeue_within(WAITING_REQUEUE);
    } else {
        let mut sources = std::mem::take(&mut status.sources);
        freeze::release_ended(&mut sources, facts.sources, &mut status, now);
        let started = Planner::snapshot_repositories(&sources, facts, &owner);
        let needed = BTreeSet::new();
        let mut planner =
            Planner { backup, owner: &owner, facts, now, started, needed, queued: 0, actions: &mut actions };
        for source in &mut sources {
            match source.state {
                SourceState::Done => {}
                SourceState::Running => planner.follow_job(source),
                SourceState::Waiting => planner.try_start(source),
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

/// Plans the sources of one Backup, one after the other.
struct Planner<'a, 'b> {
    backup: &'a Backup,
    owner: &'a OwnerRef,
    facts: BackupFacts<'a>,
    now: Timestamp,
    /// The Repositories of the Jobs which this plan starts, and of the attempts which have a `VolumeSnapshot` and no
    /// Job yet.
    started: Vec<String>,
    /// The Job names of the attempts whose `VolumeSnapshot`s are still needed.
    needed: BTreeSet<String>,
    /// The number of queued sources so far.
    queued: usize,
    actions: &'b mut Actions,
}

impl<'a> Planner<'a, '_> {
    /// Updates a source from the state of its Job.
    fn follow_job(&mut self, source: &mut SourceStatus) {
        // The name is derived again and not read from the status, which other clients may be allowed to write.
        let name = names::job_name(self.owner, source.name.as_str(), source.attempt);
        source.transfer = None;
        match job_run(self.facts.jobs, &name, self.missing_volume(&name), self.actions, self.now) {
            JobRun::Suspended => {
                // The Job was created and never started. It may be outdated, so the attempt is planned again.
                source.state = SourceState::Waiting;
                source.attempt = source.attempt.saturating_sub(1);
                source.jobs.pop();
                self.actions.requeue_within(Duration::ZERO);
            }
            JobRun::Starting { hint } => {
                source.outcome.message = clip(&hint);
                self.actions.requeue_within(RUNNING_REQUEUE);
            }
            JobRun::Running { progress } => {
                source.outcome = Outcome::default();
                source.transfer = progress;
            }
            JobRun::Lost(report) | JobRun::Ended(report) => {
                self.finish_attempt(source, Some(name), *report);
                return;
            }
        }
        self.needed.insert(name);
    }

    /// Ends an attempt, whose Job is `job` if it had one: the source gets its verdict, or waits for the next attempt.
    fn finish_attempt(&mut self, source: &mut SourceStatus, job: Option<String>, report: RunReport) {
        source.transfer = None;
        self.actions.revoke.extend(job.clone());
        let report = with_acceptance(self.facts.repositories, source.repository_ref.as_ref(), report);
        let is_tried_again = report.verdict == Verdict::Failed
            && retry::is_transient(report.reason)
            && source.attempt <= self.backup.spec.retry_limit;
        let (name, attempt) = (&source.name, source.attempt);
        let result = match (report.verdict, report.message.as_str()) {
            (verdict, "") => format!("{name}: {verdict}, {} bytes, proof {}", report.bytes, report.proof),
            (verdict, message) => format!("{name}: {verdict}: {message}"),
        };
        let next = if is_tried_again { format!(" (attempt {attempt}; another one follows)") } else { String::new() };
        self.actions.events.push(EventRecord {
            is_warning: !report.verdict.is_green(),
            reason: report.reason.to_string(),
            action: "Backup",
            note: result + &next,
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
            self.actions.requeue_within(pause);
        } else {
            source.state = SourceState::Done;
            source.next_attempt_time = None;
        }
    }

    /// Starts the next attempt of a source without a Job, unless something blocks it.
    fn try_start(&mut self, source: &mut SourceStatus) {
        if let Some(Time(due)) = &source.next_attempt_time
            && *due > self.now
        {
            self.actions.requeue_within(until(*due, self.now));
            return;
        }
        match self.requirements(source) {
            Ok((repository, planned, target)) => {
                source.waiting_since = None;
                let mount = if let Target::Claim(mount) = target { Some(mount) } else { None };
                if let Some((mount, settings)) = mount.and_then(|mount| Some((mount, mount.snapshot.as_deref()?))) {
                    self.advance_snapshot(source, repository, (planned, target), (mount, settings));
                } else if let Some(why) = self.running_restore(source, target).or_else(|| self.queue(&repository)) {
                    self.wait_in_queue(source, &why);
                } else {
                    self.start(source, repository, planned, (target, None));
                }
            }
            Err(blocked) => {
                let since = source.waiting_since.get_or_insert(Time(self.now)).0;
                let deadline = later(since, WAIT_LIMIT);
                source.outcome =
                    Outcome { reason: blocked.reason, message: clip(&blocked.message), ..Outcome::default() };
                if self.now < deadline {
                    // An existing VolumeSnapshot is kept, because the attempt may still start.
                    self.needed.insert(names::job_name(self.owner, source.name.as_str(), source.attempt + 1));
                    self.actions.requeue_within(WAITING_REQUEUE.min(until(deadline, self.now)));
                    return;
                }
                source.outcome.verdict = Some(Verdict::Failed);
                source.state = SourceState::Done;
                source.next_attempt_time = None;
                self.actions.events.push(EventRecord {
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

    /// Queues a source, or fails it after [`QUEUE_LIMIT`], so that a source which is not stored is always reported.
    fn wait_in_queue(&mut self, source: &mut SourceStatus, why: &str) {
        self.queued += 1;
        let since = source.queued_since.get_or_insert(Time(self.now)).0;
        let waited = until(self.now, since);
        let was_long = source.outcome.reason == QUEUED_LONG;
        let reason = if waited >= QUEUE_WARNING { QUEUED_LONG } else { QUEUED };
        let message = format!("{why} (number {} in the queue of this Backup)", self.queued);
        source.outcome = Outcome { reason: reason.into(), message: clip(&message), ..Outcome::default() };
        let note = if waited >= QUEUE_LIMIT {
            source.outcome.verdict = Some(Verdict::Failed);
            source.outcome.reason = Reason::Timeout.to_string();
            source.outcome.message = clip(&format!("given up after {} hours: {why}", QUEUE_LIMIT.as_secs() / 3600));
            source.state = SourceState::Done;
            source.queued_since = None;
            format!("{}: {}", source.name, source.outcome.message)
        } else {
            self.actions.requeue_within(WAITING_REQUEUE);
            if reason == QUEUED || was_long {
                return;
            }
            format!("{}: has waited for {} minutes: {why}", source.name, waited.as_secs() / 60)
        };
        let (reason, action) = (source.outcome.reason.clone(), "Backup");
        self.actions.events.push(EventRecord { is_warning: true, reason, action, note, job: None });
    }

    /// The Repository, plan and target which an attempt needs, or why the attempt cannot start now.
    fn requirements(&self, source: &SourceStatus) -> Result<(String, &'a PlannedSource, &'a Target), Blocked> {
        let facts = self.facts;
        let planned = facts.sources.sources.iter().find(|planned| planned.name == source.name);
        // An attempt uses the Repository of the previous attempt, so that it finds a snapshot which that attempt
        // committed.
        let annotated = planned.and_then(|planned| planned.repository.as_deref());
        let (earlier, requested) = (source.repository_ref.as_ref(), self.backup.spec.repository_ref.as_ref());
        let repository = choose_for_source(facts.repositories, (earlier, requested, annotated))?.name_any();
        let problem =
            facts.sources.problems.iter().find(|problem| freeze::name_of(problem).as_ref() == Some(&source.name));
        if let Some(problem) = problem {
            return Err(Blocked::new(problem.reason(), problem.to_string()));
        }
        let attempt = names::job_name(self.owner, source.name.as_str(), source.attempt + 1);
        // A VolumeSnapshot that exists was taken before the restore started, so its content is whole.
        let is_whole = facts.staged.has_snapshot(&attempt);
        let pod = planned.map_or(source.pod.as_str(), |planned| planned.pod.as_str());
        let subject = Subject::of(source.name.as_str(), pod);
        if !is_whole {
            exclusion::check_restored(facts.uses, &subject, planned)?;
        }
        let Some((planned, target)) = planned.and_then(|planned| Some((planned, planned.target.as_ref()?))) else {
            let skipped = claim_of(source.name.as_str())
                .and_then(|claim| facts.sources.skipped.iter().find(|skipped| skipped.name == claim));
            if let Some(skipped) = skipped {
                let message = format!("{} is now left out: {}", source.name, skipped.message);
                return Err(Blocked { reason: format!("{:?}", skipped.reason), message });
            }
            let message = format!("{} now has no Ready pod which requests this backup", source.name);
            return Err(Blocked::new(Reason::PodGone, message));
        };
        if !is_whole {
            exclusion::check_unused(facts.uses, &subject)?;
            exclusion::check_device(facts.uses, &subject, planned, target)?;
        }
        Ok((repository, planned, target))
    }

    /// Why the source has to wait for a restore of it, if it has to.
    fn running_restore(&self, source: &SourceStatus, target: &Target) -> Option<String> {
        let run = self.facts.uses.before_backup(&Subject::of(source.name.as_str(), target.pod()))?;
        Some(format!("waits for {run}, so that nothing half restored is stored"))
    }

    /// Why the source has to wait because of a prune or a limit of concurrent Jobs, if it has to.
    fn queue(&self, repository: &str) -> Option<String> {
        let namespace = &self.owner.namespace;
        let started = self.started.iter().map(|repository| (namespace, repository));
        let active = || self.facts.active.iter().map(|(namespace, name)| (namespace, name)).chain(started.clone());
        if self.facts.closed.contains(&(namespace.clone(), repository.to_owned())) {
            return Some(format!("waits for the prune of Repository {repository}"));
        }
        let here = active().filter(|(space, name)| *space == namespace && *name == repository).count();
        if here >= JOBS_PER_REPOSITORY {
            return Some(format!("waits for its turn: {here} Jobs use Repository {repository}"));
        }
        let all = active().count();
        let own = active().filter(|(space, _)| *space == namespace).count();
        if own >= JOBS_PER_NAMESPACE && all >= JOBS_IN_CLUSTER / 2 {
            return Some(format!(
                "waits for its turn: {own} of the {all} backup Jobs that run in the cluster are of this namespace, \
                 whose limit is {JOBS_PER_NAMESPACE} while at least {} run",
                JOBS_IN_CLUSTER / 2
            ));
        }
        (all >= JOBS_IN_CLUSTER).then(|| format!("waits for its turn: {all} backup Jobs run in the cluster"))
    }

    /// Starts the Job of the next attempt. `data_source` is the temporary claim to mount if the source's claim is read
    /// from a `VolumeSnapshot`.
    fn start(
        &mut self,
        source: &mut SourceStatus,
        name: String,
        planned: &PlannedSource,
        (target, data_source): (&Target, Option<TemporaryClaim>),
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
            Target::Claim(mount) => Some(match &data_source {
                Some(temporary) => ClaimMount { claim: temporary.snapshot.clone(), snapshot: None, ..mount.clone() },
                None => mount.clone(),
            }),
            Target::Command(_) | Target::Volume(_) => None,
        };
        let (identity, note) = exclusion::labels_and_note(self.facts.uses, planned, target);
        self.actions.start.push(StartJob {
            kind: RunKind::Backup,
            source: source.name.to_string(),
            attempt: source.attempt,
            task: match target.clone() {
                Target::Command(target) => TaskKind::Backup {
                    target,
                    source: source.name.clone(),
                    identity,
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
                    identity,
                    exclude: planned.exclude.clone(),
                    accept_shrunken: planned.accept_shrunken,
                    timeout,
                },
                Target::Claim(mount) => TaskKind::BackupClaim {
                    claim: mount.claim,
                    device: mount.device,
                    source: source.name.clone(),
                    identity,
                    exclude: planned.exclude.clone(),
                    accept_shrunken: planned.accept_shrunken,
                    timeout,
                },
            },
            repository: name.clone(),
            timeout,
            claim,
            data_source,
            target: None,
            note,
        });
        self.started.push(name.clone());
        source.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name });
        self.actions.requeue_within(RUNNING_REQUEUE);
    }
}

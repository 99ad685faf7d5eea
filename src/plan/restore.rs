//! How a Restore goes on: its target is found, its one Job is made, and its verdict copied. Nothing is ever tried again:
//! only a person can know whether a restore may be repeated.
//!
//! It must not know what the command does.

mod archive;
mod claim;
mod namespace;
mod new_claim;
mod once;
mod scale;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, Occurrence, RestoreTarget, StartJob},
    choose::{Obstacle, choose, repository_on},
    claim_uses::{ClaimUses, Subject},
    jobs::{ObservedJob, Standing, advised, standing},
    names::{self, Owner, RunKind},
    sources::{ObservedPod, SourcePlan},
    text::{clip, later, until},
};
use crate::{
    api::{
        FoundSnapshot, Outcome, Repository, RepositoryKind, RepositoryReference, Restore, RestoreClaim, RestoreStatus,
        set_run_conditions,
    },
    model::{Failure, Proof, Reason, SnapshotLookup, SourceReport, TargetCommand, TaskKind, Verdict, short_amount},
};
pub use claim::{ObservedScale, TargetFacts};
pub use namespace::{
    ChosenSnapshot, NamespaceFacts, NamespacePlan, NamespaceWish, Refusal, RefusedSource, SourceKind, plan_namespace,
};
pub use scale::held_down_by;
use target::{Missing, target};

/// How long a Restore waits for its Repository to be ready, or for a pod of its source's workload to be.
pub const WAIT_LIMIT: Duration = Duration::from_mins(5);
/// How often something that waits is looked at.
const WAITING_LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long nothing may be heard of a Job that runs.
const RUNNING_LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What a Restore's plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct RestoreFacts<'a> {
    /// The Repositories of its namespace.
    pub repositories: &'a [Repository],
    /// Its own Jobs.
    pub jobs: &'a [ObservedJob],
    /// The pods of its namespace.
    pub pods: &'a [ObservedPod],
    /// Which sources they are.
    pub sources: &'a SourcePlan,
    /// What a Restore into a claim is planned from.
    pub claim: Option<TargetFacts<'a>>,
    /// The Repositories, by namespace and name, in which a prune runs.
    pub pruned: &'a BTreeSet<(String, String)>,
    /// What other runs do in the claims and commands of its namespace.
    pub uses: &'a ClaimUses,
}

/// What is to be done for a Restore, and what its status then says.
pub fn plan_restore(restore: &Restore, facts: RestoreFacts<'_>, now: Timestamp) -> (RestoreStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = restore.status.clone().unwrap_or_default();
    scale::recover(restore, &mut status, now);
    let owner = Owner::of(restore).filter(|_| restore.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.outcome.verdict) else {
        scale::settle(restore, facts, &mut status, &mut actions, now);
        return (status, actions);
    };
    status.observed_generation = restore.metadata.generation;
    let since = status.start_time.get_or_insert(Time(now)).0;
    let job = once::job(restore, &owner, &status);
    status.job = job.filter(|job| !once::is_unstarted(restore, job, facts, &status));
    let words = match status.job.clone() {
        Some(job) => {
            if let Some(wish) = &restore.spec.scale_down {
                scale::keep_down(wish, facts, &status, &mut actions);
                scale::notice(facts, &mut status, &mut actions, now);
            }
            watch(&job, facts.jobs, &mut status, &mut actions, now)
        }
        None => match once::check(restore).and_then(|()| begin(restore, &owner, facts, &mut status, &mut actions, now))
        {
            Ok(words) => words,
            Err(Missing::Now(obstacle)) if now < later(since, WAIT_LIMIT) => {
                actions.look_again_after(WAITING_LOOK_AGAIN.min(until(later(since, WAIT_LIMIT), now)));
                status.outcome =
                    Outcome { reason: obstacle.reason.clone(), message: clip(&obstacle.message), ..Outcome::default() };
                (obstacle.reason, obstacle.message)
            }
            Err(Missing::Now(obstacle) | Missing::ForGood(obstacle)) => {
                status.outcome = Outcome {
                    verdict: Some(Verdict::Failed),
                    reason: obstacle.reason.clone(),
                    message: clip(&obstacle.message),
                    ..Outcome::default()
                };
                (obstacle.reason, obstacle.message)
            }
        },
    };
    conclude(&mut status, &mut actions, &words, now);
    if status.outcome.verdict.is_some() {
        // Before anybody hears that it is over, what was scaled down is back.
        scale::settle(restore, facts, &mut status, &mut actions, now);
    }
    (status, actions)
}

/// Takes back the start of a Job that cannot be made: nothing was restored, and nothing will be.
pub fn restore_refused(
    status: &mut RestoreStatus,
    actions: &mut Actions,
    (reason, message): (Reason, &str),
    now: Timestamp,
) {
    let reason = reason.to_string();
    let message = &advised(message.to_owned());
    status.job = None;
    status.outcome = Outcome {
        verdict: Some(Verdict::Failed),
        reason: reason.clone(),
        message: clip(message),
        ..Outcome::default()
    };
    conclude(status, actions, &(reason, message.clone()), now);
}

/// Takes the next step towards the Job, and says which.
fn begin(
    restore: &Restore,
    owner: &Owner,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<(String, String), Missing> {
    let spec = &restore.spec;
    let to_claim = spec.to.as_ref().and_then(|to| to.claim.as_ref());
    let to_archive = spec.to.as_ref().and_then(|to| to.archive.as_ref());
    // What is wrong for good is said first: it need not wait for a repository.
    let job = match (to_claim, to_archive) {
        (Some(to), _) => claim::check(restore, to).map(|()| None),
        (None, Some(to)) => archive::start(restore, to).map(Some),
        (None, None) => target(restore, facts)
            .map(|target| Some(Start { attempt: once::FIRST, task: feed(restore, owner, target), target: None })),
    };
    if let Err(Missing::ForGood(_)) = job {
        return job.map(|_| Default::default());
    }
    let name = spec.repository_ref.as_ref().map(|reference| reference.name.as_str());
    let repository = choose(facts.repositories, name).map_err(Missing::Now)?.name_any();
    // A prune ends within its deadline, and a run that meets its lock would give up sooner.
    if facts.pruned.contains(&(owner.namespace.clone(), repository.clone())) {
        actions.look_again_after(WAITING_LOOK_AGAIN);
        return Ok(("Waiting".to_owned(), format!("waits for the prune that runs in Repository {repository}")));
    }
    let job = match (job?, to_claim) {
        (Some(job), _) => {
            if let TaskKind::Restore { target, .. } = &job.task {
                status.pod.clone_from(&target.pod);
                status.container.clone_from(&target.container);
                let since = status.start_time.as_ref().map_or(now, |time| time.0);
                let subject = Subject::of_restore(restore, &target.pod);
                if let Some(run) = claim::held_by(&subject, (restore, owner), facts, (since, now))? {
                    actions.look_again_after(WAITING_LOOK_AGAIN);
                    return Ok(("Waiting".to_owned(), format!("waits for {run}")));
                }
            }
            job
        }
        (None, Some(to)) => match into_claim(restore, to, owner, facts, status, actions, now)? {
            Step::Start(job) => *job,
            Step::Wait(message) => return Ok(("Waiting".to_owned(), message)),
        },
        (None, None) => return Ok(Default::default()),
    };
    start(restore, owner, repository, job, status, actions);
    Ok(("Running".to_owned(), "the Job is being started".to_owned()))
}

/// A Job that may be started.
struct Start {
    attempt: u32,
    task: TaskKind,
    target: Option<RestoreTarget>,
}

enum Step {
    Start(Box<Start>),
    Wait(String),
}

fn into_claim(
    restore: &Restore,
    to: &RestoreClaim,
    owner: &Owner,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<Step, Missing> {
    status.claim.clone_from(&to.name);
    if let Some((repository, _)) = repository_on(facts.repositories, &to.name) {
        let message = format!(
            "Repository {} is on claim {}: nothing is restored among what is stored; name another claim",
            repository.name_any(),
            to.name
        );
        return Err(claim::refused(Reason::InvalidRequest, message));
    }
    let is_there = facts.claim.is_some_and(|facts| facts.claim.is_some());
    let new = match (is_there, &to.create) {
        (true, _) => None,
        (false, None) => {
            let message = format!(
                "there is no PersistentVolumeClaim {} in this namespace; create it, or have it made by spec.to.claim.create",
                to.name
            );
            return Err(claim::refused(Reason::InvalidRequest, message));
        }
        (false, Some(new)) if status.found.is_none() && new_claim::needs_lookup(restore, new) => {
            let task = TaskKind::FindSnapshot(claim::wanted(restore, None));
            return Ok(Step::Start(Box::new(Start { attempt: once::FIRST, task, target: None })));
        }
        (false, Some(new)) => {
            let classes = facts.claim.map_or(&[][..], |facts| facts.storage_classes);
            Some(new_claim::make((restore, owner), (to, new), status.found.as_ref(), classes)?)
        }
    };
    // Before the workload is down, so that it is not down for so long; and again until the Job begins.
    let since = status.start_time.as_ref().map_or(now, |time| time.0);
    let subject = Subject::Claim(to.name.clone());
    if let Some(run) = claim::held_by(&subject, (restore, owner), facts, (since, now))? {
        actions.look_again_after(WAITING_LOOK_AGAIN);
        return Ok(Step::Wait(format!("waits for {run}")));
    }
    if let Some(wish) = &restore.spec.scale_down
        && let Some(message) = scale::is_down(wish, facts, status, actions, now)?
    {
        return Ok(Step::Wait(message));
    }
    let mount = claim::mount(restore, to, facts)?;
    if let Some(made) = new {
        status.made_claim = clip(&made.description);
        actions.around.create_claim = Some(Box::new(made.claim));
    }
    let task = claim::task(restore, to, owner, facts);
    Ok(Step::Start(Box::new(Start { attempt: once::INTO_CLAIM, task, target: Some(RestoreTarget::Claim(mount)) })))
}

/// The task of a Restore into a command.
fn feed(restore: &Restore, owner: &Owner, target: TargetCommand) -> TaskKind {
    let spec = &restore.spec;
    TaskKind::Restore {
        restore: owner.name.clone(),
        target,
        source: spec.from.source.clone(),
        snapshot: spec.from.snapshot.clone(),
        as_of: spec.from.as_of.as_ref().map(|time| time.0),
        host: spec.from.host.clone(),
        timeout: spec.timeout.map(Duration::from),
        idle_timeout: spec.idle_timeout.map(Duration::from),
    }
}

fn start(
    restore: &Restore,
    owner: &Owner,
    repository: String,
    job: Start,
    status: &mut RestoreStatus,
    actions: &mut Actions,
) {
    let source = &restore.spec.from.source;
    status.outcome = Outcome::default();
    status.job = Some(names::job_name(owner, source.as_str(), job.attempt));
    status.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name: repository.clone() });
    actions.start.push(StartJob {
        kind: RunKind::Restore,
        source: source.to_string(),
        attempt: job.attempt,
        task: job.task,
        repository,
        timeout: restore.spec.timeout.map(Duration::from),
        claim: None,
        made_of: None,
        target: job.target,
        note: String::new(),
    });
    actions.look_again_after(RUNNING_LOOK_AGAIN);
}

/// How the Job stands, for the condition.
fn watch(
    name: &str,
    jobs: &[ObservedJob],
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> (String, String) {
    status.transfer = None;
    let running = |message: &str| ("Running".to_owned(), message.to_owned());
    let standing = jobs.iter().find(|observed| observed.job.name_any() == name).map_or_else(
        || {
            let message = format!("Job {name} was deleted before it ended; the restore may have taken effect");
            let failure = Failure::new(Reason::ResultLost, message);
            Standing::Ended(Box::new(SourceReport::failed(failure, Duration::ZERO)))
        },
        |observed| standing(observed, now),
    );
    match standing {
        Standing::Suspended => {
            actions.end.push(name.to_owned());
            let message = format!("Job {name} was suspended while it ran; the restore may have taken effect in part");
            finish(
                name,
                SourceReport::failed(Failure::new(Reason::Cancelled, message), Duration::ZERO),
                status,
                actions,
            )
        }
        Standing::Starting { deadline, hint } => {
            actions.look_again_after(until(deadline, now).min(RUNNING_LOOK_AGAIN));
            ("Waiting".to_owned(), if hint.is_empty() { "the Job's pod is being started".to_owned() } else { hint })
        }
        Standing::Running => {
            let progress = jobs.iter().find(|observed| observed.job.name_any() == name).and_then(|job| job.progress);
            status.transfer = progress.map(|progress| progress.capped().words(short_amount));
            actions.look_again_after(RUNNING_LOOK_AGAIN);
            running("the Job runs")
        }
        Standing::Ended(report) => match found(&report, status) {
            Some(found) => {
                status.found = Some(found);
                status.job = None;
                actions.look_again_after(Duration::from_millis(10));
                running("the snapshot is found")
            }
            None => finish(name, *report, status, actions),
        },
        Standing::Stuck(report) => {
            actions.end.push(name.to_owned());
            finish(name, *report, status, actions)
        }
    }
}

/// What a Job has found that only looked up a snapshot: whose report is of no stream, and the next Job's is never green
/// without a proof.
fn found(report: &SourceReport, status: &RestoreStatus) -> Option<FoundSnapshot> {
    let is_lookup = status.found.is_none() && report.verdict.is_green() && report.proof == Proof::None;
    let snapshot = report.snapshot.clone().filter(|_| is_lookup && !status.claim.is_empty())?;
    // A run of an earlier version has found out the size alone.
    let earlier = || SnapshotLookup { bytes: Some(report.bytes), claim: None };
    let SnapshotLookup { bytes, claim } = report.lookup.clone().unwrap_or_else(earlier);
    // A status holds no greater number.
    let bytes = bytes.map(|bytes| bytes.min(i64::MAX.unsigned_abs()));
    Some(FoundSnapshot { snapshot, bytes, claim })
}

fn finish(job: &str, report: SourceReport, status: &mut RestoreStatus, actions: &mut Actions) -> (String, String) {
    actions.revoke.push(job.to_owned());
    status.safety_snapshot.clone_from(&report.safety_snapshot);
    status.archive.clone_from(&report.archive);
    status.outcome = Outcome::from(report);
    scale::tell_disturbance(status);
    if !status.made_claim.is_empty() {
        let message = &mut status.outcome.message;
        let separator = if message.is_empty() { "" } else { "; " };
        let _ = write!(message, "{separator}{}", status.made_claim);
    }
    status.outcome.message = clip(&status.outcome.message);
    (status.outcome.reason.clone(), status.outcome.message.clone())
}

/// Conditions, and the Event of the end.
fn conclude(status: &mut RestoreStatus, actions: &mut Actions, (reason, message): &(String, String), now: Timestamp) {
    let verdict = status.outcome.verdict;
    let is_green = verdict.is_some_and(Verdict::is_green);
    let generation = status.observed_generation;
    let message = match (is_green, message.as_str()) {
        (true, "") => "the command read everything and exited 0".to_owned(),
        _ => clip(message),
    };
    let words = (reason.as_str(), message.as_str());
    set_run_conditions(&mut status.conditions, verdict, words, generation, now);
    if let Some(verdict) = verdict {
        status.completion_time = Some(Time(now));
        actions.look_again = None;
        actions.events.push(Occurrence {
            is_warning: !is_green,
            reason: reason.clone(),
            action: "Restore",
            note: format!("{verdict}: {message}"),
            job: status.job.clone(),
        });
    }
}

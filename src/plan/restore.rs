//! How a Restore goes on: its target is found, its one Job is made, and its verdict copied. Nothing is ever tried again:
//! only a person can know whether a restore may be repeated.
//!
//! It must not know what the command does.

mod target;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, Occurrence, StartJob},
    choose::{Obstacle, choose},
    jobs::{ObservedJob, Standing, standing},
    names::{self, Owner, RunKind},
    sources::{ObservedPod, SourcePlan},
    text::{clip, later, until},
};
use crate::{
    api::{Outcome, Repository, RepositoryKind, RepositoryReference, Restore, RestoreStatus, set_run_conditions},
    model::{Failure, Reason, SourceReport, TargetCommand, TaskKind, Verdict},
};
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
}

/// What is to be done for a Restore, and what its status then says.
pub fn plan_restore(restore: &Restore, facts: RestoreFacts<'_>, now: Timestamp) -> (RestoreStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = restore.status.clone().unwrap_or_default();
    let owner = Owner::of(restore).filter(|_| restore.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.outcome.verdict) else { return (status, actions) };
    status.observed_generation = restore.metadata.generation;
    let since = status.start_time.get_or_insert(Time(now)).0;
    let words = match status.job.clone() {
        Some(job) => watch(&job, facts.jobs, &mut status, &mut actions, now),
        None => match prepare(restore, facts) {
            Ok((repository, target)) => {
                start(restore, &owner, repository, target, &mut status, &mut actions);
                ("Running".to_owned(), "the Job is being started".to_owned())
            }
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
    (status, actions)
}

/// Takes back the start of a Job that the API server refused: nothing was restored, and nothing will be.
pub fn restore_refused(status: &mut RestoreStatus, actions: &mut Actions, message: &str, now: Timestamp) {
    let reason = Reason::PodNotStarted.to_string();
    status.job = None;
    status.outcome = Outcome {
        verdict: Some(Verdict::Failed),
        reason: reason.clone(),
        message: clip(message),
        ..Outcome::default()
    };
    conclude(status, actions, &(reason, message.to_owned()), now);
}

/// What the Job needs, or what is missing.
fn prepare(restore: &Restore, facts: RestoreFacts<'_>) -> Result<(String, TargetCommand), Missing> {
    // What is wrong for good is said first: it need not wait for a repository.
    let target = target(restore, facts);
    if let Err(Missing::ForGood(_)) = &target {
        return target.map(|target| (String::new(), target));
    }
    let name = restore.spec.repository_ref.as_ref().map(|reference| reference.name.as_str());
    let repository = choose(facts.repositories, name).map_err(Missing::Now)?;
    Ok((repository.name_any(), target?))
}

fn start(
    restore: &Restore,
    owner: &Owner,
    repository: String,
    target: TargetCommand,
    status: &mut RestoreStatus,
    actions: &mut Actions,
) {
    let spec = &restore.spec;
    let source = &spec.from.source;
    let timeout = spec.timeout.map(Duration::from);
    status.outcome = Outcome::default();
    status.pod.clone_from(&target.pod);
    status.container.clone_from(&target.container);
    status.job = Some(names::job_name(owner, source.as_str(), 1));
    status.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name: repository.clone() });
    actions.start.push(StartJob {
        kind: RunKind::Restore,
        source: source.to_string(),
        attempt: 1,
        task: TaskKind::Restore {
            restore: owner.name.clone(),
            target,
            source: source.clone(),
            snapshot: spec.from.snapshot.clone(),
            timeout,
            idle_timeout: spec.idle_timeout.map(Duration::from),
        },
        repository,
        timeout,
        claim: None,
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
            actions.resume.push(name.to_owned());
            actions.look_again_after(RUNNING_LOOK_AGAIN);
            running("the Job is being started")
        }
        Standing::Starting { deadline, hint } => {
            actions.look_again_after(until(deadline, now).min(RUNNING_LOOK_AGAIN));
            ("Waiting".to_owned(), if hint.is_empty() { "the Job's pod is being started".to_owned() } else { hint })
        }
        Standing::Running => {
            actions.look_again_after(RUNNING_LOOK_AGAIN);
            running("the Job runs")
        }
        Standing::Ended(report) => finish(name, *report, status, actions),
        Standing::Stuck(report) => {
            actions.end.push(name.to_owned());
            finish(name, *report, status, actions)
        }
    }
}

fn finish(job: &str, report: SourceReport, status: &mut RestoreStatus, actions: &mut Actions) -> (String, String) {
    actions.revoke.push(job.to_owned());
    status.outcome = Outcome::from(report);
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

//! The next step of a Restore: its target is found, its one Job is created, and the Job's verdict is copied. A Job is
//! never repeated, because only a user can know whether a restore may run twice.

mod archive;
mod claim;
mod in_use;
mod namespace;
mod new_claim;
mod once;
mod pod_use;
mod scale;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;

use super::{
    actions::{Actions, EventRecord, RestoreTarget, StartJob},
    applied::{Applied, Refused},
    choose::{Blocked, choose, repository_on},
    claim_uses::{ClaimUses, Subject},
    jobs::{JobRun, MissingVolume, ObservedJob, RUNNING_REQUEUE, job_run, with_advice},
    names::{self, OwnerRef, RunKind},
    sources::{ObservedPod, SourcePlan},
    text::{clip, later, until, with_statement},
};
use crate::{
    annotations::{KeyId, own_key},
    api::{
        FoundSnapshot, Outcome, RESTORE_UNFINISHED, Repository, RepositoryKind, RepositoryReference, Restore,
        RestoreClaim, RestoreStatus, set_run_conditions,
    },
    model::{
        Failure, Proof, Reason, RunReport, SnapshotLookup, SourceName, TargetCommand, TaskKind, Verdict, short_amount,
    },
};
pub use claim::{ObservedScale, TargetFacts, pending_class};
pub use namespace::{
    ChosenSnapshot, NamespaceFacts, NamespacePlan, NamespaceRequest, Refusal, RefusedSource, RepositorySnapshots,
    SourceKind, plan_namespace, repositories_to_read,
};
pub use scale::{scaled_down_by, scaling_refused};
use target::{StartError, target};

/// How long a Restore waits until its Repository or a pod of its source's workload is ready.
pub const WAIT_LIMIT: Duration = Duration::from_mins(5);
/// How often a waiting Restore is reconciled.
const WAITING_REQUEUE: Duration = Duration::from_secs(10);

/// The observed facts which a Restore is planned from.
#[derive(Clone, Copy, Debug)]
pub struct RestoreFacts<'a> {
    /// The Repositories of the Restore's namespace.
    pub repositories: &'a [Repository],
    /// The Restore's own Jobs.
    pub jobs: &'a [ObservedJob],
    /// The pods of the Restore's namespace.
    pub pods: &'a [ObservedPod],
    /// The sources which `pods` are.
    pub sources: &'a SourcePlan,
    /// Further facts, only for a Restore into a claim.
    pub claim: Option<TargetFacts<'a>>,
    /// The Repositories, by namespace and name, in which a prune runs.
    pub pruned: &'a BTreeSet<(String, String)>,
    /// The claims and commands of the namespace which Stowaway's runs use.
    pub uses: &'a ClaimUses,
    /// The claims of the namespace, only once the Job of a Restore into a command exists.
    pub claims: &'a [PersistentVolumeClaim],
}

/// Plans the next actions for a Restore, and its next status.
pub fn plan_restore(restore: &Restore, facts: RestoreFacts<'_>, now: Timestamp) -> (RestoreStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = restore.status.clone().unwrap_or_default();
    scale::recover(restore, &mut status, now);
    let owner = OwnerRef::of(restore).filter(|_| restore.metadata.deletion_timestamp.is_none());
    let (Some(owner), None) = (owner, status.outcome.verdict) else {
        scale::scale_back(restore, facts, &mut status, &mut actions, now);
        return (status, actions);
    };
    status.observed_generation = restore.metadata.generation;
    let since = status.start_time.get_or_insert(Time(now)).0;
    let job = once::job(restore, &owner, &status);
    status.job = job.filter(|job| !once::is_unstarted(restore, job, facts, &status));
    let mut condition = match status.job.clone() {
        Some(job) => {
            if status.claim_uid.is_empty() {
                // The claim was created together with the Job.
                status.claim_uid = in_use::claim_uid(facts);
            }
            if let Some(scale_down) = &restore.spec.scale_down {
                scale::keep_down(scale_down, facts, &status, &mut actions);
                scale::record_disturbance(facts, &job, &mut status, &mut actions, now);
            }
            let condition = follow_job(&job, facts, &mut status, &mut actions, now);
            in_use::report_use(restore, facts, &job, &mut status, now).unwrap_or(condition)
        }
        None => match once::check(restore)
            .and_then(|()| advance(restore, &owner, facts, &mut status, &mut actions, now))
        {
            Ok(condition) => condition,
            Err(StartError::Temporary(blocked)) if now < later(since, WAIT_LIMIT) => {
                actions.requeue_within(WAITING_REQUEUE.min(until(later(since, WAIT_LIMIT), now)));
                status.outcome =
                    Outcome { reason: blocked.reason.clone(), message: clip(&blocked.message), ..Outcome::default() };
                (blocked.reason, blocked.message)
            }
            Err(StartError::Temporary(blocked) | StartError::Permanent(blocked)) => {
                status.outcome = Outcome {
                    verdict: Some(Verdict::Failed),
                    reason: blocked.reason.clone(),
                    message: clip(&blocked.message),
                    ..Outcome::default()
                };
                (blocked.reason, blocked.message)
            }
        },
    };
    if let (Some(verdict), Some(claim)) = (status.outcome.verdict, claim::unfilled(facts)) {
        // Also an incomplete Restore has restored all contents. Who creates the claim decides what it contains.
        let is_filled = claim::is_whole(restore) || !status.made_claim.is_empty();
        let is_lost = in_use::lost_claim(facts, (&claim, &status.claim_uid)).is_some();
        actions.restore.claim_is_filled = verdict != Verdict::Failed && is_filled && !is_lost;
        if !actions.restore.claim_is_filled {
            condition.1 = claim::with_unfilled(&condition.1, &claim);
            status.outcome.message = clip(&condition.1);
        }
    }
    if status.outcome.verdict.is_some_and(|verdict| verdict != Verdict::Failed)
        && let Some(note) = target::unfilled_claim(facts, &status)
    {
        let separator = if condition.1.is_empty() { "" } else { "; " };
        condition.1 = format!("{}{separator}{note}", condition.1);
        status.outcome.message = clip(&condition.1);
    }
    set_conditions(&mut status, &mut actions, &condition, now);
    if status.outcome.verdict.is_some() {
        // The replicas are set back in the same reconcile, so that no client reads the verdict before that.
        scale::scale_back(restore, facts, &mut status, &mut actions, now);
    }
    (status, actions)
}

/// Corrects the planned status of a Restore by what was created. A Restore whose Job was not created fails, and nothing
/// was restored.
pub fn settle_restore(status: &mut RestoreStatus, actions: &mut Actions, applied: &Applied, now: Timestamp) {
    if applied.no_claim_made {
        status.made_claim.clear();
    }
    let Some(Refused { reason, message, .. }) = applied.refused.first() else { return };
    let reason = reason.to_string();
    let mut message = with_advice(message.clone());
    if !status.made_claim.is_empty() {
        message = claim::with_unfilled(&message, &status.claim);
    }
    status.job = None;
    status.outcome = Outcome {
        verdict: Some(Verdict::Failed),
        reason: reason.clone(),
        message: clip(&message),
        ..Outcome::default()
    };
    set_conditions(status, actions, &(reason, message), now);
}

/// Adds to the result of a Restore that the API server refused to remove the annotation of the claim which it has
/// filled.
pub fn claim_stays_marked(status: &mut RestoreStatus, error: &str) {
    let Outcome { message, .. } = &mut status.outcome;
    let effect = format!(
        "the annotation {RESTORE_UNFINISHED} of claim {claim} was not removed, and no Backup stores the claim until it \
         is: kubectl annotate persistentvolumeclaim {claim} {RESTORE_UNFINISHED}- ({error})",
        claim = status.claim
    );
    *message = clip(&with_statement(message, &effect));
}

/// Takes the next step towards the Job. Returns reason and message for the condition.
fn advance(
    restore: &Restore,
    owner: &OwnerRef,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<(String, String), StartError> {
    let spec = &restore.spec;
    let to_claim = spec.to.as_ref().and_then(|to| to.claim.as_ref());
    let to_archive = spec.to.as_ref().and_then(|to| to.archive.as_ref());
    // A permanent error is reported first, because it does not depend on the Repository.
    let job = match (to_claim, to_archive) {
        (Some(to), _) => claim::check(restore, to).map(|()| None),
        (None, Some(to)) => archive::start(restore, to).map(Some),
        (None, None) => target(restore, facts).map(|target| {
            Some(Start { attempt: once::FIRST, task: command_task(restore, owner, target), target: None })
        }),
    };
    if let Err(StartError::Permanent(_)) = job {
        return job.map(|_| Default::default());
    }
    let name = named_repository(restore, facts, status);
    let repository = choose(facts.repositories, name).map_err(|blocked| {
        let source = facts.sources.sources.iter().find(|planned| planned.name == spec.from.source);
        let is_of_pod = spec.repository_ref.is_none() && source.is_some_and(|source| source.repository.is_some());
        let message = if is_of_pod { of_pod(&blocked.message, &spec.from.source) } else { blocked.message };
        StartError::Temporary(Blocked { message, ..blocked })
    })?;
    let repository = repository.name_any();
    status.repository_ref = Some(RepositoryReference { kind: RepositoryKind::Repository, name: repository.clone() });
    // The Restore waits for a running prune, because its Job would give up on the prune's lock before the prune's
    // deadline.
    if facts.pruned.contains(&(owner.namespace.clone(), repository.clone())) {
        actions.requeue_within(WAITING_REQUEUE);
        return Ok(("Waiting".to_owned(), format!("waits for the prune that runs in Repository {repository}")));
    }
    let job = match (job?, to_claim) {
        (Some(job), _) => {
            if let TaskKind::Restore { target, .. } = &job.task {
                status.pod.clone_from(&target.pod);
                status.container.clone_from(&target.container);
                let since = status.start_time.as_ref().map_or(now, |time| time.0);
                let subject = Subject::of_restore(restore, &target.pod);
                if let Some(run) = claim::blocking_run(&subject, (restore, owner), facts, (since, now))? {
                    actions.requeue_within(WAITING_REQUEUE);
                    return Ok(("Waiting".to_owned(), format!("waits for {run}")));
                }
            }
            job
        }
        (None, Some(to)) => match advance_claim(restore, to, owner, facts, status, actions, now)? {
            Step::Start(job) => *job,
            Step::Wait(message) => return Ok(("Waiting".to_owned(), message)),
        },
        (None, None) => return Ok(Default::default()),
    };
    start(restore, owner, repository, job, status, actions);
    Ok(("Running".to_owned(), "the Job is being started".to_owned()))
}

/// The name of the Repository to read from, if it is not the default one: that of the spec, or else the one which the
/// source's pod names, because its Backups are stored there. Once `scaleDown` has ended that pod, it is the Repository
/// that was chosen before.
fn named_repository<'a>(restore: &'a Restore, facts: RestoreFacts<'a>, status: &'a RestoreStatus) -> Option<&'a str> {
    let name = |reference: &'a RepositoryReference| reference.name.as_str();
    if let Some(reference) = &restore.spec.repository_ref {
        return Some(name(reference));
    }
    match facts.sources.sources.iter().find(|planned| planned.name == restore.spec.from.source) {
        Some(planned) => planned.repository.as_deref(),
        None => status.repository_ref.as_ref().map(name),
    }
}

/// The message about a Repository which the source's pod names.
fn of_pod(message: &str, source: &SourceName) -> String {
    let key = own_key(KeyId::Repository);
    format!("{message}; the annotation {key} of the pod of {source} names it: spec.repositoryRef names another one")
}

/// A Job to start.
struct Start {
    attempt: u32,
    task: TaskKind,
    target: Option<RestoreTarget>,
}

enum Step {
    Start(Box<Start>),
    Wait(String),
}

fn advance_claim(
    restore: &Restore,
    to: &RestoreClaim,
    owner: &OwnerRef,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> Result<Step, StartError> {
    status.claim.clone_from(&to.name);
    status.claim_uid = in_use::claim_uid(facts);
    if let Some((repository, _)) = repository_on(facts.repositories, &to.name) {
        let message = format!(
            "Repository {} is on claim {}: a restore would mix its files with the repository's; name another claim",
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
                "there is no PersistentVolumeClaim {} in this namespace; create it, or set spec.to.claim.create",
                to.name
            );
            return Err(claim::refused(Reason::InvalidRequest, message));
        }
        (false, Some(new)) if status.found.is_none() && new_claim::needs_lookup(restore, new) => {
            let task = TaskKind::FindSnapshot(claim::wanted_snapshot(restore, None));
            return Ok(Step::Start(Box::new(Start { attempt: once::FIRST, task, target: None })));
        }
        (false, Some(new)) => {
            let classes = facts.claim.map_or(&[][..], |facts| facts.storage_classes);
            Some(new_claim::plan_claim((restore, owner), (to, new), status.found.as_ref(), classes)?)
        }
    };
    // Checked before the workload is scaled down, so that it is not down during the wait; and again until the Job
    // starts.
    let since = status.start_time.as_ref().map_or(now, |time| time.0);
    let subject = Subject::Claim(to.name.clone());
    if let Some(run) = claim::blocking_run(&subject, (restore, owner), facts, (since, now))? {
        actions.requeue_within(WAITING_REQUEUE);
        return Ok(Step::Wait(format!("waits for {run}")));
    }
    if let Some(scale_down) = &restore.spec.scale_down
        && let Some(message) = scale::ensure_down(scale_down, facts, status, actions, now)?
    {
        return Ok(Step::Wait(message));
    }
    let repository = status.repository_ref.as_ref().map_or("", |reference| reference.name.as_str());
    let mount = claim::mount(restore, to, repository, facts)?;
    if let Some(planned) = new {
        status.made_claim = clip(&planned.description);
        actions.restore.create_claim = Some(Box::new(planned.claim));
    }
    let task = claim::task(restore, to, owner, facts);
    Ok(Step::Start(Box::new(Start { attempt: once::INTO_CLAIM, task, target: Some(RestoreTarget::Claim(mount)) })))
}

/// The task of a Restore into a command.
fn command_task(restore: &Restore, owner: &OwnerRef, target: TargetCommand) -> TaskKind {
    let spec = &restore.spec;
    TaskKind::Restore {
        restore: owner.name.clone(),
        target,
        source: spec.from.source.clone(),
        snapshot: spec.from.snapshot.clone(),
        as_of: spec.from.as_of,
        host: spec.from.host.clone(),
        timeout: spec.timeout.map(Duration::from),
        idle_timeout: spec.idle_timeout.map(Duration::from),
    }
}

fn start(
    restore: &Restore,
    owner: &OwnerRef,
    repository: String,
    job: Start,
    status: &mut RestoreStatus,
    actions: &mut Actions,
) {
    let source = &restore.spec.from.source;
    status.outcome = Outcome::default();
    status.job = Some(names::job_name(owner, source.as_str(), job.attempt));
    actions.start.push(StartJob {
        kind: RunKind::Restore,
        source: source.to_string(),
        attempt: job.attempt,
        task: job.task,
        repository,
        timeout: restore.spec.timeout.map(Duration::from),
        claim: None,
        data_source: None,
        target: job.target,
        note: String::new(),
    });
    actions.requeue_within(RUNNING_REQUEUE);
}

/// Updates the status from the state of the Job. Returns reason and message for the condition.
fn follow_job(
    name: &str,
    facts: RestoreFacts<'_>,
    status: &mut RestoreStatus,
    actions: &mut Actions,
    now: Timestamp,
) -> (String, String) {
    status.transfer = None;
    let running = |message: &str| ("Running".to_owned(), message.to_owned());
    let volume = claim::missing_class(facts.claim).map(|message| MissingVolume { message, deadline: None });
    match job_run(facts.jobs, name, volume, actions, now) {
        JobRun::Suspended => {
            actions.end.push(name.to_owned());
            let message = format!("Job {name} was suspended while it ran; the restore may have taken effect in part");
            finish(name, RunReport::failed(Failure::new(Reason::Cancelled, message), Duration::ZERO), status, actions)
        }
        JobRun::Starting { hint } => {
            actions.requeue_within(RUNNING_REQUEUE);
            let hint = if hint.is_empty() { "the Job's pod is being started".to_owned() } else { hint };
            ("Waiting".to_owned(), hint)
        }
        JobRun::Running { progress } => {
            status.transfer = progress.map(|progress| progress.describe(short_amount));
            running("the Job runs")
        }
        JobRun::Lost(report) => {
            let message = format!("{}; the restore may have taken effect", report.message);
            finish(name, RunReport { message, ..*report }, status, actions)
        }
        JobRun::Ended(report) => match found_snapshot(&report, status) {
            Some(found) => {
                status.found = Some(found);
                status.job = None;
                actions.requeue_within(Duration::from_millis(10));
                running("the snapshot was found")
            }
            None => finish(name, *report, status, actions),
        },
    }
}

/// The result of a Job which only looked up a snapshot. Its report has no proof, unlike a green report of the Job which
/// restores.
fn found_snapshot(report: &RunReport, status: &RestoreStatus) -> Option<FoundSnapshot> {
    let is_lookup = status.found.is_none() && report.verdict.is_green() && report.proof == Proof::None;
    let snapshot = report.snapshot.clone().filter(|_| is_lookup && !status.claim.is_empty())?;
    // A run of an earlier version reports only the size.
    let earlier = || SnapshotLookup { bytes: Some(report.bytes), claim: None };
    let SnapshotLookup { bytes, claim } = report.lookup.clone().unwrap_or_else(earlier);
    // A status cannot hold a greater number.
    let bytes = bytes.map(|bytes| bytes.min(i64::MAX.unsigned_abs()));
    Some(FoundSnapshot { snapshot, bytes, claim })
}

fn finish(job: &str, report: RunReport, status: &mut RestoreStatus, actions: &mut Actions) -> (String, String) {
    actions.revoke.push(job.to_owned());
    status.safety_snapshot.clone_from(&report.safety_snapshot);
    status.safety_snapshots.clone_from(&report.safety_snapshots);
    status.archive.clone_from(&report.archive);
    status.outcome = Outcome::from(report);
    scale::report_disturbance(status);
    let outcome = &mut status.outcome;
    let is_into_command = !status.pod.is_empty();
    if is_into_command && outcome.verdict.is_some_and(Verdict::is_green) && outcome.message.is_empty() {
        "the command read everything and exited 0".clone_into(&mut outcome.message);
    }
    if let Some(reference) = status.repository_ref.as_ref().filter(|_| outcome.verdict != Some(Verdict::Failed)) {
        outcome.message = with_statement(&outcome.message, &format!("read from Repository {}", reference.name));
    }
    if !status.made_claim.is_empty() {
        status.outcome.message = with_statement(&status.outcome.message, &status.made_claim);
    }
    status.outcome.message = clip(&status.outcome.message);
    (status.outcome.reason.clone(), status.outcome.message.clone())
}

/// Sets the conditions from the reason and message. If the Restore has a verdict, records the Event of its end.
fn set_conditions(
    status: &mut RestoreStatus,
    actions: &mut Actions,
    (reason, message): &(String, String),
    now: Timestamp,
) {
    let verdict = status.outcome.verdict;
    let is_green = verdict.is_some_and(Verdict::is_green);
    let generation = status.observed_generation;
    let message = clip(message);
    let condition = (reason.as_str(), message.as_str());
    set_run_conditions(&mut status.conditions, verdict, condition, generation, now);
    if let Some(verdict) = verdict {
        status.completion_time = Some(Time(now));
        actions.requeue_after = None;
        actions.events.push(EventRecord {
            is_warning: !is_green,
            reason: reason.clone(),
            action: "Restore",
            note: format!("{verdict}: {message}"),
            job: status.job.clone(),
        });
    }
}

//! How a Repository becomes ready, and stays so: a Job opens it until that succeeds, and again when its spec changes, about
//! every hour, and when a person accepts another repository. Only a repository that was never open is created.
//!
//! It must not know the password, nor speak to the store.

mod acceptance;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub use self::acceptance::is_acceptance;
use self::acceptance::{Acceptance, explain};
use super::{
    actions::{Actions, Occurrence, StartJob},
    jobs::{ObservedJob, Standing, standing},
    names::{self, Owner, RunKind},
    retry,
    text::{later, until},
    upkeep::{excludes_others, is_preparation_of_prune},
};
use crate::{
    api::{
        INSECURE_TRANSPORT, KEY_NOT_ESCROWED, READY, Repository, RepositorySpec, RepositoryStatus, SourceState,
        backend_config, condition_is_true, remove_condition, set_condition,
    },
    model::{Reason, SourceReport},
};

/// The reason of `Ready=False` as long as nothing is known.
pub const OPENING: &str = "Opening";

/// A repository that is ready is opened again after so long, spread by as much as [`OPEN_SPREAD`], so that a key that was
/// revoked, or a bucket or Secret that was deleted, shows before the next run.
const OPEN_AGAIN: Duration = Duration::from_mins(54);
const OPEN_SPREAD: Duration = Duration::from_mins(12);

/// How long nothing may be heard of a Job that runs.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// What is to be done for a Repository, and what its status then says. `cluster` is the cluster's id.
pub fn plan_repository(
    repository: &Repository,
    jobs: &[ObservedJob],
    cluster: &str,
    now: Timestamp,
) -> (RepositoryStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = repository.status.clone().unwrap_or_default();
    // Whatever stood there: it may come from a backup of another cluster's objects.
    status.cluster_id = Some(cluster.to_owned()).filter(|id| !id.is_empty());
    let generation = repository.metadata.generation;
    // What a prune keeps off could not be opened anew before it ends, and all that waits for it to be Ready would give up.
    let is_pruned = excludes_others(status.prune.as_ref());
    let was_ready = condition_is_true(&status.conditions, READY);
    if status.observed_generation != generation && !(was_ready && is_pruned) {
        status = RepositoryStatus {
            observed_generation: generation,
            attempt: 0,
            opened_attempt: None,
            next_attempt_time: None,
            ..status
        };
        not_ready(&mut status, (OPENING, "the repository is being opened"), now);
    }
    let is_ready = condition_is_true(&status.conditions, READY);
    match insecure_transport(&repository.spec) {
        Some(words) => set_condition(&mut status.conditions, INSECURE_TRANSPORT, true, words, generation, now),
        None => remove_condition(&mut status.conditions, INSECURE_TRANSPORT),
    }
    let Some(owner) = Owner::of(repository).filter(|_| repository.metadata.deletion_timestamp.is_none()) else {
        return (status, actions);
    };
    let spec = spec_state(repository);
    let current = names::job_name(&owner, &spec, status.attempt);
    actions.delete = jobs.iter().map(|job| job.job.name_any()).filter(|name| *name != current).collect();
    if is_ready && is_pruned {
        // The end of the prune changes the status, and so leads here again.
        return (status, actions);
    }
    let acceptance = Acceptance::of(repository, &status);
    if is_ready && acceptance.is_wanted() && status.next_attempt_time.is_some() {
        status.next_attempt_time = Some(Time(now));
    }
    let observed = jobs.iter().find(|job| job.job.name_any() == current);
    match (status.attempt, status.next_attempt_time.clone(), observed) {
        (0, _, _) => start(repository, &acceptance, &mut status, &mut actions),
        (_, Some(Time(due)), _) if due <= now => start(repository, &acceptance, &mut status, &mut actions),
        (_, Some(Time(due)), _) => actions.look_again_after(until(due, now)),
        (_, None, None) => {
            let message = format!("Job {current} was deleted before it ended");
            ended_badly(&mut status, &mut actions, (Reason::ResultLost, &message), Some(&current), now);
        }
        (_, None, Some(job)) => match standing(job, now) {
            // It was made and never started. What it may do follows from the plan, so that it is planned again.
            Standing::Suspended => {
                status.attempt -= 1;
                start(repository, &acceptance, &mut status, &mut actions);
            }
            Standing::Starting { deadline, hint } => {
                let words = if hint.is_empty() { "the Job that opens the repository is being started" } else { &hint };
                if !is_ready {
                    not_ready(&mut status, (OPENING, words), now);
                }
                actions.look_again_after(until(deadline, now));
            }
            Standing::Running => {
                if !is_ready {
                    not_ready(&mut status, (OPENING, "the Job that opens the repository runs"), now);
                }
                actions.look_again_after(LOOK_AGAIN);
            }
            Standing::Ended(report) if report.verdict.is_green() => {
                actions.revoke.push(current.clone());
                if let Some(refused) = acceptance.refuses(&report) {
                    let message = explain(repository, &status, Reason::RepositoryChanged, &refused);
                    let words = (&Reason::RepositoryChanged.to_string()[..], &message[..]);
                    failed(&mut status, &mut actions, words, Some(&current), now);
                } else {
                    opened(repository, &acceptance, &mut status, &mut actions, &report, now);
                    tell_escrow(repository, &mut status, &report, now);
                }
            }
            Standing::Ended(report) => {
                actions.revoke.push(current.clone());
                let message = explain(repository, &status, report.reason, &report.message);
                ended_badly(&mut status, &mut actions, (report.reason, &message), Some(&current), now);
            }
            Standing::Stuck(report) => {
                actions.end.push(current.clone());
                actions.revoke.push(current.clone());
                ended_badly(&mut status, &mut actions, (report.reason, &report.message), Some(&current), now);
            }
        },
    }
    (status, actions)
}

/// Why what is said to the store could be heard or answered by somebody else, if it could: reason and message. What is
/// stored is encrypted all the same.
fn insecure_transport(spec: &RepositorySpec) -> Option<(&'static str, &'static str)> {
    if spec.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        return Some((
            "CertificateNotVerified",
            "spec.tls.insecureSkipVerify is true: whoever answers at the store's address gets its credentials; name its \
             authority in spec.tls.caBundle instead",
        ));
    }
    if spec.sftp.as_ref().is_some_and(|sftp| sftp.insecure_ignore_host_key) {
        return Some((
            "HostKeyNotVerified",
            "spec.sftp.insecureIgnoreHostKey is true: whoever answers at the store's address gets its credentials; name \
             its key in spec.sftp.hostKeys instead",
        ));
    }
    let backend = backend_config(spec)?;
    backend.url()?.starts_with("http://").then_some((
        "PlainHttp",
        "the store is spoken to by http: whoever is on the way can read and change what is said; use https",
    ))
}

/// Says aloud that only one key opens the repository: who loses this cluster, or that Secret, then loses all that is stored.
/// A report that counted no keys changes nothing.
pub(super) fn tell_escrow(
    repository: &Repository,
    status: &mut RepositoryStatus,
    report: &SourceReport,
    now: Timestamp,
) {
    match report.keys {
        None => {}
        Some(0 | 1) => {
            let message = format!(
                "only the password in Secret {} opens the repository, and with this cluster it would be lost: add a key \
                 whose password you keep elsewhere, by `stowaway key add`; the next check sees it",
                repository.spec.password_secret_ref.name
            );
            let generation = status.observed_generation;
            set_condition(&mut status.conditions, KEY_NOT_ESCROWED, true, ("OnlyOneKey", &message), generation, now);
        }
        Some(_) => remove_condition(&mut status.conditions, KEY_NOT_ESCROWED),
    }
}

/// Takes back the start of a Job that the API server refused: it is tried again like one that failed.
pub fn init_refused(status: &mut RepositoryStatus, actions: &mut Actions, words: (Reason, &str), now: Timestamp) {
    ended_badly(status, actions, words, None, now);
}

/// Whether the result of the Job, one of those that open, prune or check the Repository, is in the status, so that the Job
/// is not needed any more. A Job that repacked for a prune is needed until the prune is over, because it is the proof that
/// the prune may keep others off.
pub fn is_recorded_of_repository(repository: &Repository, status: &RepositoryStatus, job: &str) -> bool {
    let Some(owner) = Owner::of(repository) else { return false };
    let is_opening = status.next_attempt_time.is_none();
    let opening = is_opening.then(|| names::job_name(&owner, &spec_state(repository), status.attempt));
    let upkeep = [status.prune.as_ref(), status.check.as_ref().map(|check| &check.run)].into_iter().flatten();
    let mut running = upkeep.filter(|run| run.state == Some(SourceState::Running)).filter_map(|run| run.job.as_deref());
    opening.as_deref() != Some(job)
        && !running.any(|running| running == job)
        && !is_preparation_of_prune(&owner, status, job)
}

/// Which state of the spec a Job speaks of: part of its name, so that an old result is never taken for a new one.
fn spec_state(repository: &Repository) -> String {
    format!("generation/{}", repository.metadata.generation.unwrap_or_default())
}

fn start(repository: &Repository, acceptance: &Acceptance, status: &mut RepositoryStatus, actions: &mut Actions) {
    status.attempt += 1;
    status.next_attempt_time = None;
    // A repository that was once opened has a password: another one could not open it, and would hide that it is lost.
    actions.create_password =
        repository.spec.password_secret_ref.create_if_not_exists && status.repository_id.is_none();
    actions.start.push(StartJob {
        kind: RunKind::Init,
        source: spec_state(repository),
        attempt: status.attempt,
        task: acceptance.task(),
        repository: repository.name_any(),
        timeout: None,
        claim: None,
        made_of: None,
        target: None,
        note: String::new(),
    });
    actions.look_again_after(LOOK_AGAIN);
}

fn opened(
    repository: &Repository,
    acceptance: &Acceptance,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    report: &SourceReport,
    now: Timestamp,
) {
    let was_ready = condition_is_true(&status.conditions, READY);
    let before = status.repository_id.take();
    status.repository_id = report.repository_id.clone().or(before.clone());
    status.accepted = acceptance.value();
    status.opened_attempt = Some(status.attempt);
    let pause = OPEN_AGAIN + spread(repository);
    status.next_attempt_time = Some(Time(later(now, pause)));
    actions.look_again_after(pause);
    let message = "the repository was opened with its password";
    let reason = report.reason.to_string();
    set_condition(&mut status.conditions, READY, true, (&reason, message), status.observed_generation, now);
    let id = status.repository_id.as_deref().unwrap_or("unknown");
    let note = match &before {
        Some(before) if before != id => format!("{message}; its id is {id}, which was accepted instead of {before}"),
        _ if was_ready => return,
        _ => format!("{message}; its id is {id}"),
    };
    actions.events.push(Occurrence { is_warning: false, reason, action: "Open", note, job: None });
}

/// A part of [`OPEN_SPREAD`] that is the same each time for one Repository, and another one for others.
fn spread(repository: &Repository) -> Duration {
    let sum =
        repository.uid().unwrap_or_default().bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    Duration::from_secs(sum % OPEN_SPREAD.as_secs())
}

/// What follows from an attempt that failed. One that reveals nothing about the repository itself, such as a pod that did not start
/// or a lock in the way, does not end that a repository is ready.
fn ended_badly(
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    (reason, message): (Reason, &str),
    job: Option<&str>,
    now: Timestamp,
) {
    let is_about_repository = matches!(
        reason,
        Reason::StoreUnavailable
            | Reason::RepositoryNotFound
            | Reason::RepositoryChanged
            | Reason::RepositoryDamaged
            | Reason::WrongPassword
            | Reason::SecretMissing
            | Reason::InvalidRequest
    );
    if condition_is_true(&status.conditions, READY) && !is_about_repository {
        let pause = retry::repository_pause(failures(status));
        status.next_attempt_time = Some(Time(later(now, pause)));
        actions.look_again_after(pause);
        return;
    }
    failed(status, actions, (&reason.to_string(), message), job, now);
}

/// How many attempts failed since the repository was last opened.
fn failures(status: &RepositoryStatus) -> u32 {
    status.attempt.saturating_sub(status.opened_attempt.unwrap_or(0))
}

fn failed(
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    (reason, message): (&str, &str),
    job: Option<&str>,
    now: Timestamp,
) {
    let pause = retry::repository_pause(failures(status));
    status.next_attempt_time = Some(Time(later(now, pause)));
    not_ready(status, (reason, message), now);
    actions.look_again_after(pause);
    actions.events.push(Occurrence {
        is_warning: true,
        reason: reason.to_owned(),
        action: "Open",
        note: message.to_owned(),
        job: job.map(str::to_owned),
    });
}

fn not_ready(status: &mut RepositoryStatus, words: (&str, &str), now: Timestamp) {
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, READY, false, words, generation, now);
}

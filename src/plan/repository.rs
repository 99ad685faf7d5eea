//! How a Repository becomes ready: a Job opens it, again and again until it succeeds, and again when its spec changes.
//!
//! It must not know the password, nor speak to the store.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    actions::{Actions, Occurrence, StartJob},
    jobs::{ObservedJob, Standing, standing},
    names::{self, Owner, RunKind},
    retry,
    text::{later, until},
    upkeep::excludes_others,
};
use crate::{
    api::{
        INSECURE_TRANSPORT, KEY_NOT_ESCROWED, READY, Repository, RepositorySpec, RepositoryStatus, SourceState,
        backend_config, condition_is_true, remove_condition, set_condition,
    },
    model::{Reason, SourceReport, TaskKind},
};

/// The reason of `Ready=False` as long as nothing is known.
pub const OPENING: &str = "Opening";

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
    let is_pruned = condition_is_true(&status.conditions, READY) && excludes_others(status.prune.as_ref());
    if status.observed_generation != generation && !is_pruned {
        status = RepositoryStatus { observed_generation: generation, attempt: 0, next_attempt_time: None, ..status };
        not_ready(&mut status, (OPENING, "the repository is being opened"), now);
    }
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
    if condition_is_true(&status.conditions, READY) {
        return (status, actions);
    }
    let observed = jobs.iter().find(|job| job.job.name_any() == current);
    match (status.attempt, status.next_attempt_time.clone(), observed) {
        (0, _, _) => start(repository, &mut status, &mut actions),
        (_, Some(Time(due)), _) if due <= now => start(repository, &mut status, &mut actions),
        (_, Some(Time(due)), _) => actions.look_again_after(until(due, now)),
        (_, None, None) => {
            let message = format!("Job {current} was deleted before it ended");
            failed(&mut status, &mut actions, (&Reason::ResultLost.to_string(), &message), Some(&current), now);
        }
        (_, None, Some(job)) => match standing(job, now) {
            Standing::Suspended => actions.resume.push(current),
            Standing::Starting { deadline, hint } => {
                let words = if hint.is_empty() { "the Job that opens the repository is being started" } else { &hint };
                not_ready(&mut status, (OPENING, words), now);
                actions.look_again_after(until(deadline, now));
            }
            Standing::Running => {
                not_ready(&mut status, (OPENING, "the Job that opens the repository runs"), now);
                actions.look_again_after(LOOK_AGAIN);
            }
            Standing::Ended(report) if report.verdict.is_green() => {
                actions.revoke.push(current);
                opened(&mut status, &mut actions, &report, now);
                tell_escrow(repository, &mut status, &report, now);
            }
            Standing::Ended(report) => {
                actions.revoke.push(current.clone());
                failed(&mut status, &mut actions, (&report.reason.to_string(), &report.message), Some(&current), now);
            }
            Standing::Stuck(report) => {
                actions.end.push(current.clone());
                actions.revoke.push(current.clone());
                failed(&mut status, &mut actions, (&report.reason.to_string(), &report.message), Some(&current), now);
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
                "only the password in Secret {} opens the repository, and with this cluster it would be lost: add a key                  whose password you keep elsewhere, by `stowaway key add`; the next check sees it",
                repository.spec.password_secret_ref.name
            );
            let generation = status.observed_generation;
            set_condition(&mut status.conditions, KEY_NOT_ESCROWED, true, ("OnlyOneKey", &message), generation, now);
        }
        Some(_) => remove_condition(&mut status.conditions, KEY_NOT_ESCROWED),
    }
}

/// Takes back the start of a Job that the API server refused: it is tried again like one that failed.
pub fn init_refused(status: &mut RepositoryStatus, actions: &mut Actions, message: &str, now: Timestamp) {
    failed(status, actions, (&Reason::PodNotStarted.to_string(), message), None, now);
}

/// Whether the result of the Job, one of those that open, prune or check the Repository, is in the status, so that the Job
/// is not needed any more.
pub fn is_recorded_of_repository(repository: &Repository, status: &RepositoryStatus, job: &str) -> bool {
    let Some(owner) = Owner::of(repository) else { return false };
    let is_opening = !condition_is_true(&status.conditions, READY) && status.next_attempt_time.is_none();
    let opening = is_opening.then(|| names::job_name(&owner, &spec_state(repository), status.attempt));
    let upkeep = [status.prune.as_ref(), status.check.as_ref().map(|check| &check.run)].into_iter().flatten();
    let mut running = upkeep.filter(|run| run.state == Some(SourceState::Running)).filter_map(|run| run.job.as_deref());
    opening.as_deref() != Some(job) && !running.any(|running| running == job)
}

/// Which state of the spec a Job speaks of: part of its name, so that an old result is never taken for a new one.
fn spec_state(repository: &Repository) -> String {
    format!("generation/{}", repository.metadata.generation.unwrap_or_default())
}

fn start(repository: &Repository, status: &mut RepositoryStatus, actions: &mut Actions) {
    status.attempt += 1;
    status.next_attempt_time = None;
    // A repository that was once opened has a password: another one could not open it, and would hide that it is lost.
    actions.create_password =
        repository.spec.password_secret_ref.create_if_not_exists && status.repository_id.is_none();
    actions.start.push(StartJob {
        kind: RunKind::Init,
        source: spec_state(repository),
        attempt: status.attempt,
        task: TaskKind::Init,
        repository: repository.name_any(),
        timeout: None,
        claim: None,
        made_of: None,
        target: None,
    });
    actions.look_again_after(LOOK_AGAIN);
}

fn opened(status: &mut RepositoryStatus, actions: &mut Actions, report: &SourceReport, now: Timestamp) {
    status.repository_id = report.repository_id.clone().or(status.repository_id.take());
    let message = "the repository was opened with its password";
    let reason = report.reason.to_string();
    set_condition(&mut status.conditions, READY, true, (&reason, message), status.observed_generation, now);
    let id = status.repository_id.as_deref().unwrap_or("unknown");
    actions.events.push(Occurrence {
        is_warning: false,
        reason,
        action: "Open",
        note: format!("{message}; its id is {id}"),
        job: None,
    });
}

fn failed(
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    (reason, message): (&str, &str),
    job: Option<&str>,
    now: Timestamp,
) {
    let pause = retry::repository_pause(status.attempt);
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

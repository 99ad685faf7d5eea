//! How a Repository becomes and stays ready. A Job opens it; a failed attempt is repeated. It is opened again when its
//! spec changes, about every hour, and when a user accepts another repository. Only a repository which was never open
//! is created.
//!
//! The controller neither reads the password nor connects to the store; only the Job does.

mod acceptance;
mod doubt;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use self::acceptance::Acceptance;
pub use self::{
    acceptance::is_acceptance,
    doubt::{in_doubt, missed_by_backup, missed_by_restore},
};
pub(super) use self::{
    acceptance::{explain, with_acceptance},
    doubt::{is_missed, open_at_once},
};
use super::{
    actions::{Actions, EventRecord, StartJob},
    applied::Applied,
    jobs::{JobRun, ObservedJob, RUNNING_REQUEUE, job_run},
    maintenance::{attempt_refused, excludes_others, is_preparation_of_prune},
    names::{self, OwnerRef, RunKind},
    retry,
    text::{later, until},
};
use crate::{
    api::{
        FORMER_HEALTHY, HEALTHY, INSECURE_TRANSPORT, KEY_NOT_ESCROWED, READY, Repository, RepositorySpec,
        RepositoryStatus, SourceState, backend_config, condition_is_true, remove_condition, rename_condition,
        set_condition,
    },
    model::{Reason, RunReport},
};

/// The reason of `Ready=False` before the first result.
pub const OPENING: &str = "Opening";

/// A ready repository is opened again after this long, plus a part of [`OPEN_SPREAD`], so that a revoked key or a
/// deleted bucket or Secret is found before the next run.
const OPEN_AGAIN: Duration = Duration::from_mins(54);
const OPEN_SPREAD: Duration = Duration::from_mins(12);

/// Plans the next actions for a Repository, and its next status. `cluster` is the cluster's id.
pub fn plan_repository(
    repository: &Repository,
    jobs: &[ObservedJob],
    cluster: &str,
    now: Timestamp,
) -> (RepositoryStatus, Actions) {
    let mut actions = Actions::default();
    let mut status = repository.status.clone().unwrap_or_default();
    rename_condition(&mut status.conditions, FORMER_HEALTHY, HEALTHY);
    // Always overwritten, because the object may have been restored from a backup of another cluster.
    status.cluster_id = Some(cluster.to_owned()).filter(|id| !id.is_empty());
    let generation = repository.metadata.generation;
    // A changed spec waits for the end of an exclusive prune. The repository could not be opened during the prune, and
    // runs which wait until it is ready would fail.
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
        Some(risk) => set_condition(&mut status.conditions, INSECURE_TRANSPORT, true, risk, generation, now),
        None => remove_condition(&mut status.conditions, INSECURE_TRANSPORT),
    }
    let Some(owner) = OwnerRef::of(repository).filter(|_| repository.metadata.deletion_timestamp.is_none()) else {
        return (status, actions);
    };
    let spec = spec_state(repository);
    let current = names::job_name(&owner, &spec, status.attempt);
    actions.delete = jobs.iter().map(|job| job.job.name_any()).filter(|name| *name != current).collect();
    if is_ready && is_pruned {
        // The end of the prune changes the status, which causes another reconcile.
        return (status, actions);
    }
    let acceptance = Acceptance::of(repository, &status);
    // A value that is removed and set again is accepted again, also if the repository was not opened in between.
    if acceptance.value().is_none() {
        status.accepted = None;
    }
    let observed = jobs.iter().find(|job| job.job.name_any() == current);
    // A failed attempt is repeated at once if it did not consider what the annotation accepts now. The attempt's Job is
    // the evidence, because it outlives the pause.
    let is_new = match failures(&status) {
        0 => acceptance.has_changed(),
        _ => observed.is_some_and(|observed| acceptance.differs_from(&observed.job)),
    };
    if is_new && status.next_attempt_time.is_some() {
        status.next_attempt_time = Some(Time(now));
    }
    match (status.attempt, status.next_attempt_time.clone()) {
        (0, _) => start(repository, &acceptance, &mut status, &mut actions),
        (_, Some(Time(due))) if due <= now => start(repository, &acceptance, &mut status, &mut actions),
        (_, Some(Time(due))) => actions.requeue_within(until(due, now)),
        (_, None) => match job_run(jobs, &current, None, &mut actions, now) {
            // The Job was created and never started. It may be outdated, so the attempt is planned again.
            JobRun::Suspended => {
                status.attempt -= 1;
                start(repository, &acceptance, &mut status, &mut actions);
            }
            JobRun::Starting { hint } => {
                let message =
                    if hint.is_empty() { "the Job that opens the repository is being started" } else { &hint };
                if !is_ready {
                    not_ready(&mut status, (OPENING, message), now);
                }
            }
            JobRun::Running { .. } => {
                if !is_ready {
                    not_ready(&mut status, (OPENING, "the Job that opens the repository runs"), now);
                }
            }
            JobRun::Lost(report) => {
                attempt_failed(&mut status, &mut actions, (report.reason, &report.message), Some(&current), now);
            }
            JobRun::Ended(report) if report.verdict.is_green() => {
                actions.revoke.push(current.clone());
                if let Some(refused) = acceptance.refuses(&report) {
                    let message = explain(repository, &status, Reason::RepositoryChanged, &refused);
                    let condition = (&Reason::RepositoryChanged.to_string()[..], &message[..]);
                    failed(&mut status, &mut actions, condition, Some(&current), now);
                } else {
                    opened(repository, &acceptance, &mut status, &mut actions, &report, now);
                    set_key_escrow_condition(repository, &mut status, &report, now);
                }
            }
            JobRun::Ended(report) => {
                actions.revoke.push(current.clone());
                let message = explain(repository, &status, report.reason, &report.message);
                attempt_failed(&mut status, &mut actions, (report.reason, &message), Some(&current), now);
            }
        },
    }
    (status, actions)
}

/// Reason and message of the condition `InsecureTransport`, if another party could read or answer the requests to the
/// store. The repository's data is encrypted anyway.
fn insecure_transport(spec: &RepositorySpec) -> Option<(&'static str, &'static str)> {
    if spec.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        return Some((
            "CertificateNotVerified",
            "spec.tls.insecureSkipVerify is true: any server which answers at the store's address receives the \
             credentials; set its certificate authority in spec.tls.caBundle instead",
        ));
    }
    if spec.sftp.as_ref().is_some_and(|sftp| sftp.insecure_ignore_host_key) {
        return Some((
            "HostKeyNotVerified",
            "spec.sftp.insecureIgnoreHostKey is true: any server which answers at the store's address receives the \
             credentials; set its key in spec.sftp.hostKeys instead",
        ));
    }
    let backend = backend_config(spec)?;
    backend.url()?.starts_with("http://").then_some((
        "PlainHttp",
        "the connection to the store uses http: it can be read and changed in transit; use https",
    ))
}

/// Sets the condition `KeyNotEscrowed` if only one key opens the repository, because the loss of this cluster or of the
/// Secret is then the loss of all snapshots. A report without a number of keys changes nothing.
pub(super) fn set_key_escrow_condition(
    repository: &Repository,
    status: &mut RepositoryStatus,
    report: &RunReport,
    now: Timestamp,
) {
    match report.keys {
        None => {}
        Some(0 | 1) => {
            let message = format!(
                "only the password in Secret {} opens the repository, and it would be lost with this cluster: add a key \
                 whose password you keep elsewhere, by `stowaway key add`; the next check then clears this condition",
                repository.spec.password_secret_ref.name
            );
            let generation = status.observed_generation;
            set_condition(&mut status.conditions, KEY_NOT_ESCROWED, true, ("OnlyOneKey", &message), generation, now);
        }
        Some(_) => remove_condition(&mut status.conditions, KEY_NOT_ESCROWED),
    }
}

/// Corrects the planned status of a Repository by what was created. A Job which was not created counts as a failed
/// attempt, so that it is repeated.
pub fn settle_repository(
    repository: &Repository,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    applied: &Applied,
    now: Timestamp,
) {
    for refused in &applied.refused {
        if refused.kind == RunKind::Init {
            attempt_failed(status, actions, (refused.reason, &refused.message), None, now);
        } else {
            attempt_refused(repository, status, actions, refused, now);
        }
    }
}

/// Whether the result of a Job which opens, prunes or checks the Repository is in the status, so that the Job is not
/// needed any more. A Job which repacked for a prune is needed until the prune is over, because it is the proof that
/// the prune may block other runs.
pub fn is_recorded_of_repository(repository: &Repository, status: &RepositoryStatus, job: &str) -> bool {
    let Some(owner) = OwnerRef::of(repository) else { return false };
    let is_opening = status.next_attempt_time.is_none();
    let opening = is_opening.then(|| names::job_name(&owner, &spec_state(repository), status.attempt));
    let maintenance = [status.prune.as_ref(), status.check.as_ref().map(|check| &check.run)].into_iter().flatten();
    let mut running =
        maintenance.filter(|run| run.state == Some(SourceState::Running)).filter_map(|run| run.job.as_deref());
    opening.as_deref() != Some(job)
        && !running.any(|running| running == job)
        && !is_preparation_of_prune(&owner, status, job)
}

/// The generation of the spec which a Job opens. It is part of the Job's name, so that the result of an older spec is
/// never used for a newer one.
fn spec_state(repository: &Repository) -> String {
    format!("generation/{}", repository.metadata.generation.unwrap_or_default())
}

fn start(repository: &Repository, acceptance: &Acceptance, status: &mut RepositoryStatus, actions: &mut Actions) {
    status.attempt += 1;
    status.next_attempt_time = None;
    // A repository which was opened before has a password. A new password could not open it, and would hide that the
    // old one is lost.
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
        data_source: None,
        target: None,
        note: String::new(),
    });
    actions.requeue_within(RUNNING_REQUEUE);
}

fn opened(
    repository: &Repository,
    acceptance: &Acceptance,
    status: &mut RepositoryStatus,
    actions: &mut Actions,
    report: &RunReport,
    now: Timestamp,
) {
    let was_ready = condition_is_true(&status.conditions, READY);
    let before = status.repository_id.take();
    status.repository_id = report.repository_id.clone().or(before.clone());
    status.accepted = acceptance.value();
    status.opened_attempt = Some(status.attempt);
    let pause = OPEN_AGAIN + spread(repository);
    status.next_attempt_time = Some(Time(later(now, pause)));
    actions.requeue_within(pause);
    let mut message = "the repository was opened with its password".to_owned();
    if !report.message.is_empty() {
        message = format!("{message}; {}", report.message);
    }
    let reason = report.reason.to_string();
    set_condition(&mut status.conditions, READY, true, (&reason, &message), status.observed_generation, now);
    let id = status.repository_id.as_deref().unwrap_or("unknown");
    let note = match &before {
        Some(before) if before != id => format!("{message}; its id is {id}, which was accepted instead of {before}"),
        _ if was_ready => return,
        _ => format!("{message}; its id is {id}"),
    };
    actions.events.push(EventRecord { is_warning: false, reason, action: "Open", note, job: None });
}

/// A part of [`OPEN_SPREAD`], which is constant for a Repository and differs between Repositories.
fn spread(repository: &Repository) -> Duration {
    let sum =
        repository.uid().unwrap_or_default().bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    Duration::from_secs(sum % OPEN_SPREAD.as_secs())
}

/// Handles a failed attempt. A ready Repository stays ready if the failure shows nothing about the repository itself,
/// such as a pod which did not start or a lock.
fn attempt_failed(
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
        actions.requeue_within(pause);
        return;
    }
    failed(status, actions, (&reason.to_string(), message), job, now);
}

/// The number of failed attempts since the repository was last opened.
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
    actions.requeue_within(pause);
    actions.events.push(EventRecord {
        is_warning: true,
        reason: reason.to_owned(),
        action: "Open",
        note: message.to_owned(),
        job: job.map(str::to_owned),
    });
}

fn not_ready(status: &mut RepositoryStatus, condition: (&str, &str), now: Timestamp) {
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, READY, false, condition, generation, now);
}

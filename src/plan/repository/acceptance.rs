//! The identity of a Repository: it stays the repository which it was first opened with, unless a user accepts another
//! one by an annotation.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use crate::{
    api::{ACCEPT_NEW, ACCEPT_REPOSITORY, Repository, RepositoryReference, RepositoryStatus},
    model::{Reason, RunReport, TaskKind},
    plan::jobs::task_of,
};

/// Hex digits of a repository's id.
const ID_DIGITS: usize = 64;

/// Whether a value of the annotation [`ACCEPT_REPOSITORY`] is valid.
pub fn is_acceptance(value: &str) -> bool {
    value == ACCEPT_NEW || is_id(value)
}

fn is_id(value: &str) -> bool {
    value.len() == ID_DIGITS && value.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The repositories which a Repository may open.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Acceptance {
    /// The id which the Repository was opened with; `None` if it never was.
    known: Option<String>,
    /// The annotation's value, if it is valid.
    value: Option<String>,
    /// Whether the annotation had the same value when the repository was last opened.
    is_used: bool,
}

impl Acceptance {
    pub(super) fn of(repository: &Repository, status: &RepositoryStatus) -> Self {
        let value = repository.annotations().get(ACCEPT_REPOSITORY).filter(|value| is_acceptance(value)).cloned();
        let is_used = value == status.accepted;
        Self { known: status.repository_id.clone().filter(|id| !id.is_empty()), value, is_used }
    }

    /// The value which the status records once the repository is open.
    pub(super) fn value(&self) -> Option<String> {
        self.value.clone()
    }

    /// Whether a user has changed the annotation since the repository was last opened.
    pub(super) fn has_changed(&self) -> bool {
        !self.is_used && self.known.is_some()
    }

    /// Whether a repository may be created if the store has none. An annotation with an id means that the repository
    /// must exist.
    fn may_create(&self) -> bool {
        match &self.known {
            None => self.accepted_id().is_none(),
            Some(_) => self.value.as_deref() == Some(ACCEPT_NEW) && !self.is_used,
        }
    }

    fn accepted_id(&self) -> Option<&str> {
        self.value.as_deref().filter(|value| *value != ACCEPT_NEW)
    }

    pub(super) fn task(&self) -> TaskKind {
        if self.may_create() {
            TaskKind::Init
        } else {
            TaskKind::Open { accepted: self.accepted_id().map(str::to_owned) }
        }
    }

    /// Whether the Job's task differs from the present one. A Job without a task that can be read does not differ.
    pub(super) fn differs_from(&self, job: &Job) -> bool {
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let (given, own) = (pod.and_then(task_of), serde_json::to_value(self.task()).ok());
        given.and_then(|task| task.get("kind").cloned()).is_some_and(|given| own.is_some_and(|own| own != given))
    }

    /// Why the repository which a Job opened is refused, if it is.
    pub(super) fn refuses(&self, report: &RunReport) -> Option<String> {
        let (known, found) = (self.known.as_deref()?, report.repository_id.as_deref()?);
        // A Job which may create a repository does not open an existing one with another id.
        let is_accepted = found == known || self.accepted_id() == Some(found) || self.may_create();
        (!is_accepted).then(|| format!("the repository has the id {found}, but it had the id {known} when last opened"))
    }
}

/// The report of a run in this Repository; see [`explain`].
pub(in crate::plan) fn with_acceptance(
    repositories: &[Repository],
    used: Option<&RepositoryReference>,
    report: RunReport,
) -> RunReport {
    let is_used = |repository: &&Repository| used.is_some_and(|used| used.name == repository.name_any());
    match repositories.iter().find(is_used).and_then(|used| Some((used, used.status.as_ref()?))) {
        Some((used, status)) => RunReport { message: explain(used, status, report.reason, &report.message), ..report },
        None => report,
    }
}

/// A failure's message, with what a user can do if the store no longer has the repository which it had.
pub(in crate::plan) fn explain(
    repository: &Repository,
    status: &RepositoryStatus,
    reason: Reason,
    message: &str,
) -> String {
    let Some(known) = &status.repository_id else { return message.to_owned() };
    let name = repository.name_any();
    // kubectl changes no annotation that has a value, and a value that was used has no second effect.
    let is_pending = reason == Reason::RepositoryNotFound && Acceptance::of(repository, status).may_create();
    let remove = match repository.annotations().get(ACCEPT_REPOSITORY) {
        Some(_) if !is_pending => format!(
            "remove the present annotation, which has no effect any more, by \
             `kubectl annotate repository {name} {ACCEPT_REPOSITORY}-`, and when status.accepted is removed, too, "
        ),
        _ => String::new(),
    };
    let next = match reason {
        Reason::RepositoryNotFound => format!(
            "it was the repository {known}; to accept that all of its snapshots are lost, and start with a new, empty \
             repository, {remove}run `kubectl annotate repository {name} {ACCEPT_REPOSITORY}={ACCEPT_NEW}`"
        ),
        Reason::RepositoryChanged => format!(
            "recover the repository {known}, or fix the spec; to accept the repository which is there now, {remove}run \
             `kubectl annotate repository {name} {ACCEPT_REPOSITORY}=ID` with its id"
        ),
        _ => return message.to_owned(),
    };
    format!("{message}; {next}")
}

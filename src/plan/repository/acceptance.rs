//! Which repository a Repository may be: the one that it was opened with, and another one only if a person accepts that.
//!
//! Pure. It must not know how a repository is opened.

use kube::ResourceExt;

use crate::{
    api::{ACCEPT_NEW, ACCEPT_REPOSITORY, Repository, RepositoryStatus},
    model::{Reason, SourceReport, TaskKind},
};

/// Hex digits of a repository's id.
const ID_DIGITS: usize = 64;

/// Whether a value of the annotation [`ACCEPT_REPOSITORY`] means anything.
pub fn is_acceptance(value: &str) -> bool {
    value == ACCEPT_NEW || is_id(value)
}

fn is_id(value: &str) -> bool {
    value.len() == ID_DIGITS && value.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// What may be opened.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Acceptance {
    /// The id that it was opened with; none if it never was.
    known: Option<String>,
    /// The annotation's value, if it means anything.
    value: Option<String>,
    /// Whether the annotation was there when the repository was last opened.
    is_used: bool,
}

impl Acceptance {
    pub(super) fn of(repository: &Repository, status: &RepositoryStatus) -> Self {
        let value = repository.annotations().get(ACCEPT_REPOSITORY).filter(|value| is_acceptance(value)).cloned();
        let is_used = value == status.accepted;
        Self { known: status.repository_id.clone().filter(|id| !id.is_empty()), value, is_used }
    }

    /// What the status keeps of it once the repository is open.
    pub(super) fn value(&self) -> Option<String> {
        self.value.clone()
    }

    /// Whether a person has set or removed the annotation since the repository was last opened.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_used && self.known.is_some()
    }

    /// Whether a new repository may be created where there is none. Where the annotation names an id, one of that id is there.
    fn may_create(&self) -> bool {
        match &self.known {
            None => self.accepted_id().is_none(),
            Some(_) => self.value.as_deref() == Some(ACCEPT_NEW) && !self.is_used,
        }
    }

    fn accepted_id(&self) -> Option<&str> {
        self.value.as_deref().filter(|value| *value != ACCEPT_NEW)
    }

    /// What the Job is to do.
    pub(super) fn task(&self) -> TaskKind {
        if self.may_create() {
            TaskKind::Init
        } else {
            TaskKind::Open { accepted: self.accepted_id().map(str::to_owned) }
        }
    }

    /// Why a repository that was opened is not taken for this one, if it is not.
    pub(super) fn refuses(&self, report: &SourceReport) -> Option<String> {
        let (known, found) = (self.known.as_deref()?, report.repository_id.as_deref()?);
        // A Job that may create opens no other one that is there.
        let is_one_of_them = found == known || self.accepted_id() == Some(found) || self.may_create();
        (!is_one_of_them)
            .then(|| format!("the repository has the id {found}, and was opened with the id {known} before"))
    }
}

/// A failure's message, with what a person can do where the repository is not the one that it was.
pub(super) fn explain(repository: &Repository, status: &RepositoryStatus, reason: Reason, message: &str) -> String {
    let Some(known) = &status.repository_id else { return message.to_owned() };
    let name = repository.name_any();
    let next = match reason {
        Reason::RepositoryNotFound => format!(
            "it was the repository {known} before, and nothing was created in its place: bring it back, or mend the spec; to \
             begin with a new, empty one, run `kubectl annotate repository {name} {ACCEPT_REPOSITORY}={ACCEPT_NEW}`"
        ),
        Reason::RepositoryChanged => format!(
            "bring the repository {known} back, or mend the spec; to accept the one that is there, run \
             `kubectl annotate repository {name} {ACCEPT_REPOSITORY}=ID` with its id"
        ),
        _ => return message.to_owned(),
    };
    format!("{message}; {next}")
}

//! The choice of the Repository which a run or an injected container uses, and whether it is ready. Runs and injection
//! share this rule.

use kube::ResourceExt;

use crate::{
    annotations::{KeyId, own_key},
    api::{self, READY, Repository, RepositoryReference},
    model::Reason,
};

/// Why a run cannot start now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Blocked {
    /// The machine-readable cause.
    pub reason: String,
    /// The cause for a user.
    pub message: String,
}

impl Blocked {
    pub(super) fn new(reason: Reason, message: String) -> Self {
        Self { reason: reason.to_string(), message }
    }
}

/// Why no Repository was chosen.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChoiceError {
    /// No Repository has this name.
    #[error("there is no Repository {name} in this namespace, {}", of(.known))]
    Unknown {
        name: String,
        /// The names of the namespace's Repositories, sorted.
        known: Vec<String>,
    },
    /// The namespace has no Repository.
    #[error("there is no Repository in this namespace; create one")]
    None,
    /// No name was given, none of several Repositories is the default one, and none was created in a cluster yet.
    #[error(
        "no Repository is named, and there are several: {}; name one, or annotate one with {}: \"true\"",
        .0.join(", "), api::IS_DEFAULT
    )]
    NoDefault(Vec<String>),
    /// No name was given, and several Repositories are annotated as the default one.
    #[error(
        "no Repository is named, and several are annotated with {key}: {}; remove the annotation from all but one \
         (kubectl annotate repositories.stowaway.dev NAME {key}-), or name one",
        .0.join(", "), key = api::IS_DEFAULT
    )]
    SeveralDefaults(Vec<String>),
}

/// The part of a message about a missing Repository that names the existing Repositories.
fn of(known: &[String]) -> String {
    match known {
        [] => "which has none".to_owned(),
        known => format!("which has {}", known.join(", ")),
    }
}

/// Chooses the Repository of this name, else the default one, else the oldest one. `repositories` are those of one
/// namespace.
///
/// The oldest one is chosen so that a second Repository, created by any user, does not take over the sources of the
/// first one. The API server sets the creation time, and no author can change it. Of Repositories which were created in
/// the same second, such as by one `kubectl apply`, the one whose name comes first is chosen.
///
/// # Errors
/// If the choice is ambiguous or there is no such Repository.
pub fn choose_repository<'a>(
    repositories: impl IntoIterator<Item = &'a Repository>,
    name: Option<&str>,
) -> Result<&'a Repository, ChoiceError> {
    // Sorted, so that neither the choice nor the error message depends on the order of the caller's list.
    let mut repositories: Vec<&Repository> = repositories.into_iter().collect();
    repositories.sort_by_key(|repository| repository.name_any());
    let is_default =
        |repository: &&Repository| repository.annotations().get(api::IS_DEFAULT).is_some_and(|value| value == "true");
    let defaults: Vec<&Repository> = repositories.iter().copied().filter(is_default).collect();
    let names = |repositories: &[&Repository]| repositories.iter().map(|repository| repository.name_any()).collect();
    if let Some(name) = name {
        let found = repositories.iter().find(|repository| repository.name_any() == name);
        let unknown = || ChoiceError::Unknown { name: name.to_owned(), known: names(&repositories) };
        return found.copied().ok_or_else(unknown);
    }
    match (defaults.as_slice(), repositories.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        ([], []) => Err(ChoiceError::None),
        ([], several) => oldest(several).ok_or_else(|| ChoiceError::NoDefault(names(several))),
        (several, _) => Err(ChoiceError::SeveralDefaults(names(several))),
    }
}

/// The oldest Repository, of several the first in the list. Repositories without a creation time were never created in
/// a cluster, so none of them is known to be the oldest.
fn oldest<'a>(repositories: &[&'a Repository]) -> Option<&'a Repository> {
    let created = |repository: &&Repository| repository.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let stored = repositories.iter().copied().filter(|repository| created(repository).is_some());
    stored.min_by_key(created)
}

/// Chooses the Repository of a run whose `spec.repositoryRef` is this name, and checks that it is ready.
pub(super) fn choose<'a>(repositories: &'a [Repository], name: Option<&str>) -> Result<&'a Repository, Blocked> {
    choose_named(repositories, name.map(|name| (name, "spec.repositoryRef")))
}

/// Chooses the Repository of a source, and checks that it is ready: the Repository of its earlier attempt, else the one
/// which the Backup requests, else the one which the pod's annotation names, else the default one.
pub(super) fn choose_for_source<'a>(
    repositories: &'a [Repository],
    (earlier, requested, annotated): (Option<&RepositoryReference>, Option<&RepositoryReference>, Option<&str>),
) -> Result<&'a Repository, Blocked> {
    let annotation = format!("the pod's annotation {}", own_key(KeyId::Repository));
    let named = match (earlier, requested, annotated) {
        (Some(earlier), _, _) => Some((earlier.name.as_str(), "the status of the earlier attempt")),
        (None, Some(requested), _) => Some((requested.name.as_str(), "spec.repositoryRef")),
        (None, None, annotated) => annotated.map(|name| (name, annotation.as_str())),
    };
    choose_named(repositories, named)
}

/// Chooses the Repository of this name, and checks that it is ready. The second text describes where the name is set.
fn choose_named<'a>(repositories: &'a [Repository], named: Option<(&str, &str)>) -> Result<&'a Repository, Blocked> {
    let repository = choose_repository(repositories, named.map(|(name, _)| name)).map_err(|error| {
        let (reason, next) = match (&error, named) {
            (ChoiceError::Unknown { .. }, Some((_, setting))) => {
                (Reason::RepositoryNotFound, format!(", and {setting} names it; create it, or name another one"))
            }
            (ChoiceError::Unknown { .. } | ChoiceError::None, _) => (Reason::RepositoryNotFound, String::new()),
            (ChoiceError::NoDefault(_) | ChoiceError::SeveralDefaults(_), _) => (Reason::InvalidRequest, String::new()),
        };
        Blocked::new(reason, format!("{error}{next}"))
    })?;
    ready(repository)?;
    Ok(repository)
}

fn ready(repository: &Repository) -> Result<(), Blocked> {
    let name = repository.name_any();
    let status =
        repository.status.as_ref().filter(|status| status.observed_generation == repository.metadata.generation);
    let condition = status.and_then(|status| api::condition(&status.conditions, READY));
    match condition {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(Blocked {
            reason: condition.reason.clone(),
            message: format!("Repository {name} is not ready: {}", condition.message),
        }),
        None => Err(Blocked {
            reason: super::repository::OPENING.to_owned(),
            message: format!("Repository {name} has not been opened yet"),
        }),
    }
}

/// Whether a Repository which names a claim as its volume stores a repository in it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Holding {
    /// All attempts to open the Repository have failed.
    NeverOpened,
    /// The first attempt is running.
    Opening,
    /// The Repository is open, or has been open before.
    Opened,
}

/// The Repository which names that claim as its volume. If several do, the one with the greatest [`Holding`].
pub(super) fn repository_on<'a>(repositories: &'a [Repository], claim: &str) -> Option<(&'a Repository, Holding)> {
    let named = repositories.iter().filter(|repository| {
        let volume = repository.spec.volume.as_ref();
        volume.and_then(|volume| volume.persistent_volume_claim.as_ref()).is_some_and(|held| held.claim_name == claim)
    });
    named.map(|repository| (repository, holding(repository))).max_by_key(|(_, holding)| *holding)
}

fn holding(repository: &Repository) -> Holding {
    let Some(status) = repository.status.as_ref() else { return Holding::Opening };
    let condition = api::condition(&status.conditions, READY);
    match condition {
        _ if status.repository_id.is_some() => Holding::Opened,
        Some(condition) if condition.status == "True" => Holding::Opened,
        // Only the first attempt; a later attempt means that an earlier one failed.
        None => Holding::Opening,
        Some(condition) if condition.reason == super::repository::OPENING && status.attempt <= 1 => Holding::Opening,
        Some(_) => Holding::NeverOpened,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::{
        api::RepositoryKind,
        plan::fixtures::{at, new_repository},
    };

    /// A Repository of this age, marked as the default one or not.
    fn repository(name: &str, created: i64, is_default: bool) -> Repository {
        let mut repository = new_repository(name);
        repository.metadata.creation_timestamp = Some(Time(at(created)));
        if is_default {
            repository.annotations_mut().insert(api::IS_DEFAULT.into(), "true".into());
        }
        repository
    }

    fn chosen(repositories: &[Repository], name: Option<&str>) -> Result<String, ChoiceError> {
        choose_repository(repositories, name).map(ResourceExt::name_any)
    }

    #[test]
    fn newer_repository_does_not_replace_the_oldest_one_as_the_choice() {
        let old = repository("old", 0, false);
        for newcomer in ["a-new", "z-new"] {
            for both in [[old.clone(), repository(newcomer, 1, false)], [repository(newcomer, 1, false), old.clone()]] {
                assert_eq!(chosen(&both, None), Ok("old".to_owned()));
                assert_eq!(chosen(&both, Some(newcomer)), Ok(newcomer.to_owned()));
            }
        }
        let marked = [old, repository("new", 1, true), repository("newest", 2, false)];
        assert_eq!(chosen(&marked, None), Ok("new".to_owned()), "the annotation decides");
    }

    #[test]
    fn first_by_name_of_the_oldest_repositories_is_chosen() {
        let equal = [repository("b", 1, false), repository("c", 1, false), repository("a", 2, false)];
        assert_eq!(chosen(&equal, None), Ok("b".to_owned()));
        let reversed: Vec<Repository> = equal.iter().rev().cloned().collect();
        assert_eq!(chosen(&reversed, None), Ok("b".to_owned()));
        let with_unstored = [new_repository("a"), repository("b", 1, false)];
        assert_eq!(chosen(&with_unstored, None), Ok("b".to_owned()), "a Repository without a creation time is newer");
    }

    #[test]
    fn missing_repository_is_named_together_with_those_that_exist() {
        let message = |repositories: &[Repository]| chosen(repositories, Some("mian")).unwrap_err().to_string();
        let there = [repository("main", 0, false), repository("archive", 1, false)];
        assert_eq!(message(&there), "there is no Repository mian in this namespace, which has archive, main");
        assert_eq!(message(&[]), "there is no Repository mian in this namespace, which has none");
    }

    #[test]
    fn run_whose_repository_is_missing_has_a_fitting_reason_and_the_setting_that_names_it() {
        let there = [repository("main", 0, false)];
        let reference = RepositoryReference { kind: RepositoryKind::Repository, name: "mian".to_owned() };
        for (named, setting) in [
            ((None, None, Some("mian")), "stowaway.dev/repository names it"),
            ((None, Some(&reference), None), "spec.repositoryRef names it"),
            ((Some(&reference), None, None), "the earlier attempt names it"),
        ] {
            let blocked = choose_for_source(&there, named).unwrap_err();
            assert_eq!(blocked.reason, "RepositoryNotFound");
            for part in ["no Repository mian", "which has main", setting, "create it"] {
                assert!(blocked.message.contains(part), "{}", blocked.message);
            }
        }
        let none = choose(&[], None).unwrap_err();
        assert_eq!((none.reason.as_str(), none.message.ends_with("create one")), ("RepositoryNotFound", true));
        let several = [repository("b", 0, true), repository("a", 1, true)];
        assert_eq!(choose(&several, None).unwrap_err().reason, "InvalidRequest");
    }

    #[test]
    fn repositories_without_an_age_and_several_defaults_are_refused_with_what_to_do() {
        let defaults = [repository("b", 0, true), repository("a", 1, true)];
        let message = chosen(&defaults, None).unwrap_err().to_string();
        assert!(message.contains("a, b") && message.contains("kubectl annotate"), "{message}");
        assert_eq!(chosen(&defaults, Some("b")), Ok("b".to_owned()), "a named Repository is not affected");
        let unstored = chosen(&[new_repository("y"), new_repository("x")], None);
        assert_eq!(unstored.unwrap_err(), ChoiceError::NoDefault(vec!["x".into(), "y".into()]));
    }
}

//! The choice of the Repository which a run or an injected container uses, and whether it is ready. Runs and injection
//! share this rule.

use kube::ResourceExt;

use crate::{
    api::{self, READY, Repository},
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
    #[error("there is no Repository {0} in this namespace")]
    Unknown(String),
    /// The namespace has no Repository.
    #[error("there is no Repository in this namespace; create one")]
    None,
    /// No name was given, and none of several Repositories is the default one.
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

/// Chooses the Repository of this name, else the default one, else the oldest one. `repositories` are those of one
/// namespace.
///
/// The oldest one is chosen so that a second Repository, created by any user, does not take over the sources of the
/// first one. The API server sets the creation time, and no author can change it. Two Repositories of the same second
/// cannot be ordered, so neither is chosen.
///
/// # Errors
/// If the choice is ambiguous or there is no such Repository.
pub fn choose_repository<'a>(
    repositories: impl IntoIterator<Item = &'a Repository>,
    name: Option<&str>,
) -> Result<&'a Repository, ChoiceError> {
    let mut repositories = repositories.into_iter();
    if let Some(name) = name {
        let found = repositories.find(|repository| repository.name_any() == name);
        return found.ok_or_else(|| ChoiceError::Unknown(name.to_owned()));
    }
    // Sorted, so that the error message does not depend on the order of the caller's list.
    let mut repositories: Vec<&Repository> = repositories.collect();
    repositories.sort_by_key(|repository| repository.name_any());
    let is_default =
        |repository: &&Repository| repository.annotations().get(api::IS_DEFAULT).is_some_and(|value| value == "true");
    let defaults: Vec<&Repository> = repositories.iter().copied().filter(is_default).collect();
    let names = |repositories: &[&Repository]| repositories.iter().map(|repository| repository.name_any()).collect();
    match (defaults.as_slice(), repositories.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        ([], []) => Err(ChoiceError::None),
        ([], several) => oldest(several).ok_or_else(|| ChoiceError::NoDefault(names(several))),
        (several, _) => Err(ChoiceError::SeveralDefaults(names(several))),
    }
}

/// The only Repository which is older than all others. A Repository without a creation time was never stored and counts
/// as the newest.
fn oldest<'a>(repositories: &[&'a Repository]) -> Option<&'a Repository> {
    let created = |repository: &&Repository| {
        let time = repository.metadata.creation_timestamp.as_ref();
        (time.is_none(), time.map(|time| time.0))
    };
    let first = repositories.iter().map(created).min()?;
    let mut oldest = repositories.iter().filter(|repository| created(repository) == first);
    match (oldest.next(), oldest.next()) {
        (Some(one), None) => Some(*one),
        _ => None,
    }
}

/// Chooses a Repository, and checks that it is ready.
pub(super) fn choose<'a>(repositories: &'a [Repository], name: Option<&str>) -> Result<&'a Repository, Blocked> {
    let repository = choose_repository(repositories, name)
        .map_err(|error| Blocked::new(Reason::InvalidRequest, error.to_string()))?;
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
    use crate::plan::fixtures::{at, new_repository};

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
    fn repositories_of_one_age_and_several_defaults_are_refused_with_what_to_do() {
        let equal = [repository("b", 0, false), repository("a", 0, false), repository("c", 1, false)];
        let error = chosen(&equal, None).unwrap_err();
        assert_eq!(error, ChoiceError::NoDefault(vec!["a".into(), "b".into(), "c".into()]));
        let defaults = [repository("b", 0, true), repository("a", 1, true)];
        let message = chosen(&defaults, None).unwrap_err().to_string();
        assert!(message.contains("a, b") && message.contains("kubectl annotate"), "{message}");
        assert_eq!(chosen(&defaults, Some("b")), Ok("b".to_owned()), "a named Repository is not affected");
        assert!(
            chosen(&[new_repository("x"), new_repository("y")], None).is_err(),
            "Repositories without a creation time"
        );
    }
}

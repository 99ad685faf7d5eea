//! Which Repository is meant, and whether it can be used now.
//!
//! One rule for whoever uses one: runs, and what is injected into pods. It must not know how long anybody waits for it.

use kube::ResourceExt;

use crate::{
    api::{self, READY, Repository},
    model::Reason,
};

/// What stands in the way of a run, for the time being.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Obstacle {
    /// The machine-readable cause.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

impl Obstacle {
    pub(super) fn new(reason: Reason, message: String) -> Self {
        Self { reason: reason.to_string(), message }
    }
}

/// Why it is not known which Repository is meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChoiceError {
    /// None has this name.
    #[error("there is no Repository {0} in this namespace")]
    Unknown(String),
    /// There is none at all.
    #[error("there is no Repository in this namespace; create one")]
    None,
    /// No name was given, and none of several is the default one.
    #[error(
        "no Repository is named, and there are several: {}; name one, or annotate one with {}: \"true\"",
        .0.join(", "), api::IS_DEFAULT
    )]
    NoDefault(Vec<String>),
    /// No name was given, and several say that they are the default one.
    #[error(
        "no Repository is named, and several are annotated with {key}: {}; remove the annotation from all but one \
         (kubectl annotate repositories.stowaway.dev NAME {key}-), or name one",
        .0.join(", "), key = api::IS_DEFAULT
    )]
    SeveralDefaults(Vec<String>),
}

/// The Repository of this name, else the default one, else the oldest one; of those of one namespace.
///
/// The oldest, so that a second Repository takes nothing away from the first one, whoever creates it: the API server sets the
/// time of creation, and no author can. Two of the same second cannot be ordered, and none of them is meant.
///
/// # Errors
/// When none is meant for certain.
pub fn choose_repository<'a>(
    repositories: impl IntoIterator<Item = &'a Repository>,
    name: Option<&str>,
) -> Result<&'a Repository, ChoiceError> {
    let mut repositories = repositories.into_iter();
    if let Some(name) = name {
        let found = repositories.find(|repository| repository.name_any() == name);
        return found.ok_or_else(|| ChoiceError::Unknown(name.to_owned()));
    }
    // Whoever lists them, and in whichever order: the words are the same.
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

/// The one that was there before all others; one without a time was never stored.
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

/// The Repository that is meant, if it is ready.
pub(super) fn choose<'a>(repositories: &'a [Repository], name: Option<&str>) -> Result<&'a Repository, Obstacle> {
    let repository = choose_repository(repositories, name)
        .map_err(|error| Obstacle::new(Reason::InvalidRequest, error.to_string()))?;
    ready(repository)?;
    Ok(repository)
}

fn ready(repository: &Repository) -> Result<(), Obstacle> {
    let name = repository.name_any();
    let status =
        repository.status.as_ref().filter(|status| status.observed_generation == repository.metadata.generation);
    let condition = status.and_then(|status| api::condition(&status.conditions, READY));
    match condition {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(Obstacle {
            reason: condition.reason.clone(),
            message: format!("Repository {name} is not ready: {}", condition.message),
        }),
        None => Err(Obstacle {
            reason: super::repository::OPENING.to_owned(),
            message: format!("Repository {name} was not opened yet"),
        }),
    }
}

/// Whether a Repository that names a claim holds it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Holding {
    /// It could not be opened, and never was.
    NeverOpened,
    /// It is being opened for the first time.
    Opening,
    /// It is open, or was.
    Opened,
}

/// The Repository that names that claim as its volume, if there is one; of several the one that holds it.
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
        // The first attempt; one that is repeated has failed before.
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
    fn newcomer_does_not_unseat_the_repository_that_was_there() {
        let old = repository("old", 0, false);
        for newcomer in ["a-new", "z-new"] {
            for both in [[old.clone(), repository(newcomer, 1, false)], [repository(newcomer, 1, false), old.clone()]] {
                assert_eq!(chosen(&both, None), Ok("old".to_owned()));
                assert_eq!(chosen(&both, Some(newcomer)), Ok(newcomer.to_owned()));
            }
        }
        let marked = [old, repository("new", 1, true), repository("newest", 2, false)];
        assert_eq!(chosen(&marked, None), Ok("new".to_owned()), "a mark is a decision");
    }

    #[test]
    fn repositories_of_one_age_and_several_defaults_are_refused_with_what_to_do() {
        let equal = [repository("b", 0, false), repository("a", 0, false), repository("c", 1, false)];
        let error = chosen(&equal, None).unwrap_err();
        assert_eq!(error, ChoiceError::NoDefault(vec!["a".into(), "b".into(), "c".into()]));
        let defaults = [repository("b", 0, true), repository("a", 1, true)];
        let message = chosen(&defaults, None).unwrap_err().to_string();
        assert!(message.contains("a, b") && message.contains("kubectl annotate"), "{message}");
        assert_eq!(chosen(&defaults, Some("b")), Ok("b".to_owned()), "who names one is not affected");
        assert!(chosen(&[new_repository("x"), new_repository("y")], None).is_err(), "ages that are not known");
    }
}

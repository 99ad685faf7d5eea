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
        "no Repository is named, and several are annotated with {}: {}; leave it on one",
        api::IS_DEFAULT, .0.join(", ")
    )]
    SeveralDefaults(Vec<String>),
}

/// The Repository of this name, else the default one, else the only one; of those of one namespace.
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
        ([], several) => Err(ChoiceError::NoDefault(names(several))),
        (several, _) => Err(ChoiceError::SeveralDefaults(names(several))),
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
/// The Repository whose data is on that claim, if there is one.
pub(super) fn repository_on<'a>(repositories: &'a [Repository], claim: &str) -> Option<&'a Repository> {
    repositories.iter().find(|repository| {
        let volume = repository.spec.volume.as_ref();
        volume.and_then(|volume| volume.persistent_volume_claim.as_ref()).is_some_and(|held| held.claim_name == claim)
    })
}

//! Which Repository a run uses, and whether it can be used now.
//!
//! It must not know how long anybody waits for it.

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

/// The Repository of this name, or the namespace's default one, if it is ready.
pub(super) fn choose<'a>(repositories: &'a [Repository], name: Option<&str>) -> Result<&'a Repository, Obstacle> {
    let refused = |message: String| Obstacle::new(Reason::InvalidRequest, message);
    let repository = match name {
        Some(name) => repositories
            .iter()
            .find(|repository| repository.name_any() == name)
            .ok_or_else(|| refused(format!("there is no Repository {name} in this namespace")))?,
        None => default(repositories).map_err(refused)?,
    };
    ready(repository)?;
    Ok(repository)
}

fn default(repositories: &[Repository]) -> Result<&Repository, String> {
    let is_default =
        |repository: &&Repository| repository.annotations().get(api::IS_DEFAULT).is_some_and(|value| value == "true");
    let defaults: Vec<&Repository> = repositories.iter().filter(is_default).collect();
    let names = |repositories: &[&Repository]| {
        repositories.iter().map(|repository| repository.name_any()).collect::<Vec<_>>().join(", ")
    };
    match (defaults.as_slice(), repositories) {
        ([one], _) => Ok(one),
        ([], [only]) => Ok(only),
        ([], []) => Err("there is no Repository in this namespace; create one".to_owned()),
        ([], several) => Err(format!(
            "no Repository is named, and there are several: {}; name one, or annotate one with {}: \"true\"",
            names(&several.iter().collect::<Vec<_>>()),
            api::IS_DEFAULT
        )),
        (several, _) => Err(format!(
            "no Repository is named, and several are annotated with {}: {}; leave it on one",
            api::IS_DEFAULT,
            names(several)
        )),
    }
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

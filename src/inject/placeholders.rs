//! Assumptions about the Repositories of a cluster, for explaining an injection where no cluster can be queried.

use kube::{ResourceExt, api::ObjectMeta};

use super::InjectionFacts;
use crate::{
    api::{
        PasswordSecretReference, Repository, RepositorySpec, RepositoryStatus, S3Backend, S3Credentials,
        SecretKeyReference,
    },
    plan::{ChoiceError, choose_repository},
};

/// The name of the placeholder for a Repository which the pod does not name.
const UNNAMED: &str = "(the default one)";

/// The known Repositories with placeholders for the missing ones, and a description of what was assumed.
pub(super) struct Placeholder {
    /// All Repositories of the namespace, with assumed ones.
    pub repositories: Vec<Repository>,
    /// A description of the assumption about the pod's Repository; none when everything is known.
    pub assumption: Option<String>,
}

/// Adds what `facts` do not contain about the Repository that the pod uses.
pub(super) fn assume(facts: &InjectionFacts<'_>, name: Option<&str>) -> Placeholder {
    let namespace = facts.namespace;
    let of_namespace = |one: &&Repository| one.metadata.namespace.as_deref() == Some(namespace);
    let mut repositories: Vec<Repository> = facts.repositories.iter().filter(of_namespace).cloned().collect();
    let assumption = match choose_repository(&repositories, name) {
        Ok(repository) => {
            let is_assumed = repository.spec.volume.is_some() && !was_opened(repository);
            is_assumed.then(|| format!("Repository {} is ready when the pod is created", repository.name_any()))
        }
        Err(ChoiceError::Unknown { name, .. }) => {
            repositories.push(placeholder(namespace, &name));
            Some(format!("there is a Repository {name} in namespace {namespace} when the pod is created"))
        }
        Err(ChoiceError::None) => {
            repositories.push(placeholder(namespace, UNNAMED));
            Some(format!("there is one Repository, or a default one, in namespace {namespace} when the pod is created"))
        }
        // A cluster would report the same error.
        Err(ChoiceError::NoDefault(_) | ChoiceError::SeveralDefaults(_)) => None,
    };
    for repository in repositories.iter_mut().filter(|repository| !was_opened(repository)) {
        repository.status.get_or_insert_with(RepositoryStatus::default).repository_id = Some(String::new());
    }
    Placeholder { repositories, assumption }
}

fn was_opened(repository: &Repository) -> bool {
    repository.status.as_ref().is_some_and(|status| status.repository_id.is_some())
}

/// A Repository of which only the name is known.
fn placeholder(namespace: &str, name: &str) -> Repository {
    let secret = |key: &str| SecretKeyReference { name: "<Secret>".to_owned(), key: format!("<{key}>") };
    let spec = RepositorySpec {
        s3: Some(S3Backend {
            endpoint: "<endpoint>".to_owned(),
            bucket: "<bucket>".to_owned(),
            prefix: String::new(),
            region: Some("<region>".to_owned()),
            path_style: true,
            credentials: Some(S3Credentials {
                access_key_id_secret_ref: secret("access key id"),
                secret_access_key_secret_ref: secret("secret access key"),
                session_token_secret_ref: None,
            }),
        }),
        azure: None,
        gcs: None,
        rest: None,
        sftp: None,
        volume: None,
        tls: None,
        limits: None,
        password_secret_ref: PasswordSecretReference {
            name: "<Secret>".to_owned(),
            key: "<password>".to_owned(),
            create_if_not_exists: false,
        },
        retention: None,
        prune: None,
        check: None,
        time_zone: None,
        runner_pod: None,
    };
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    Repository { metadata, spec, status: None }
}

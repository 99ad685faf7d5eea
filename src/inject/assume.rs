//! What has to be in the cluster for a pod to be injected, where no cluster can be asked.
//!
//! It must not know the pod beyond which Repository it names.

use kube::{ResourceExt, api::ObjectMeta};

use super::InjectionFacts;
use crate::{
    api::{
        PasswordSecretReference, Repository, RepositorySpec, RepositoryStatus, S3Backend, S3Credentials,
        SecretKeyReference,
    },
    plan::{ChoiceError, choose_repository},
};

/// Stands for the name of a Repository that nobody named.
const UNNAMED: &str = "(the default one)";

/// Repositories with those that are taken for granted, and in words what is taken for granted of the one that is meant.
pub(super) struct Assumption {
    /// All Repositories of the namespace, as they are hoped to be.
    pub repositories: Vec<Repository>,
    /// What is hoped; none when all of it is known.
    pub words: Option<String>,
}

/// Takes for granted what `facts` do not say of the Repository that is meant.
pub(super) fn assume(facts: &InjectionFacts<'_>, name: Option<&str>) -> Assumption {
    let namespace = facts.namespace;
    let of_namespace = |one: &&Repository| one.metadata.namespace.as_deref() == Some(namespace);
    let mut repositories: Vec<Repository> = facts.repositories.iter().filter(of_namespace).cloned().collect();
    let words = match choose_repository(&repositories, name) {
        Ok(repository) => {
            let is_hoped = repository.spec.volume.is_some() && !was_opened(repository);
            is_hoped.then(|| format!("Repository {} is ready when the pod is made", repository.name_any()))
        }
        Err(ChoiceError::Unknown(name)) => {
            repositories.push(stand_in(namespace, &name));
            Some(format!("there is a Repository {name} in namespace {namespace} when the pod is made"))
        }
        Err(ChoiceError::None) => {
            repositories.push(stand_in(namespace, UNNAMED));
            Some(format!("there is one Repository, or a default one, in namespace {namespace} when the pod is made"))
        }
        // That will not be better in the cluster.
        Err(ChoiceError::NoDefault(_) | ChoiceError::SeveralDefaults(_)) => None,
    };
    for repository in repositories.iter_mut().filter(|repository| !was_opened(repository)) {
        repository.status.get_or_insert_with(RepositoryStatus::default).repository_id = Some(String::new());
    }
    Assumption { repositories, words }
}

fn was_opened(repository: &Repository) -> bool {
    repository.status.as_ref().is_some_and(|status| status.repository_id.is_some())
}

/// A Repository of which nothing but the name is known.
fn stand_in(namespace: &str, name: &str) -> Repository {
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

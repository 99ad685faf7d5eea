//! Describes the store of the pod's Repository for the sidecar and the restore step: a volume with the Secrets which
//! the Repository names, and the location of the repository. No Secret is read: Secrets are referred to by name, and
//! the kubelet resolves them. The files have the same paths as in the pod of a run, so that code which opens a
//! repository reads them from one location.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    InjectionFacts, NON_ROOT,
    containers::READABLE,
    outcome::{Cause, Finding},
};
use crate::{
    annotations::{KeyId, own_key},
    api::{
        CredentialSource, Repository, RepositorySpec, RunnerVariable, SecretKeyReference, VariableSource,
        backend_config, connection, credential_sources, repository_secret_sources,
    },
    model::{
        BackendConfig,
        injected::{REPOSITORY_VOLUME, STORE_MOUNT, STORE_VOLUME},
        mounts,
    },
    plan::{ChoiceError, choose_repository},
};

/// The parts of a Repository that containers in a pod need.
#[derive(Debug)]
pub(super) struct Store {
    pub name: String,
    /// A `BackendConfig` as JSON. It contains no secret.
    pub backend: String,
    /// A `Connection` as JSON; none if it has only default values. It contains no secret.
    pub connection: Option<String>,
    /// The objects which the files of `secrets` come from, as JSON.
    pub secret_sources: String,
    /// The id of the cluster; none until the Repository's status contains it.
    pub cluster: Option<String>,
    /// The id of the repository; none until it was opened.
    pub repository_id: Option<String>,
    /// The volume with the Secrets.
    pub secrets: Value,
    /// The volume that the repository is on, if it is on a volume.
    pub volume: Option<Value>,
    /// Additional environment variables of the containers that use the store.
    pub environment: Vec<Value>,
}

impl Store {
    /// The group that owns the files of a repository on a volume, which is the group of the runs.
    pub fn group(&self) -> Option<u64> {
        self.volume.as_ref().map(|_| NON_ROOT)
    }
}

/// The store of the pod's Repository, named or not.
pub(super) fn of_pod(facts: &InjectionFacts<'_>, name: Option<&str>) -> Result<Store, Finding> {
    let found = |cause, message: String| match name {
        Some(_) => Finding::at(cause, own_key(KeyId::Repository), message),
        None => Finding::new(cause, message),
    };
    // A name refers only to the pod's own namespace, even if `facts` contain other Repositories.
    let of_namespace =
        facts.repositories.iter().filter(|one| one.metadata.namespace.as_deref() == Some(facts.namespace));
    let repository = choose_repository(of_namespace, name).map_err(|error| {
        let what_to_do =
            if matches!(error, ChoiceError::Unknown { .. }) { "; create it, or name another one" } else { "" };
        found(Cause::RepositoryNotFound, format!("{error}{what_to_do}"))
    })?;
    store(repository).map_err(|message| found(Cause::RepositoryUnusable, message))
}

fn store(repository: &Repository) -> Result<Store, String> {
    let name = repository.name_any();
    let unusable = || format!("Repository {name} has no usable backend; correct its spec");
    let config = backend_config(&repository.spec).ok_or_else(unusable)?;
    let backend = serde_json::to_string(&config).map_err(|_| unusable())?;
    let connection = Some(connection(&repository.spec)).filter(|connection| !connection.is_plain());
    let connection = connection.map(|connection| serde_json::to_string(&connection)).transpose();
    let connection = connection.map_err(|_| unusable())?;
    let secret_sources = serde_json::to_string(&repository_secret_sources(&repository.spec)).map_err(|_| unusable())?;
    let volume = match (&repository.spec.volume, &config) {
        (Some(volume), BackendConfig::Folder { .. }) => {
            Some(repository_volume(&serde_json::to_value(volume).map_err(|_| unusable())?))
        }
        _ => None,
    };
    // A volume that cannot be mounted, or that Pod Security forbids, would prevent the app from starting. If a run has
    // mounted it in a pod of this namespace before, neither is the case.
    let was_opened = repository.status.as_ref().is_some_and(|status| status.repository_id.is_some());
    if volume.is_some() && !was_opened {
        return Err(format!(
            "Repository {name} is on a volume and was never opened, so it is unknown whether a pod can mount that \
             volume; wait until it is ready"
        ));
    }
    let cluster = repository.status.as_ref().and_then(|status| status.cluster_id.clone());
    let repository_id = repository.status.as_ref().and_then(|status| status.repository_id.clone());
    let repository_id = repository_id.filter(|id| !id.is_empty());
    let (secrets, environment) = (secrets(&repository.spec), environment(&repository.spec));
    Ok(Store { name, backend, connection, secret_sources, cluster, repository_id, secrets, volume, environment })
}

/// The variables of the Repository's `runnerPod`. They are optional, so that a missing Secret or `ConfigMap` does not
/// prevent the app from starting.
fn environment(spec: &RepositorySpec) -> Vec<Value> {
    let variables = spec.runner_pod.iter().flat_map(|pod| &pod.env).filter(|variable| !variable.is_reserved());
    let optional =
        |reference: &SecretKeyReference| json!({ "name": reference.name, "key": reference.key, "optional": true });
    let written = variables.map(|RunnerVariable { name, value, value_from }| {
        let mut written = json!({ "name": name });
        if let Some(VariableSource { secret_key_ref, config_map_key_ref }) = value_from {
            for (field, reference) in [("secretKeyRef", secret_key_ref), ("configMapKeyRef", config_map_key_ref)] {
                if let Some(reference) = reference {
                    written["valueFrom"] = json!({ field: optional(reference) });
                }
            }
        } else if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            written["value"] = value.as_str().into();
        }
        written
    });
    written.collect()
}

/// The Secrets with which the runs of the pod's Repository pull the image, if there is such a Repository.
pub(super) fn pull_secrets(facts: &InjectionFacts<'_>, name: Option<&str>) -> Vec<String> {
    let of_namespace =
        facts.repositories.iter().filter(|one| one.metadata.namespace.as_deref() == Some(facts.namespace));
    let repository = choose_repository(of_namespace, name).ok();
    let secrets = repository.and_then(|repository| repository.spec.runner_pod.as_ref());
    secrets.iter().flat_map(|pod| &pod.image_pull_secrets).map(|secret| secret.name.clone()).collect()
}

/// Password and credentials. All of them are optional for Kubernetes, so that the app starts. The container that needs
/// a missing file reports it. Only these keys are mounted, because other keys of a Secret are not Stowaway's business.
fn secrets(spec: &RepositorySpec) -> Value {
    let source = |kind: &str, name: &str, key: &str, folder: &str, file: &str| {
        let folder = folder.strip_prefix(STORE_MOUNT).unwrap_or(folder).trim_start_matches('/');
        json!({ kind: {
            "name": name,
            "optional": true,
            "items": [{ "key": key, "path": format!("{folder}/{file}") }],
        } })
    };
    let password = &spec.password_secret_ref;
    let mut sources =
        vec![source("secret", &password.name, &password.key, mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE)];
    sources.extend(credential_sources(spec).into_iter().map(|(credential, from, _)| {
        let kind = match from {
            CredentialSource::Secret(_) => "secret",
            CredentialSource::ConfigMap(_) => "configMap",
        };
        let reference = from.reference();
        source(kind, &reference.name, &reference.key, mounts::CREDENTIALS_FOLDER, credential.file())
    }));
    json!({ "name": STORE_VOLUME, "projected": { "defaultMode": READABLE, "sources": sources } })
}

/// The volume in the form of a pod's volume. The spec has the same fields, and a path in addition.
fn repository_volume(spec: &Value) -> Value {
    let kinds = spec.as_object().into_iter().flatten().filter(|(field, _)| *field != "path");
    let mut volume: serde_json::Map<String, Value> =
        kinds.map(|(field, value)| (field.clone(), without_defaults(value))).collect();
    volume.insert("name".into(), REPOSITORY_VOLUME.into());
    volume.into()
}

/// Removes values that Kubernetes omits when it serializes an object, so that a later comparison recognizes the volume.
fn without_defaults(value: &Value) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let is_default = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let kept = fields.iter().filter(|(_, value)| !is_default(value));
    kept.map(|(field, value)| (field.clone(), without_defaults(value))).collect()
}

//! What sidecar and restore step need to open the repository: from the Repository that the pod means to a volume with the
//! very Secrets that it names, and to where it is.
//!
//! It must not know the pod. No Secret is read: they appear by name, and the kubelet resolves them. The files are those that
//! a run's pod has, so that whoever opens the repository looks in one place.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    InjectionFacts, NON_ROOT,
    outcome::{Cause, Finding},
    shapes::READABLE,
};
use crate::{
    annotations::{Role, own_key},
    api::{
        CredentialSource, Repository, RepositorySpec, RunnerVariable, SecretKeyReference, VariableSource,
        backend_config, connection, credential_sources,
    },
    model::{
        BackendConfig,
        injected::{REPOSITORY_VOLUME, STORE_MOUNT, STORE_VOLUME},
        mounts,
    },
    plan::{ChoiceError, choose_repository},
};

/// A Repository, as far as containers in a pod have to know it.
#[derive(Debug)]
pub(super) struct Store {
    /// Its name.
    pub name: String,
    /// A `BackendConfig` as JSON. It holds no secret.
    pub backend: String,
    /// A `Connection` as JSON; none when there is nothing to say. It holds no secret, either.
    pub connection: Option<String>,
    /// The id of the cluster; none as long as the Repository does not say it.
    pub cluster: Option<String>,
    /// The id that the repository has; none as long as it was never opened.
    pub repository_id: Option<String>,
    /// The volume with its Secrets.
    pub secrets: Value,
    /// The volume that it is on, where it is on one.
    pub volume: Option<Value>,
    /// Further environment variables of what uses the store.
    pub environment: Vec<Value>,
}

impl Store {
    /// The group that owns the files of a repository on a volume: that of the runs.
    pub fn group(&self) -> Option<u64> {
        self.volume.as_ref().map(|_| NON_ROOT)
    }
}

/// The store that a pod means, by name or not.
pub(super) fn of_pod(facts: &InjectionFacts<'_>, name: Option<&str>) -> Result<Store, Finding> {
    let found = |cause, message: String| match name {
        Some(_) => Finding::at(cause, own_key(Role::Repository), message),
        None => Finding::new(cause, message),
    };
    // Names of other namespaces mean nothing here, whatever we are given.
    let of_namespace =
        facts.repositories.iter().filter(|one| one.metadata.namespace.as_deref() == Some(facts.namespace));
    let repository = choose_repository(of_namespace, name).map_err(|error| {
        let what_to_do = if matches!(error, ChoiceError::Unknown(_)) { "; create it, or name another one" } else { "" };
        found(Cause::RepositoryNotFound, format!("{error}{what_to_do}"))
    })?;
    store(repository).map_err(|message| found(Cause::RepositoryUnusable, message))
}

fn store(repository: &Repository) -> Result<Store, String> {
    let name = repository.name_any();
    let unusable = || format!("Repository {name} names no backend that could be used; mend its spec");
    let place = backend_config(&repository.spec).ok_or_else(unusable)?;
    let backend = serde_json::to_string(&place).map_err(|_| unusable())?;
    let connection = Some(connection(&repository.spec)).filter(|connection| !connection.is_plain());
    let connection = connection.map(|connection| serde_json::to_string(&connection)).transpose();
    let connection = connection.map_err(|_| unusable())?;
    let volume = match (&repository.spec.volume, &place) {
        (Some(volume), BackendConfig::Folder { .. }) => {
            Some(repository_volume(&serde_json::to_value(volume).map_err(|_| unusable())?))
        }
        _ => None,
    };
    // A volume that cannot be mounted, or that Pod Security forbids, would keep the app from starting. Where a run has had
    // it in a pod of this namespace, both are out of the question.
    let was_opened = repository.status.as_ref().is_some_and(|status| status.repository_id.is_some());
    if volume.is_some() && !was_opened {
        return Err(format!(
            "Repository {name} is on a volume and was never opened, so nobody knows whether a pod can mount that volume; \
             wait until it is ready"
        ));
    }
    let cluster = repository.status.as_ref().and_then(|status| status.cluster_id.clone());
    let repository_id = repository.status.as_ref().and_then(|status| status.repository_id.clone());
    let repository_id = repository_id.filter(|id| !id.is_empty());
    let (secrets, environment) = (secrets(&repository.spec), environment(&repository.spec));
    Ok(Store { name, backend, connection, cluster, repository_id, secrets, volume, environment })
}

/// The variables of the Repository's `runnerPod`. A Secret or `ConfigMap` that is missing does not keep the app from starting.
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

/// The Secrets by which the runs of the Repository that a pod means pull the image, if there is such a Repository.
pub(super) fn pull_secrets(facts: &InjectionFacts<'_>, name: Option<&str>) -> Vec<String> {
    let of_namespace =
        facts.repositories.iter().filter(|one| one.metadata.namespace.as_deref() == Some(facts.namespace));
    let repository = choose_repository(of_namespace, name).ok();
    let secrets = repository.and_then(|repository| repository.spec.runner_pod.as_ref());
    secrets.iter().flat_map(|pod| &pod.image_pull_secrets).map(|secret| secret.name.clone()).collect()
}

/// Password and credentials. All of it is optional for Kubernetes, so that the app starts; whoever needs what is missing
/// says so. Only these keys: what else a Secret holds is not ours to see.
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

/// The volume as a pod has it. The spec's fields are those of a pod's volume, but for the folder.
fn repository_volume(spec: &Value) -> Value {
    let kinds = spec.as_object().into_iter().flatten().filter(|(field, _)| *field != "path");
    let mut volume: serde_json::Map<String, Value> =
        kinds.map(|(field, value)| (field.clone(), without_defaults(value))).collect();
    volume.insert("name".into(), REPOSITORY_VOLUME.into());
    volume.into()
}

/// Without what Kubernetes leaves out when it writes an object, so that what comes back is recognized.
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

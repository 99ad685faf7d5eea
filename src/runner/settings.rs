//! The settings of a run in its pod: the task in the environment, password and credentials in mounted files.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::ErrorKind,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use super::lock_owner;
use crate::{
    model::{
        BackendConfig, Connection, Credential, DamagedPacks, Failure, Reason, SECRET_SOURCES_VARIABLE, Secret,
        SecretKind, SecretSource, SecretSources, StoredPassword, Task, UnusableCredential, injected, mounts,
        unusable_credentials,
    },
    repository::{LockHolder, LockOwnerProbe, LockRules, NoProbe, OpenOptions, RepositoryError, StoreAccess, Timeouts},
};

/// The limit of a wait for a lock. A prune of another client usually ends within this time; a run which has waited for
/// so long fails and is retried. The time is longer than the 7 minutes after which a run which only reads ignores the
/// lock of a dead client.
const LOCK_WAIT: Duration = Duration::from_mins(10);

/// The identity of this run, from the downward API.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the run's own pod.
    pub pod: String,
    /// UID of the run's own pod.
    pub pod_uid: String,
    /// Namespace of the run.
    pub namespace: String,
    /// The cluster's id; empty if it is unknown.
    pub cluster: String,
    /// Finds out whether the holders of locks are alive.
    pub probe: Arc<dyn LockOwnerProbe>,
    /// The ids which the repository may have; empty if any id is accepted.
    pub expected_ids: Vec<String>,
    /// Packs that a check found damaged.
    pub damaged_packs: DamagedPacks,
}

impl Identity {
    /// The identity as the Job's pod template defines it, with defaults outside of a pod.
    pub fn from_environment() -> Self {
        let variable = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        Self {
            pod: variable("POD_NAME", "stowaway"),
            pod_uid: variable("POD_UID", "none"),
            namespace: variable("POD_NAMESPACE", "default"),
            cluster: String::new(),
            probe: Arc::new(NoProbe),
            expected_ids: Vec::new(),
            damaged_packs: DamagedPacks::default(),
        }
    }

    /// Sets the cluster's id.
    #[must_use]
    pub fn in_cluster(self, cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), ..self }
    }

    /// Sets the ids which the repository may have.
    #[must_use]
    pub fn expecting(self, ids: impl IntoIterator<Item = String>) -> Self {
        Self { expected_ids: ids.into_iter().collect(), ..self }
    }

    /// Sets the packs on which the run must not rely.
    #[must_use]
    pub fn distrusting(self, damaged_packs: &DamagedPacks) -> Self {
        Self { damaged_packs: damaged_packs.clone(), ..self }
    }

    /// The holder which the run writes into its locks, so that other clients can query the API server whether its pod
    /// is alive.
    pub fn lock_holder(&self) -> LockHolder {
        lock_owner::signature(&self.pod, &self.pod_uid, &self.namespace, &self.cluster)
    }
}

/// The task which the controller has set in the Job.
pub fn task() -> Result<Task, Failure> {
    let text = env::var(mounts::TASK_VARIABLE).map_err(|_| {
        invalid(format!(
            "the environment variable {} is missing; only the controller creates runs",
            mounts::TASK_VARIABLE
        ))
    })?;
    serde_json::from_str(&text)
        .map_err(|error| invalid(format!("the task in {} cannot be parsed: {error}", mounts::TASK_VARIABLE)))
}

/// The location of the repository, as the webhook has set it in the container.
pub fn backend() -> Result<BackendConfig, Failure> {
    let text = env::var(injected::BACKEND_VARIABLE).map_err(|_| {
        invalid(format!("the environment variable {} is missing; the webhook sets it", injected::BACKEND_VARIABLE))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        invalid(format!("the location of the repository in {} cannot be parsed: {error}", injected::BACKEND_VARIABLE))
    })
}

/// The connection settings of the store, as the webhook has set them in the container.
pub fn connection() -> Result<Connection, Failure> {
    let Ok(text) = env::var(injected::CONNECTION_VARIABLE) else { return Ok(Connection::default()) };
    serde_json::from_str(&text).map_err(|error| {
        invalid(format!("the settings of the store in {} cannot be parsed: {error}", injected::CONNECTION_VARIABLE))
    })
}

/// The cluster's id, as the webhook has set it in the container; empty if the webhook did not know it.
pub fn cluster() -> String {
    env::var(injected::CLUSTER_VARIABLE).unwrap_or_default()
}

/// The id which the repository must have, as the webhook has set it in the container; `None` if the webhook did not
/// know it.
pub fn repository_id() -> Option<String> {
    env::var(injected::REPOSITORY_ID_VARIABLE).ok().filter(|id| !id.is_empty())
}

/// The pod's namespace. It has no default, because with a wrong namespace no snapshot would be found.
pub fn namespace() -> Result<String, Failure> {
    env::var("POD_NAMESPACE")
        .ok()
        .filter(|namespace| !namespace.is_empty())
        .ok_or_else(|| invalid("the environment variable POD_NAMESPACE is missing; the webhook sets it".to_owned()))
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidRequest, message)
}

/// The options which open the repository. The error names all missing Secrets at once.
pub fn access(backend: &BackendConfig, connection: &Connection, identity: &Identity) -> Result<OpenOptions, Failure> {
    let mut files = Files::from_environment();
    let password = files.password();
    let credentials = files.credentials(mounts::CREDENTIALS_FOLDER, connection);
    files.check(&identity.namespace, "the spec of the Repository")?;
    let StoredPassword { password, untrimmed } =
        password.ok_or_else(|| Failure::new(Reason::SecretMissing, "the repository's password is missing"))?;
    Ok(OpenOptions {
        backend: backend.clone(),
        password,
        untrimmed_password: untrimmed,
        connection: connection.clone(),
        credentials,
        holder: identity.lock_holder(),
        locks: LockRules { wait: LOCK_WAIT, probe: Arc::clone(&identity.probe) },
        timeouts: Timeouts::default(),
        expected_ids: identity.expected_ids.clone(),
        damaged_packs: identity.damaged_packs.clone(),
    })
}

/// The options which open the store of an archive. The error names all missing Secrets at once.
pub fn archive_access(
    backend: &BackendConfig,
    connection: &Connection,
    identity: &Identity,
) -> Result<StoreAccess, Failure> {
    let mut files = Files::from_environment();
    let credentials = files.credentials(mounts::ARCHIVE_CREDENTIALS_FOLDER, connection);
    files.check(&identity.namespace, "spec.to.archive of the Restore")?;
    Ok(StoreAccess {
        backend: backend.clone(),
        connection: connection.clone(),
        credentials,
        timeouts: Timeouts::default(),
    })
}

/// The real path of a mount of the pod: below [`mounts::ROOT_VARIABLE`] for a run outside of a pod.
pub fn mounted(path: &str) -> PathBuf {
    let root = env::var_os(mounts::ROOT_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
    root.join(path.trim_start_matches('/'))
}

/// The failure of an operation on a repository. If the store refused the credentials, the message names the Secrets
/// which the credentials come from.
pub fn repository_failure(error: RepositoryError) -> Failure {
    let is_refused = matches!(error, RepositoryError::AccessDenied { .. });
    let failure = Failure::from(error);
    if is_refused { with_secrets(failure, &Files::from_environment().sources) } else { failure }
}

fn with_secrets(failure: Failure, sources: &SecretSources) -> Failure {
    let of_store = sources.iter().filter(|(path, _)| path.starts_with(mounts::CREDENTIALS_FOLDER));
    let secrets = of_store.map(|(_, source)| source).filter(|source| source.kind == SecretKind::Secret);
    let names: BTreeSet<String> = secrets.map(|source| format!("Secret {:?}", source.name)).collect();
    if names.is_empty() {
        return failure;
    }
    let names: Vec<String> = names.into_iter().collect();
    Failure { message: format!("{}; the credentials come from {}", failure.message, names.join(" and ")), ..failure }
}

/// The mounted password and credentials, with the objects which they come from.
struct Files {
    /// Empty if the container was made by a version which did not set them.
    sources: SecretSources,
    present: Vec<String>,
    unusable: Vec<UnusableCredential>,
}

impl Files {
    fn from_environment() -> Self {
        let text = env::var(SECRET_SOURCES_VARIABLE).unwrap_or_default();
        // They are needed for a message only.
        let sources = serde_json::from_str(&text).unwrap_or_default();
        Self { sources, present: Vec::new(), unusable: Vec::new() }
    }

    /// Fails if a credential cannot be used.
    fn check(&self, namespace: &str, names: &str) -> Result<(), Failure> {
        if self.unusable.is_empty() {
            return Ok(());
        }
        let present: Vec<&SecretSource> = self.present.iter().filter_map(|path| self.sources.get(path)).collect();
        let message = unusable_credentials(&self.unusable, &present, (namespace, names));
        Err(Failure::new(Reason::SecretMissing, message))
    }

    fn credentials(&mut self, folder: &str, connection: &Connection) -> BTreeMap<Credential, Secret> {
        let mut found = BTreeMap::new();
        for &credential in &connection.credentials {
            let path = format!("{folder}/{}", credential.file());
            if let Some(secret) = self.read(&path, credential.title()) {
                found.insert(credential, secret);
            }
        }
        found
    }

    /// Reads the password as restic reads it from a file, because that is how a user opens the repository without a
    /// cluster.
    fn password(&mut self) -> Option<StoredPassword> {
        let path = format!("{}/{}", mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE);
        let title = "the repository's password";
        let content = self.content(&path, title)?;
        let why = match StoredPassword::read(&content) {
            None => "neither UTF-8 nor UTF-16 with a byte order mark",
            Some(found) if found.password.expose().is_empty() => "empty",
            Some(found) => {
                self.present.push(path);
                return Some(found);
            }
        };
        self.fail(&path, title, Some(why.to_owned()));
        None
    }

    fn read(&mut self, path: &str, title: &'static str) -> Option<Secret> {
        let content = self.content(path, title)?;
        let why = match std::str::from_utf8(&content).map(|text| text.trim_end_matches(['\r', '\n'])) {
            Ok("") => "empty".to_owned(),
            // Secrets made by `echo` end in a newline.
            Ok(text) => {
                self.present.push(path.to_owned());
                return Some(Secret::new(text.to_owned()));
            }
            Err(error) => format!("not UTF-8 text ({error})"),
        };
        self.fail(path, title, Some(why));
        None
    }

    fn content(&mut self, path: &str, title: &'static str) -> Option<Zeroizing<Vec<u8>>> {
        match std::fs::read(mounted(path)) {
            Ok(content) => return Some(Zeroizing::new(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.fail(path, title, None),
            Err(error) => self.fail(path, title, Some(format!("not readable ({error})"))),
        }
        None
    }

    fn fail(&mut self, path: &str, title: &'static str, why: Option<String>) {
        self.unusable.push(UnusableCredential { title, why, source: self.sources.get(path).cloned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_are_named_by_their_secrets() {
        let source = |kind, name: &str| SecretSource { kind, name: name.to_owned(), key: "k".to_owned() };
        let at = |folder: &str, file: &str| format!("{folder}/{file}");
        let sources = SecretSources::from([
            (at(mounts::CREDENTIALS_FOLDER, "a"), source(SecretKind::Secret, "store")),
            (at(mounts::CREDENTIALS_FOLDER, "b"), source(SecretKind::Secret, "store")),
            (at(mounts::CREDENTIALS_FOLDER, "c"), source(SecretKind::ConfigMap, "authorities")),
            (at(mounts::PASSWORD_FOLDER, mounts::PASSWORD_FILE), source(SecretKind::Secret, "password")),
        ]);
        let refused = || Failure::new(Reason::StoreUnavailable, "status 403");
        assert_eq!(with_secrets(refused(), &sources).message, "status 403; the credentials come from Secret \"store\"");
        assert_eq!(with_secrets(refused(), &SecretSources::new()), refused(), "outside of a cluster");
    }
}

//! The settings of a run in its pod: the task in the environment, password and credentials in mounted files.

use std::{
    collections::BTreeMap,
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use super::lock_owner;
use crate::{
    model::{BackendConfig, Connection, Credential, Failure, Reason, Secret, StoredPassword, Task, injected, mounts},
    repository::{Access, LockHolder, LockOwnerProbe, LockRules, NoProbe, StoreAccess, Timeouts},
};

/// How long a run waits for a lock. A prune of another client usually ends within this time; a run which has waited for
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
pub fn access(backend: &BackendConfig, connection: &Connection, identity: &Identity) -> Result<Access, Failure> {
    let mut missing = Vec::new();
    let folder = mounted(mounts::PASSWORD_FOLDER);
    let password = read_password(&folder, mounts::PASSWORD_FILE, "the repository's password", &mut missing);
    let credentials = credentials(mounts::CREDENTIALS_FOLDER, connection, &mut missing);
    match password {
        Some(StoredPassword { password, untrimmed }) if missing.is_empty() => Ok(Access {
            backend: backend.clone(),
            password,
            untrimmed_password: untrimmed,
            connection: connection.clone(),
            credentials,
            holder: identity.lock_holder(),
            locks: LockRules { wait: LOCK_WAIT, probe: Arc::clone(&identity.probe) },
            timeouts: Timeouts::default(),
            expected_ids: identity.expected_ids.clone(),
        }),
        _ => Err(Failure::new(
            Reason::SecretMissing,
            format!(
                "missing: {}; create the Secrets (or the keys in them) that the Repository names",
                missing.join(", ")
            ),
        )),
    }
}

/// The options which open the store of an archive. The error names all missing Secrets at once.
pub fn archive_access(backend: &BackendConfig, connection: &Connection) -> Result<StoreAccess, Failure> {
    let mut missing = Vec::new();
    let credentials = credentials(mounts::ARCHIVE_CREDENTIALS_FOLDER, connection, &mut missing);
    if !missing.is_empty() {
        let message = format!(
            "missing: {}; create the Secrets (or the keys in them) that spec.to.archive names",
            missing.join(", ")
        );
        return Err(Failure::new(Reason::SecretMissing, message));
    }
    Ok(StoreAccess {
        backend: backend.clone(),
        connection: connection.clone(),
        credentials,
        timeouts: Timeouts::default(),
    })
}

fn credentials(folder: &str, connection: &Connection, missing: &mut Vec<String>) -> BTreeMap<Credential, Secret> {
    let folder = &mounted(folder);
    let found = connection
        .credentials
        .iter()
        .filter_map(|&credential| Some((credential, read(folder, credential.file(), credential.title(), missing)?)));
    found.collect()
}

/// The real path of a mount of the pod: below [`mounts::ROOT_VARIABLE`] for a run outside of a pod.
pub fn mounted(path: &str) -> PathBuf {
    let root = env::var_os(mounts::ROOT_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
    root.join(path.trim_start_matches('/'))
}

/// Reads the password as restic reads it from a file, because that is how a user opens the repository without a
/// cluster.
fn read_password(folder: &Path, file: &str, what: &str, missing: &mut Vec<String>) -> Option<StoredPassword> {
    let content = read_file(folder, file, what, missing)?;
    let Some(found) = StoredPassword::read(&content) else {
        missing.push(format!("{what} (it is neither UTF-8 nor UTF-16 with a byte order mark)"));
        return None;
    };
    if found.password.expose().is_empty() {
        missing.push(format!("{what} (empty)"));
        return None;
    }
    Some(found)
}

fn read(folder: &Path, file: &str, what: &str, missing: &mut Vec<String>) -> Option<Secret> {
    let content = read_file(folder, file, what, missing)?;
    match std::str::from_utf8(&content).map(|text| text.trim_end_matches(['\r', '\n'])) {
        Ok("") => missing.push(format!("{what} (empty)")),
        // Secrets made by `echo` end in a newline.
        Ok(text) => return Some(Secret::new(text.to_owned())),
        Err(error) => missing.push(format!("{what} ({error})")),
    }
    None
}

fn read_file(folder: &Path, file: &str, what: &str, missing: &mut Vec<String>) -> Option<Zeroizing<Vec<u8>>> {
    match std::fs::read(folder.join(file)) {
        Ok(content) => Some(Zeroizing::new(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            missing.push(what.to_owned());
            None
        }
        Err(error) => {
            missing.push(format!("{what} ({error})"));
            None
        }
    }
}

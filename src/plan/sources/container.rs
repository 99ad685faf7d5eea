//! The container of a pod in which a command runs. Backup plans and injection share this rule.

use std::collections::BTreeMap;

use crate::annotations::{CommandRequest, KEYS, KeyDialect, KeyId, PREFIX};

/// The annotation which names a pod's default container for `kubectl`.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A container which an annotation names and the pod does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownContainer {
    /// The key of the annotation.
    pub key: String,
    pub container: String,
}

/// The container in which a command runs: the annotated one, else the pod's default container (which K8up ignores),
/// else the first one. `existing` are the containers which can run a command: the pod's containers, then its sidecars.
pub fn container_of<'a>(
    command: &'a CommandRequest,
    annotations: Option<&'a BTreeMap<String, String>>,
    existing: &[&'a str],
) -> Result<&'a str, UnknownContainer> {
    let own = command.dialect == KeyDialect::Stowaway;
    let default = annotations.and_then(|all| all.get(DEFAULT_CONTAINER)).filter(|_| own).map(String::as_str);
    let (container, annotated) = match (command.container.as_deref(), default) {
        (Some(container), _) => (container, true),
        (None, Some(container)) => (container, false),
        (None, None) => (existing.first().copied().unwrap_or_default(), true),
    };
    if existing.contains(&container) {
        return Ok(container);
    }
    let key = if annotated { container_key(command, annotations) } else { DEFAULT_CONTAINER.to_owned() };
    Err(UnknownContainer { key, container: container.to_owned() })
}

/// The key of the annotation which names the container of this command.
fn container_key(command: &CommandRequest, annotations: Option<&BTreeMap<String, String>>) -> String {
    let suffix = command.name.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
    let key = KEYS.iter().find(|key| key.id == KeyId::Container);
    let own = format!("{PREFIX}{}{suffix}", key.map_or("", |key| key.name));
    let foreign = key.into_iter().flat_map(|key| key.foreign).map(|(_, key)| *key).filter(|_| command.name.is_none());
    let present =
        [own.as_str()].into_iter().chain(foreign).find(|key| annotations.is_some_and(|all| all.contains_key(*key)));
    present.unwrap_or(&own).to_owned()
}

//! In which container of a pod a command runs: one rule for the plan of a backup and for what is put into a pod.
//!
//! It must not know pods, only their annotations and the names of their containers.

use std::collections::BTreeMap;

use crate::annotations::{CommandRequest, Generation, KEYS, PREFIX, Role};

/// The annotation by which a pod tells `kubectl` its main container.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A container that the pod does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownContainer {
    /// The annotation that names it.
    pub key: String,
    /// Its name.
    pub container: String,
}

/// The container in which a command runs: as annotated, else the pod's default one (which K8up does not know), else the
/// first. `existing` are those that can be asked: the pod's own, then its sidecars.
pub fn container_of<'a>(
    command: &'a CommandRequest,
    annotations: Option<&'a BTreeMap<String, String>>,
    existing: &[&'a str],
) -> Result<&'a str, UnknownContainer> {
    let own = command.generation == Generation::Stowaway;
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

/// Which annotation names the container of this command.
fn container_key(command: &CommandRequest, annotations: Option<&BTreeMap<String, String>>) -> String {
    let suffix = command.name.as_ref().map(|name| format!(".{name}")).unwrap_or_default();
    let key = KEYS.iter().find(|key| key.role == Role::Container);
    let own = format!("{PREFIX}{}{suffix}", key.map_or("", |key| key.name));
    let foreign = key.into_iter().flat_map(|key| key.foreign).map(|(_, key)| *key).filter(|_| command.name.is_none());
    let present =
        [own.as_str()].into_iter().chain(foreign).find(|key| annotations.is_some_and(|all| all.contains_key(*key)));
    present.unwrap_or(&own).to_owned()
}

//! A read-only view of a pod's raw JSON, without copying it. Any user who may create pods decides their content, and
//! webhooks see a pod before the API server has validated it. So nothing here relies on the form of the JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    outcome::{Cause, Finding},
    restore_key,
};
use crate::model::{
    Database, SourceName, database_of,
    injected::{HELPER_VOLUME, RESTORE_CONTAINER, SIDECAR_CONTAINER},
};

/// Kubernetes' limit for all annotations of an object. The API server checks it only after its webhooks.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
/// More containers or volumes than any pod has. The API server could store far fewer.
const MAX_ENTRIES: usize = 2000;

/// The names of Stowaway's containers.
pub(super) const OUR_CONTAINERS: [&str; 3] = [HELPER_VOLUME, SIDECAR_CONTAINER, RESTORE_CONTAINER];

/// One of the lists of containers in a pod's spec.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum List {
    /// The app's containers.
    App,
    /// Init containers and native sidecars.
    Init,
    /// Containers that were added for debugging.
    Ephemeral,
}

impl List {
    /// The field of the spec.
    pub fn field(self) -> &'static str {
        match self {
            Self::App => "containers",
            Self::Init => "initContainers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// A container and its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerView<'a> {
    pub list: List,
    /// The index in the list.
    pub index: usize,
    pub name: &'a str,
    /// The container's JSON.
    pub container: &'a Map<String, Value>,
}

impl<'a> ContainerView<'a> {
    /// Names of the volumes that it mounts, with the mounts.
    pub fn mounts(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        named(entries(self.container, "volumeMounts"))
    }

    /// Every path at which something is mounted or attached.
    pub fn paths(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let of = |list: &'static str, field: &'static str| {
            move |container| entries(container, list).iter().filter_map(move |entry| entry.get(field)?.as_str())
        };
        of("volumeMounts", "mountPath")(self.container).chain(of("volumeDevices", "devicePath")(self.container))
    }

    /// Names of the block devices that it attaches.
    pub fn devices(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        named(entries(self.container, "volumeDevices")).map(|(name, _)| name)
    }

    /// Whether it is a native sidecar: an init container that keeps running.
    pub fn is_sidecar(&self) -> bool {
        self.list == List::Init && self.container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
    }
}

/// A pod whose form was checked, as far as Stowaway uses it.
#[derive(Debug)]
pub(super) struct PodView<'a> {
    pub annotations: BTreeMap<String, String>,
    pub spec: &'a Map<String, Value>,
    /// The app's containers, then the init containers, then the ephemeral containers.
    pub containers: Vec<ContainerView<'a>>,
    /// The volumes with their names, in order.
    pub volumes: Vec<(&'a str, &'a Value)>,
}

/// The field of a pod's spec with the Secrets that images are pulled with.
pub(super) const PULL_SECRETS: &str = "imagePullSecrets";

impl<'a> PodView<'a> {
    /// Names of the Secrets that the pod's images are pulled with.
    pub fn pull_secrets(&self) -> impl Iterator<Item = &'a str> {
        let secrets = self.spec.get(PULL_SECRETS).and_then(Value::as_array).into_iter().flatten();
        secrets.filter_map(|secret| secret.get("name")?.as_str())
    }

    /// Checks the form of a pod.
    pub fn new(pod: &'a Value) -> Result<Self, Finding> {
        let not_a_pod = |what: &str| Finding::new(Cause::NotAPod, format!("this is not a pod: {what}"));
        let metadata =
            pod.get("metadata").and_then(Value::as_object).ok_or_else(|| not_a_pod("metadata is not an object"))?;
        let spec = pod.get("spec").and_then(Value::as_object).ok_or_else(|| not_a_pod("spec is not an object"))?;
        let mut annotations = BTreeMap::new();
        match metadata.get("annotations") {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                let bytes: usize = map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
                if bytes > MAX_ANNOTATION_BYTES {
                    let message = format!("the annotations have {bytes} bytes, but Kubernetes allows only 262144");
                    return Err(Finding::new(Cause::TooLarge, message));
                }
                for (key, value) in map {
                    let value = value.as_str().ok_or_else(|| not_a_pod("an annotation's value is not a string"))?;
                    annotations.insert(key.clone(), value.to_owned());
                }
            }
            Some(_) => return Err(not_a_pod("metadata.annotations is not an object")),
        }
        let mut containers = Vec::new();
        for list in [List::App, List::Init, List::Ephemeral] {
            for (index, entry) in checked(spec, list.field(), not_a_pod)?.iter().enumerate() {
                let name = entry.get("name").and_then(Value::as_str);
                let (Some(container), Some(name)) = (entry.as_object(), name) else {
                    return Err(not_a_pod("a container has no name"));
                };
                checked(container, "volumeMounts", not_a_pod)?;
                checked(container, "volumeDevices", not_a_pod)?;
                containers.push(ContainerView { list, index, name, container });
            }
        }
        let volumes = checked(spec, "volumes", not_a_pod)?;
        checked(spec, PULL_SECRETS, not_a_pod)?;
        let view = Self { annotations, spec, containers, volumes: named(volumes).collect() };
        if view.volumes.len() != volumes.len() {
            return Err(not_a_pod("a volume has no name"));
        }
        if view.in_list(List::App).next().is_none() {
            return Err(not_a_pod("it has no containers"));
        }
        if view.containers.len() > MAX_ENTRIES || view.volumes.len() > MAX_ENTRIES {
            return Err(Finding::new(Cause::TooLarge, format!("more than {MAX_ENTRIES} containers or volumes")));
        }
        Ok(view)
    }

    pub fn in_list(&self, list: List) -> impl Iterator<Item = &ContainerView<'a>> {
        self.containers.iter().filter(move |container| container.list == list)
    }

    /// The containers which do not have one of Stowaway's names.
    pub fn of_the_user(&self) -> impl Iterator<Item = &ContainerView<'a>> {
        self.containers.iter().filter(|container| !OUR_CONTAINERS.contains(&container.name))
    }

    /// Whether this is the mirror pod of a static pod.
    pub fn is_mirror(&self) -> bool {
        self.annotations.contains_key("kubernetes.io/config.mirror")
    }

    /// Whether the pod states that it runs on Windows.
    pub fn is_windows(&self) -> bool {
        let is_windows = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
        let selector = self.spec.get("nodeSelector");
        is_windows(self.spec.get("os").and_then(|os| os.get("name")))
            || ["kubernetes.io/os", "beta.kubernetes.io/os"]
                .iter()
                .any(|label| is_windows(selector.and_then(|selector| selector.get(label))))
    }

    /// The source that a volume is, if the volume is a claim of the namespace.
    pub fn claim(&self, volume: &str) -> Option<SourceName> {
        let (_, volume) = self.volumes.iter().find(|(name, _)| *name == volume)?;
        format!("pvc/{}", volume.get("persistentVolumeClaim")?.get("claimName")?.as_str()?).parse().ok()
    }

    /// Warnings about claims that a database writes to, if no command dumps the database.
    pub fn live_databases(&self) -> Vec<String> {
        let is_claim = |volume: &Value| volume.get("persistentVolumeClaim").is_some_and(Value::is_object);
        let claims = self.volumes.iter().filter(|(_, volume)| is_claim(volume)).map(|(name, _)| *name);
        let database = |volume: &str| {
            self.in_list(List::App).find_map(|container| {
                let is_read_only = |mount: &Value| mount.get("readOnly") == Some(&Value::Bool(true));
                let mut mounts = container.mounts().filter(|(name, mount)| *name == volume && !is_read_only(mount));
                mounts.next()?;
                database_of(container.container.get("image")?.as_str()?)
            })
        };
        let found = claims.filter_map(|volume| Some((volume, database(volume)?)));
        found
            .map(|(volume, Database { name, dump })| {
                let dump = dump.map(|dump| format!(" ({dump})")).unwrap_or_default();
                format!(
                    "volume {volume} holds live files of {name}, which may not start on a copy of them: annotate \
                     stowaway.dev/backupcommand{dump} here, or stowaway.dev/volume-snapshot-class on the claim"
                )
            })
            .collect()
    }

    /// A field of the pod's security context.
    pub fn security(&self, field: &str) -> Option<&'a Value> {
        self.spec.get("securityContext")?.get(field)
    }
}

/// Whether a controller created the pod. A user who forges this only gets a pod without an injection.
pub(super) fn is_controlled(pod: &Value) -> bool {
    let references = pod.get("metadata").and_then(|metadata| metadata.get("ownerReferences"));
    let mut references = references.and_then(Value::as_array).into_iter().flatten();
    references.any(|reference| reference.get("controller") == Some(&Value::Bool(true)))
}

/// Whether the pod has the annotation for a restore, valid or not.
pub(super) fn requests_restore(pod: &Value) -> bool {
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
    annotations.is_some_and(|annotations| annotations.get(restore_key()).is_some())
}

/// A list that may be missing, but must be a list.
fn checked<'a>(
    object: &'a Map<String, Value>,
    field: &str,
    not_a_pod: impl Fn(&str) -> Finding,
) -> Result<&'a [Value], Finding> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(not_a_pod(&format!("{field} is not a list"))),
    }
}

/// A list's entries; empty if there is no list.
fn entries<'a>(object: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries that have a name.
fn named(entries: &[Value]) -> impl Iterator<Item = (&str, &Value)> {
    entries.iter().filter_map(|entry| Some((entry.get("name")?.as_str()?, entry)))
}

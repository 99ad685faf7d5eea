//! A look at a pod's raw JSON, without changing or copying it.
//!
//! It must not know what we put into pods, only which names are ours. Whoever may make pods decides what stands in them, and
//! webhooks see them before the API server has checked anything: nothing here trusts a form.

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

/// Kubernetes' own limit for all annotations of an object; the API server checks it after its webhooks.
const MAXIMUM_ANNOTATION_BYTES: usize = 256 * 1024;
/// No pod has so many containers, or volumes: those that the API server could store are far fewer.
const MAXIMUM_ENTRIES: usize = 2000;

/// The names of containers that are ours.
pub(super) const OUR_CONTAINERS: [&str; 3] = [HELPER_VOLUME, SIDECAR_CONTAINER, RESTORE_CONTAINER];

/// One of the lists of containers in a pod's spec.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum List {
    /// The app's.
    App,
    /// Those before it, and the sidecars.
    Init,
    /// Those that were added for debugging.
    Ephemeral,
}

impl List {
    /// Its name in the spec.
    pub fn field(self) -> &'static str {
        match self {
            Self::App => "containers",
            Self::Init => "initContainers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// A container, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerView<'a> {
    /// In which list.
    pub list: List,
    /// At which place.
    pub index: usize,
    /// Its name.
    pub name: &'a str,
    /// All of it.
    pub container: &'a Map<String, Value>,
}

impl<'a> ContainerView<'a> {
    /// Names of volumes that it mounts, with the mounts.
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

    /// Names of block devices that it attaches.
    pub fn devices(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        named(entries(self.container, "volumeDevices")).map(|(name, _)| name)
    }

    /// Whether it is an init container that stays.
    pub fn is_sidecar(&self) -> bool {
        self.list == List::Init && self.container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
    }
}

/// A pod whose form is known to be sound as far as we look at it.
#[derive(Debug)]
pub(super) struct PodView<'a> {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its spec.
    pub spec: &'a Map<String, Value>,
    /// All containers: the app's, the initial ones, the ephemeral ones.
    pub containers: Vec<ContainerView<'a>>,
    /// Its volumes by name, in order.
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

    /// Looks at a pod.
    pub fn new(pod: &'a Value) -> Result<Self, Finding> {
        let no_pod = |what: &str| Finding::new(Cause::NotAPod, format!("this is no pod: {what}"));
        let metadata = pod.get("metadata").and_then(Value::as_object).ok_or_else(|| no_pod("metadata is no object"))?;
        let spec = pod.get("spec").and_then(Value::as_object).ok_or_else(|| no_pod("spec is no object"))?;
        let mut annotations = BTreeMap::new();
        match metadata.get("annotations") {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                let bytes: usize = map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
                if bytes > MAXIMUM_ANNOTATION_BYTES {
                    let message = format!("the annotations have {bytes} bytes, and Kubernetes allows 262144");
                    return Err(Finding::new(Cause::TooLarge, message));
                }
                for (key, value) in map {
                    let value = value.as_str().ok_or_else(|| no_pod("an annotation's value is no text"))?;
                    annotations.insert(key.clone(), value.to_owned());
                }
            }
            Some(_) => return Err(no_pod("metadata.annotations is no object")),
        }
        let mut containers = Vec::new();
        for list in [List::App, List::Init, List::Ephemeral] {
            for (index, entry) in checked(spec, list.field(), no_pod)?.iter().enumerate() {
                let name = entry.get("name").and_then(Value::as_str);
                let (Some(container), Some(name)) = (entry.as_object(), name) else {
                    return Err(no_pod("a container has no name"));
                };
                checked(container, "volumeMounts", no_pod)?;
                checked(container, "volumeDevices", no_pod)?;
                containers.push(ContainerView { list, index, name, container });
            }
        }
        let volumes = checked(spec, "volumes", no_pod)?;
        checked(spec, PULL_SECRETS, no_pod)?;
        let view = Self { annotations, spec, containers, volumes: named(volumes).collect() };
        if view.volumes.len() != volumes.len() {
            return Err(no_pod("a volume has no name"));
        }
        if view.in_list(List::App).next().is_none() {
            return Err(no_pod("it has no containers"));
        }
        if view.containers.len() > MAXIMUM_ENTRIES || view.volumes.len() > MAXIMUM_ENTRIES {
            return Err(Finding::new(Cause::TooLarge, format!("more than {MAXIMUM_ENTRIES} containers or volumes")));
        }
        Ok(view)
    }

    /// The containers of one list.
    pub fn in_list(&self, list: List) -> impl Iterator<Item = &ContainerView<'a>> {
        self.containers.iter().filter(move |container| container.list == list)
    }

    /// Those that are not ours by name.
    pub fn of_the_user(&self) -> impl Iterator<Item = &ContainerView<'a>> {
        self.containers.iter().filter(|container| !OUR_CONTAINERS.contains(&container.name))
    }

    /// Whether a kubelet told the API server of a pod that it had made from a file.
    pub fn is_mirror(&self) -> bool {
        self.annotations.contains_key("kubernetes.io/config.mirror")
    }

    /// Whether the pod says that it runs on Windows.
    pub fn is_windows(&self) -> bool {
        let is_windows = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
        let selector = self.spec.get("nodeSelector");
        is_windows(self.spec.get("os").and_then(|os| os.get("name")))
            || ["kubernetes.io/os", "beta.kubernetes.io/os"]
                .iter()
                .any(|label| is_windows(selector.and_then(|selector| selector.get(label))))
    }

    /// The source that a volume is, where it is a claim of the namespace.
    pub fn claim(&self, volume: &str) -> Option<SourceName> {
        let (_, volume) = self.volumes.iter().find(|(name, _)| *name == volume)?;
        format!("pvc/{}", volume.get("persistentVolumeClaim")?.get("claimName")?.as_str()?).parse().ok()
    }

    /// What is to be said of claims that a database writes to, where nothing dumps it.
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

/// Whether a controller made it. Somebody who forges this gets no more than a pod without an injection.
pub(super) fn is_controlled(pod: &Value) -> bool {
    let references = pod.get("metadata").and_then(|metadata| metadata.get("ownerReferences"));
    let mut references = references.and_then(Value::as_array).into_iter().flatten();
    references.any(|reference| reference.get("controller") == Some(&Value::Bool(true)))
}

/// Whether its annotations speak of a restore, rightly written or not.
pub(super) fn asks_for_restore(pod: &Value) -> bool {
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
    annotations.is_some_and(|annotations| annotations.get(restore_key()).is_some())
}

/// A list that may be missing, but must be one.
fn checked<'a>(
    object: &'a Map<String, Value>,
    field: &str,
    no_pod: impl Fn(&str) -> Finding,
) -> Result<&'a [Value], Finding> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err(no_pod(&format!("{field} is no list"))),
    }
}

/// A list's entries; none when there is no list.
fn entries<'a>(object: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Those that have a name.
fn named(entries: &[Value]) -> impl Iterator<Item = (&str, &Value)> {
    entries.iter().filter_map(|entry| Some((entry.get("name")?.as_str()?, entry)))
}

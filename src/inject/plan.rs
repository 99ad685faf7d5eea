//! Resolves the annotations' requests to what the pod can have: which containers and volumes, and which user owns the
//! files.

use serde_json::Value;

use super::{
    InjectionFacts,
    outcome::{Cause, Finding, Injected},
    pod::{ContainerView, List, OUR_CONTAINERS, PodView},
    run_as,
    store::{self, Store},
};
use crate::{
    annotations::{Injection, KeyId, Request, own_key},
    model::injected::{
        HELPER_VOLUME, REPOSITORY_VOLUME, SCRATCH_VOLUME, SECRET_VOLUME_PREFIX, SOCKET_VOLUME, STORE_VOLUME,
    },
    plan::{DEFAULT_CONTAINER, FileOwner, container_of},
};

/// Kinds of volumes that hold no files of the app. A token or a Secret must not reach a repository through such a
/// volume.
const NOT_THE_APPS: [&str; 5] = ["secret", "configMap", "downwardAPI", "projected", "image"];
/// The number of existing names that a message lists when a name was not found.
const LISTED: usize = 10;

/// The containers, volumes and settings which the pod is to have.
#[derive(Debug)]
pub(super) struct InjectionPlan<'a> {
    /// Containers of commands, each once.
    pub targets: Vec<ContainerView<'a>>,
    pub sidecar: bool,
    pub restore: bool,
    /// The volumes of the sidecar and of the restore step.
    pub volumes: Vec<&'a str>,
    /// Secrets for the containers of commands.
    pub secrets: Vec<String>,
    /// The repository of the sidecar and of the restore step; none if neither exists, or if it was not found.
    pub store: Option<Store>,
    /// The owner of the files in the volumes, as far as the pod's security contexts show it.
    pub owner: FileOwner,
    /// Requests and limits of the sidecar which the user has set.
    pub sidecar_resources: Option<Value>,
}

impl InjectionPlan<'_> {
    /// Whether nothing is injected into the pod.
    pub fn is_empty(&self) -> bool {
        !self.uses_helper() && !self.uses_store()
    }

    pub fn uses_helper(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Whether the helper and the sidecar communicate.
    pub fn uses_socket(&self) -> bool {
        self.sidecar && self.uses_helper()
    }

    /// Whether a container in the pod accesses the store.
    pub fn uses_store(&self) -> bool {
        self.sidecar || self.restore
    }

    /// The names of everything that is injected.
    pub fn describe(&self) -> Injected {
        Injected {
            helper_in: self.targets.iter().map(|target| target.name.to_owned()).collect(),
            sidecar: self.sidecar,
            restore: self.restore,
            volumes: self.volumes.iter().map(|&name| name.to_owned()).collect(),
            secrets: self.secrets.clone(),
            store: self.store.as_ref().map(|store| store.name.clone()),
        }
    }

    /// Warnings about requests that can be satisfied, but perhaps not as intended.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.sidecar && self.targets.is_empty() && self.volumes.is_empty() {
            warnings.push(format!(
                "annotation {}: the sidecar has nothing to back up; set a command, or name volumes in {}",
                own_key(KeyId::Inject),
                own_key(KeyId::Volumes)
            ));
        }
        warnings.extend(run_as::warning(self.owner, &self.volumes));
        if let Some(store) = self.store.as_ref().filter(|store| store.volume.is_some()) {
            warnings.push(format!(
                "the volume of Repository {} becomes a volume of the pod, so the pod starts only where and \
                 while that volume can be mounted",
                store.name
            ));
        }
        warnings
    }
}

/// Resolves the request, and collects everything that cannot be resolved.
pub(super) fn resolve<'a>(
    view: &PodView<'a>,
    request: &Request,
    mode: Injection,
    facts: &InjectionFacts<'_>,
) -> (InjectionPlan<'a>, Vec<Finding>) {
    let mut findings = Vec::new();
    let targets = if mode == Injection::None { Vec::new() } else { targets(view, request, mode, &mut findings) };
    let sidecar = mode == Injection::Sidecar;
    let restore = request.restore_on_empty;
    let volumes = if sidecar || restore { volumes(view, request, restore, &mut findings) } else { Vec::new() };
    let store = (sidecar || restore)
        .then(|| store::of_pod(facts, request.repository.as_deref()))
        .and_then(|store| store.map_err(|finding| findings.push(finding)).ok());
    let plan = InjectionPlan {
        secrets: if targets.is_empty() { Vec::new() } else { request.secrets.clone() },
        owner: run_as::owner(view, &volumes),
        sidecar_resources: request.sidecar_resources.clone(),
        store,
        targets,
        sidecar,
        restore,
        volumes,
    };
    (plan, findings)
}

/// The containers of the commands. Without a command, the default container, if the helper was requested.
fn targets<'a>(
    view: &PodView<'a>,
    request: &Request,
    mode: Injection,
    findings: &mut Vec<Finding>,
) -> Vec<ContainerView<'a>> {
    let candidates: Vec<&ContainerView<'a>> = view
        .in_list(List::App)
        .chain(view.in_list(List::Init).filter(|container| container.is_sidecar()))
        .filter(|container| !OUR_CONTAINERS.contains(&container.name))
        .collect();
    let existing: Vec<&str> = candidates.iter().map(|container| container.name).collect();
    let mut names: Vec<&str> = Vec::new();
    let mut add = |name| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    for command in &request.commands {
        match container_of(command, Some(&view.annotations), &existing) {
            Ok(name) => add(existing.iter().copied().find(|other| *other == name).unwrap_or_default()),
            Err(unknown) => {
                let message = format!("the pod has no container {:?}; it has {}", unknown.container, listed(&existing));
                findings.push(Finding::at(Cause::UnknownContainer, unknown.key, message));
            }
        }
    }
    if request.commands.is_empty() && mode == Injection::Helper {
        let default = view.annotations.get(DEFAULT_CONTAINER);
        match default.map_or(existing.first(), |default| existing.iter().find(|name| *name == default)) {
            Some(name) => add(name),
            None => {
                let message = format!("the pod has no such container; it has {}", listed(&existing));
                findings.push(Finding::at(Cause::UnknownContainer, DEFAULT_CONTAINER.to_owned(), message));
            }
        }
    }
    names
        .into_iter()
        .filter_map(|name| candidates.iter().find(|container| container.name == name).map(|&container| *container))
        .collect()
}

/// The named volumes. For a restore without names, the pod's only claim.
fn volumes<'a>(view: &PodView<'a>, request: &Request, restore: bool, findings: &mut Vec<Finding>) -> Vec<&'a str> {
    if request.volumes.is_empty() && restore {
        let claims: Vec<&str> = view
            .volumes
            .iter()
            .filter(|(_, volume)| volume.get("persistentVolumeClaim").is_some_and(Value::is_object))
            .map(|(name, _)| *name)
            .collect();
        if claims.len() != 1 {
            let found = if claims.is_empty() { "none".to_owned() } else { listed(&claims) };
            let message = format!(
                "which volume is to be restored? The pod does not have exactly one PersistentVolumeClaim ({found}); \
                 name the volume in {}",
                own_key(KeyId::Volumes)
            );
            findings.push(Finding::at(Cause::UnknownVolume, own_key(KeyId::Restore), message));
        }
        return claims.into_iter().filter_map(|name| usable(view, name, restore, KeyId::Restore, findings)).collect();
    }
    request.volumes.iter().filter_map(|name| usable(view, name, restore, KeyId::Volumes, findings)).collect()
}

/// The volume, if it exists, belongs to the app and can be used.
fn usable<'a>(
    view: &PodView<'a>,
    name: &str,
    restore: bool,
    key: KeyId,
    findings: &mut Vec<Finding>,
) -> Option<&'a str> {
    let mut refuse = |cause, message: String| findings.push(Finding::at(cause, own_key(key), message));
    let Some((name, volume)) = view.volumes.iter().find(|(other, _)| *other == name).copied() else {
        let existing: Vec<&str> =
            view.volumes.iter().map(|(name, _)| *name).filter(|name| !is_our_volume(name)).collect();
        let existing = if existing.is_empty() { "none".to_owned() } else { listed(&existing) };
        refuse(Cause::UnknownVolume, format!("the pod has no volume {name:?}; it has {existing}"));
        return None;
    };
    if is_our_volume(name) {
        refuse(Cause::UnsuitableVolume, format!("the volume {name:?} is Stowaway's own"));
        return None;
    }
    if let Some(kind) = NOT_THE_APPS.iter().find(|kind| volume.get(**kind).is_some_and(|kind| !kind.is_null())) {
        refuse(
            Cause::UnsuitableVolume,
            format!("the volume {name:?} is a {kind}, which holds no files of the app's own"),
        );
        return None;
    }
    if view.containers.iter().any(|container| container.devices().any(|device| device == name)) {
        refuse(Cause::UnsuitableVolume, format!("the volume {name:?} is a block device, which has no files"));
        return None;
    }
    let read_only = |volume: &Value| {
        volume
            .as_object()
            .is_some_and(|volume| volume.values().any(|kind| kind.get("readOnly") == Some(&Value::Bool(true))))
    };
    if restore && read_only(volume) {
        refuse(
            Cause::UnsuitableVolume,
            format!("the volume {name:?} is read-only, so nothing can be restored into it"),
        );
        return None;
    }
    Some(name)
}

/// Whether the name is one of Stowaway's volumes.
pub(super) fn is_our_volume(name: &str) -> bool {
    [HELPER_VOLUME, SOCKET_VOLUME, STORE_VOLUME, REPOSITORY_VOLUME, SCRATCH_VOLUME].contains(&name)
        || name.starts_with(SECRET_VOLUME_PREFIX)
}

fn listed(names: &[&str]) -> String {
    let more = if names.len() > LISTED { ", ..." } else { "" };
    format!("{}{more}", names[..names.len().min(LISTED)].join(", "))
}

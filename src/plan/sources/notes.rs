//! Remarks about a source for the user: which of several pods was dumped, and that the files of a running database are
//! not a consistent copy. A remark does not change the verdict.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{ObservedPod, PlannedSource, Target, Workload, claims::volume_of, pods::Unit};
use crate::{
    annotations,
    model::{Database, database_of},
};

/// Labels in which operators and charts set the role of a replica, the most specific first.
const ROLE_LABELS: [&str; 6] = [
    "cnpg.io/instanceRole",
    "postgres-operator.crunchydata.com/role",
    "spilo-role",
    "app.kubernetes.io/role",
    "role",
    "instanceRole",
];

/// The number of pods with a command, of each workload.
#[derive(Default)]
pub(super) struct Replicas(BTreeMap<Workload, usize>);

impl Replicas {
    /// Counts a pod which has a command.
    pub fn add(&mut self, observed: &ObservedPod) {
        *self.0.entry(observed.workload.clone()).or_default() += 1;
    }

    /// States which of several pods the unit is; empty if it is the only pod.
    pub fn note(&self, unit: &Unit<'_>, represents: &Workload) -> String {
        let Workload { kind, name } = unit.workload;
        let count = self.0.get(unit.workload).copied().unwrap_or_default();
        if count < 2 {
            return String::new();
        }
        let role = role(unit.pod()).map(|role| format!(" ({role})")).unwrap_or_default();
        let pod = unit.name;
        if represents == unit.workload {
            let state = if unit.ready { "the newest Ready one" } else { "the newest one" };
            format!("the dump is of pod {pod}{role}, {state} of {count} pods of {kind}/{name} with this command")
        } else {
            format!(
                "pod {pod}{role} is one of {count} pods of {kind}/{name} with this command, each of which is a separate source"
            )
        }
    }
}

/// The role label of the pod, as `<label>=<value>`.
fn role(pod: &Pod) -> Option<String> {
    let labels = pod.metadata.labels.as_ref()?;
    ROLE_LABELS.iter().find_map(|label| Some(format!("{label}={}", labels.get(*label)?)))
}

/// The remark about a volume which is read while a database may write to it, unless a command dumps the database; else
/// empty.
pub(super) fn of_live_database(source: &PlannedSource, pods: &[ObservedPod]) -> String {
    let claim = match &source.target {
        Some(Target::Claim(mount)) if mount.snapshot.is_none() => &mount.claim,
        Some(Target::Volume(target)) => &target.claim,
        _ => return String::new(),
    };
    let is_it = |pod: &&Pod| pod.metadata.name.as_deref() == Some(source.pod.as_str());
    let pod = pods.iter().map(|observed| &observed.pod).find(is_it).filter(|_| !source.pod.is_empty());
    let Some((pod, (container, database))) = pod.and_then(|pod| Some((pod, database_on(pod, claim)?))) else {
        return String::new();
    };
    if has_command(pod) {
        return String::new();
    }
    let Database { name, dump } = database;
    let dump = dump.map(|dump| format!(" ({dump})")).unwrap_or_default();
    format!(
        "these are live files of {name} (container {container} of pod {}), read while it may write; no command dumps it, and \
         it may not start on such a copy. Annotate the pod with stowaway.dev/backupcommand{dump}, or the claim with \
         stowaway.dev/volume-snapshot-class",
        source.pod
    )
}

/// The container which runs a database on the claim, and the database.
fn database_on<'a>(pod: &'a Pod, claim: &str) -> Option<(&'a str, Database)> {
    let volume = volume_of(pod, claim)?;
    let writes = |container: &&Container| {
        let mut mounts = container.volume_mounts.iter().flatten();
        let mut devices = container.volume_devices.iter().flatten();
        mounts.any(|mount| mount.name == volume && mount.read_only != Some(true))
            || devices.any(|device| device.name == volume)
    };
    let containers = &pod.spec.as_ref()?.containers;
    containers
        .iter()
        .filter(writes)
        .find_map(|container| Some((container.name.as_str(), database_of(container.image.as_deref()?)?)))
}

fn has_command(pod: &Pod) -> bool {
    let request = pod.metadata.annotations.as_ref().map(annotations::parse);
    // Invalid annotations are reported as a problem, so they count as a command here.
    request.is_some_and(|request| request.map_or(true, |request| request.is_some_and(|one| !one.commands.is_empty())))
}

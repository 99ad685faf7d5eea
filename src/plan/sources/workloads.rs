//! The workloads of a namespace which request a backup by their pod template, and the pods which they are expected to
//! get.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::CronJob,
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::core::{Selector, SelectorExt};

use super::{ObservedPod, Workload, container_of};
use crate::{
    annotations::{self, CommandRequest, KeyId, Request, own_key},
    model::SourceName,
};

/// A workload, with the fields which determine its pods.
#[derive(Clone, Debug, Default)]
pub struct ObservedWorkload {
    /// Its kind in lower case, and its name.
    pub workload: Workload,
    /// The metadata of the workload itself.
    pub metadata: ObjectMeta,
    /// The template of its pods.
    pub template: PodTemplateSpec,
    /// The requested number of pods.
    pub wanted: i32,
    /// The ordinal of the first pod of a `StatefulSet`.
    pub first_ordinal: i32,
}

impl ObservedWorkload {
    fn of(kind: &str, metadata: ObjectMeta, template: PodTemplateSpec, wanted: i32) -> Self {
        let name = metadata.name.clone().unwrap_or_default();
        let workload = Workload { kind: kind.to_owned(), name };
        Self { workload, metadata, template, wanted, first_ordinal: 0 }
    }

    /// The commands which the template requests, if its annotations are valid.
    pub(super) fn request(&self) -> Option<Request> {
        let annotations = self.template.metadata.as_ref()?.annotations.as_ref()?;
        annotations::parse(annotations).ok().flatten().filter(|request| !request.commands.is_empty())
    }

    /// Whether a Backup may be green although the workload has no pod.
    pub(super) fn may_be_missing(&self, request: &Request) -> bool {
        let key = own_key(KeyId::AllowMissing);
        let own = self.metadata.annotations.as_ref().and_then(|annotations| annotations.get(&key));
        request.allow_missing || own.is_some_and(|value| annotations::boolean(value) == Ok(true))
    }

    /// Whether the selector would match its pods.
    pub(super) fn is_selected(&self, selector: &Selector) -> bool {
        let labels = self.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
        selector.matches(&labels.unwrap_or_default())
    }

    /// The sources of the workload's pods, whose names start with this kind and name. A pod of a `StatefulSet` is a
    /// source of its own.
    pub(super) fn sources(&self, kind: &str, name: &str, request: &Request) -> BTreeSet<SourceName> {
        let spec = self.template.spec.as_ref();
        let existing: Vec<&str> =
            spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect();
        let annotations = self.template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
        let of_command = |command: &CommandRequest| {
            let container = container_of(command, annotations, &existing).ok()?;
            SourceName::new(kind, name, container, command.name.as_deref()).ok()
        };
        request.commands.iter().filter_map(of_command).collect()
    }

    /// The ordinals of the pods which a `StatefulSet` should have.
    pub(super) fn ordinals(&self) -> std::ops::Range<i32> {
        self.first_ordinal..self.first_ordinal.saturating_add(self.wanted.max(0))
    }
}

impl From<Deployment> for ObservedWorkload {
    fn from(object: Deployment) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self::of("deployment", object.metadata, spec.template, spec.replicas.unwrap_or(1))
    }
}

impl From<StatefulSet> for ObservedWorkload {
    fn from(object: StatefulSet) -> Self {
        let spec = object.spec.unwrap_or_default();
        let first_ordinal = spec.ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0);
        let wanted = spec.replicas.unwrap_or(1);
        Self { first_ordinal, ..Self::of("statefulset", object.metadata, spec.template, wanted) }
    }
}

impl From<DaemonSet> for ObservedWorkload {
    fn from(object: DaemonSet) -> Self {
        let wanted = object.status.map_or(0, |status| status.desired_number_scheduled);
        Self::of("daemonset", object.metadata, object.spec.unwrap_or_default().template, wanted)
    }
}

impl From<CronJob> for ObservedWorkload {
    fn from(object: CronJob) -> Self {
        let job = object.spec.and_then(|spec| spec.job_template.spec).unwrap_or_default();
        Self::of("cronjob", object.metadata, job.template, 0)
    }
}

/// The pods which annotated workloads should have and do not have: one pod of a Deployment without pods, and each
/// missing pod of a `StatefulSet`. They are built from the template and are not Ready, so that a Backup waits for them
/// and then reports them.
pub(super) fn expected_pods(workloads: &[ObservedWorkload], pods: &[ObservedPod], limit: usize) -> Vec<ObservedPod> {
    let of_workload: BTreeSet<(&str, &str)> =
        living(pods).map(|observed| (observed.workload.kind.as_str(), observed.workload.name.as_str())).collect();
    let names: BTreeSet<&str> = living(pods).filter_map(|observed| observed.pod.metadata.name.as_deref()).collect();
    let mut expected_pods = Vec::new();
    let is_expected = |one: &&ObservedWorkload| one.request().is_some_and(|request| !one.may_be_missing(&request));
    for one in workloads.iter().filter(is_expected) {
        let Workload { kind, name } = &one.workload;
        match kind.as_str() {
            "deployment" if one.wanted > 0 && !of_workload.contains(&(kind.as_str(), name.as_str())) => {
                // The pod has no name yet, so a problem with it is reported under the workload's name.
                expected_pods.push(pod_to_come(one, name.clone()));
            }
            "statefulset" => {
                let absent = one.ordinals().map(|ordinal| format!("{name}-{ordinal}"));
                let absent = absent.filter(|pod| !names.contains(pod.as_str()));
                expected_pods.extend(absent.take(limit).map(|pod| pod_to_come(one, pod)));
            }
            _ => {}
        }
    }
    expected_pods.truncate(limit);
    expected_pods
}

/// The pods which have not ended. An evicted pod has ended, although its object still exists.
pub(super) fn living(pods: &[ObservedPod]) -> impl Iterator<Item = &ObservedPod> {
    pods.iter().filter(|observed| {
        let phase = observed.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    })
}

fn pod_to_come(one: &ObservedWorkload, name: String) -> ObservedPod {
    let template = one.template.clone();
    let metadata = ObjectMeta { name: Some(name), ..template.metadata.unwrap_or_default() };
    ObservedPod { pod: Pod { metadata, spec: template.spec, status: None }, workload: one.workload.clone() }
}

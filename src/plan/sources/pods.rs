//! A pod as a candidate for a source: which workload it represents, whether it is Ready, and in which container a
//! command runs.

use std::cmp::Reverse;

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    ObservedPod, PlanProblem,
    container::{UnknownContainer, container_of},
};
use crate::annotations::{CommandRequest, Problems, Request};

/// The workload of a pod: its topmost controller, for example the Deployment and not its `ReplicaSet`.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    /// The kind in lower case, for example `deployment`; `pod` for a bare pod.
    pub kind: String,
    /// The name of the workload; of the pod itself for a bare pod.
    pub name: String,
}

/// A pod which requests a backup.
pub(super) struct Unit<'a> {
    pod: &'a Pod,
    pub workload: &'a Workload,
    pub name: &'a str,
    pub uid: &'a str,
    /// Running, Ready and not being deleted.
    pub ready: bool,
    /// The parsed annotations of the pod.
    pub request: Result<Request, Problems>,
}

/// The pod, and the workload which it represents; `None` if the pod has ended.
pub(super) fn unit(
    observed: &ObservedPod,
    request: Result<Request, Problems>,
) -> Result<Option<(Workload, Unit<'_>)>, PlanProblem> {
    let ObservedPod { pod, workload } = observed;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let runs_to_completion = matches!(workload.kind.as_str(), "job" | "cronjob");
    if phase == "Succeeded" || (phase == "Failed" && runs_to_completion) {
        return Ok(None);
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let represents = match (workload.kind.as_str(), node) {
        ("statefulset" | "pod", _) => Workload { kind: "pod".into(), name: name.into() },
        ("daemonset", Some(node)) => Workload { kind: "daemonset".into(), name: format!("{}_{node}", workload.name) },
        ("daemonset", None) => {
            let message = format!("it is named by its node, and a pod of DaemonSet {} has no node yet", workload.name);
            return Err(PlanProblem::Unnamable { pod: name.to_owned(), message });
        }
        _ => workload.clone(),
    };
    let ready = phase == "Running" && pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Ok(Some((represents, Unit { pod, workload, name, uid, ready, request })))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl<'a> Unit<'a> {
    pub fn pod(&self) -> &'a Pod {
        self.pod
    }

    /// The pod of the greatest rank represents the workload. A Ready pod ranks above others, then a pod which is not
    /// being deleted, then the newer pod. The name comes last, so that the order of the list does not matter.
    pub fn rank(&self) -> (bool, bool, Option<&Time>, Reverse<&str>) {
        let metadata = &self.pod.metadata;
        (self.ready, metadata.deletion_timestamp.is_none(), metadata.creation_timestamp.as_ref(), Reverse(self.name))
    }

    /// The container in which a command runs.
    pub fn container<'b>(&'b self, command: &'b CommandRequest) -> Result<&'b str, PlanProblem> {
        let existing: Vec<&str> = self.containers().map(|container| container.name.as_str()).collect();
        let annotations = self.pod.metadata.annotations.as_ref();
        container_of(command, annotations, &existing).map_err(|UnknownContainer { key, container }| {
            PlanProblem::UnknownContainer {
                pod: self.name.to_owned(),
                key,
                container,
                existing: existing.into_iter().map(str::to_owned).collect(),
            }
        })
    }

    /// The containers which can run a command: the pod's containers, then its sidecars (restartable init containers).
    fn containers(&self) -> impl Iterator<Item = &Container> {
        let spec = self.pod.spec.as_ref();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        spec.into_iter()
            .flat_map(|spec| &spec.containers)
            .chain(sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always")))
    }
}

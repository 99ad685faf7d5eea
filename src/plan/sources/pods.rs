//! What one pod is to a plan: whom it speaks for, whether it can be asked now, and in which container.
//!
//! It must not know names of sources or paths.

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

/// What a pod belongs to: the controller that people know, for example the Deployment rather than its `ReplicaSet`.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    /// The kind in lower case, for example `deployment`; `pod` for a bare pod.
    pub kind: String,
    /// Its name; the pod's own for a bare pod.
    pub name: String,
}

/// A pod that asks for a backup.
pub(super) struct Unit<'a> {
    pod: &'a Pod,
    /// What it belongs to.
    pub workload: &'a Workload,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Running, Ready and not being deleted.
    pub ready: bool,
    /// What its annotations say.
    pub asked: Result<Request, Problems>,
}

/// The pod, and whom it speaks for; `None` when its work is done.
pub(super) fn unit(
    observed: &ObservedPod,
    asked: Result<Request, Problems>,
) -> Result<Option<(Workload, Unit<'_>)>, PlanProblem> {
    let ObservedPod { pod, workload } = observed;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let runs_to_completion = matches!(workload.kind.as_str(), "job" | "cronjob");
    if phase == "Succeeded" || (phase == "Failed" && runs_to_completion) {
        return Ok(None);
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let speaks_for = match (workload.kind.as_str(), node) {
        ("statefulset" | "pod", _) => Workload { kind: "pod".into(), name: name.into() },
        ("daemonset", Some(node)) => Workload { kind: "daemonset".into(), name: format!("{}_{node}", workload.name) },
        ("daemonset", None) => {
            let message = format!("it is of DaemonSet {} and has no node yet, by which it is named", workload.name);
            return Err(PlanProblem::Unnamable { pod: name.to_owned(), message });
        }
        _ => workload.clone(),
    };
    let ready = phase == "Running" && pod.metadata.deletion_timestamp.is_none() && is_ready(pod);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    Ok(Some((speaks_for, Unit { pod, workload, name, uid, ready, asked })))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl<'a> Unit<'a> {
    /// The pod itself.
    pub fn pod(&self) -> &'a Pod {
        self.pod
    }

    /// The greater one speaks for the workload: Ready before not, living before leaving, newer before older; then by
    /// name, so that the order of the list does not matter.
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

    /// The containers that can be asked to run something: the pod's own, then its sidecars (init containers that stay).
    fn containers(&self) -> impl Iterator<Item = &Container> {
        let spec = self.pod.spec.as_ref();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        spec.into_iter()
            .flat_map(|spec| &spec.containers)
            .chain(sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always")))
    }
}

//! The containers of a pod which may write into a claim: when they ran, and whether all of them wait for the restore
//! step.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::claim::is_of;
use crate::{model::injected::RESTORE_CONTAINER, plan::claim_uses::is_step_pending};

/// A time in which a container ran, from its start to its end; without an end, it still runs, or the end is not known.
pub(super) struct ContainerRun {
    pub start: Timestamp,
    pub end: Option<Timestamp>,
}

/// The known runs of the pod's containers which mount the claim. The restore step is left out, because it changes
/// nothing while another process holds the lock on the volume.
pub(super) fn runs(pod: &Pod, claim: &str) -> Vec<ContainerRun> {
    let Some(status) = &pod.status else { return Vec::new() };
    let statuses = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let writers = statuses.into_iter().flatten().flatten().filter(|status| {
        let spec = containers(pod).find(|container| container.name == status.name);
        // A container which the spec does not list is an ephemeral one, which may mount every volume.
        status.name != RESTORE_CONTAINER && spec.is_none_or(|container| mounts(pod, container, claim))
    });
    writers.flat_map(runs_of).collect()
}

/// Whether the pod waits for its restore step to fill the claim, so that none of its containers can have the claim in
/// use: none which mounts it has started, and none precedes the step. The step and the Job of a Restore exclude each
/// other by the lock on the volume, and the step leaves a volume unchanged which has data.
pub(super) fn waits_for_step(pod: &Pod, claim: &str) -> bool {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let mut earlier = init.take_while(|container| container.name != RESTORE_CONTAINER);
    is_step_pending(pod, claim)
        && !earlier.any(|container| mounts(pod, container, claim))
        && runs(pod, claim).is_empty()
}

/// Whether the pod has a restore step.
pub(super) fn has_step(pod: &Pod) -> bool {
    containers(pod).any(|container| container.name == RESTORE_CONTAINER)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether the container mounts a volume of the claim.
fn mounts(pod: &Pod, container: &Container, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let pod_name = pod.name_any();
    let names: Vec<&str> =
        volumes.filter(|volume| is_of(volume, &pod_name, claim)).map(|volume| volume.name.as_str()).collect();
    let mounted = container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
    let devices = container.volume_devices.iter().flatten().map(|device| device.name.as_str());
    mounted.chain(devices).any(|name| names.contains(&name))
}

fn runs_of(container: &ContainerStatus) -> Vec<ContainerRun> {
    let time = |time: &Option<Time>| time.as_ref().map(|Time(time)| *time);
    let states = [container.state.as_ref(), container.last_state.as_ref()].into_iter().flatten();
    let of_state = states.flat_map(|state| {
        let running = state.running.as_ref().map(|running| (time(&running.started_at), None));
        let ended = state.terminated.as_ref().map(|ended| (time(&ended.started_at), time(&ended.finished_at)));
        [running, ended]
    });
    of_state.flatten().filter_map(|(start, end)| Some(ContainerRun { start: start?, end })).collect()
}

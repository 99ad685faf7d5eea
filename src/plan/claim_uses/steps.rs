//! The restore steps of pods: which claims an injected init container fills, and whether it has finished.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};
use kube::ResourceExt;

use super::claims_of;
use crate::model::injected::{REPOSITORY_VOLUME, RESTORE_CONTAINER};

/// A claim that a restore step has not filled yet.
#[derive(Debug, PartialEq)]
pub(super) struct RestoreStep {
    pub claim: String,
    pub state: StepState,
    /// The pod and the state of its step, for a user.
    pub message: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StepState {
    Running,
    /// The container has not started, or will be restarted after a failure.
    Waiting,
}

/// The steps which have not ended with exit code 0. `pods` are those which have not ended. A claim is left out if the
/// step of another pod has succeeded for it, because a step changes nothing in a volume which holds data.
pub(super) fn restore_steps(pods: &[&Pod]) -> Vec<RestoreStep> {
    let steps = || pods.iter().filter_map(|pod| Some((*pod, step_of(pod)?)));
    let whole: BTreeSet<&str> =
        steps().filter(|(pod, _)| is_done(pod)).flat_map(|(pod, step)| filled(pod, step)).collect();
    let mut found = Vec::new();
    for (pod, step) in steps().filter(|(pod, _)| !is_done(pod)) {
        for claim in filled(pod, step).filter(|claim| !whole.contains(claim)) {
            let (state, how) = step_state(pod);
            let name = pod.name_any();
            let message = format!(
                "pod {name}, whose step {RESTORE_CONTAINER} restores into claim {claim} and {how}; see \
                 kubectl logs {name} -c {RESTORE_CONTAINER}"
            );
            found.push(RestoreStep { claim: claim.to_owned(), state, message });
        }
    }
    found
}

/// Whether the pod has a restore step for the claim which has not ended with exit code 0.
pub(in crate::plan) fn is_step_pending(pod: &Pod, claim: &str) -> bool {
    step_of(pod).is_some_and(|step| !is_done(pod) && filled(pod, step).any(|filled| filled == claim))
}

fn step_of(pod: &Pod) -> Option<&Container> {
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.into_iter().find(|container| container.name == RESTORE_CONTAINER)
}

/// The claims which the step writes into: the pod's claims which it mounts or which its arguments name, except the
/// repository's.
fn filled<'a>(pod: &'a Pod, step: &'a Container) -> impl Iterator<Item = &'a str> {
    let writes = |volume: &str| {
        let is_mounted = step.volume_mounts.iter().flatten().any(|mount| mount.name == volume);
        let argument = format!("--volume={volume}=");
        volume != REPOSITORY_VOLUME
            && (is_mounted || step.args.iter().flatten().any(|given| given.starts_with(&argument)))
    };
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let written: BTreeSet<&str> = volumes
        .filter(|volume| writes(&volume.name))
        .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
        .collect();
    claims_of(pod).filter(move |claim| written.contains(claim))
}

fn state_of(pod: &Pod) -> Option<(&ContainerState, i32)> {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let status = statuses.into_iter().find(|status| status.name == RESTORE_CONTAINER)?;
    Some((status.state.as_ref()?, status.restart_count))
}

fn is_done(pod: &Pod) -> bool {
    let terminated = state_of(pod).and_then(|(state, _)| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
}

fn step_state(pod: &Pod) -> (StepState, String) {
    match state_of(pod) {
        Some((state, restarts)) if state.running.is_some() && restarts == 0 => (StepState::Running, "runs".to_owned()),
        Some((state, restarts)) if state.running.is_some() => {
            (StepState::Running, format!("runs, after it has failed {restarts} times"))
        }
        Some((state, restarts)) => {
            let code = state.terminated.as_ref().map(|terminated| terminated.exit_code);
            let code = code.map(|code| format!(" with exit code {code}")).unwrap_or_default();
            let how = match restarts.max(i32::from(!code.is_empty())) {
                0 => "has not started".to_owned(),
                1 => format!("has failed{code} and is restarted"),
                times => format!("has failed {times} times{code} and is restarted"),
            };
            (StepState::Waiting, how)
        }
        None => (StepState::Waiting, "has not started".to_owned()),
    }
}

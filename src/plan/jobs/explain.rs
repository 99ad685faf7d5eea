//! Why a pod does not run, or no longer does: Kubernetes' own words, and what a person can do about it.
//!
//! It must not know what the run is for.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodCondition},
};

use super::runner_state;

/// What a person can do about the words of Kubernetes: parts of them, and the advice.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["exceeded quota:", "failed quota:"],
        "raise the ResourceQuota, or set runnerPod.resources of the Repository or of the run within it",
    ),
    (
        &["usage per Container", "usage per Pod", "ratio per Container", "ratio per Pod"],
        "a LimitRange of the namespace refuses the pod: set runnerPod.resources of the Repository or of the run within it",
    ),
    (
        &["violates PodSecurity"],
        "the namespace's Pod Security level refuses the pod: set runnerPod.securityContext, or lower the level",
    ),
    (
        &["no PriorityClass with name"],
        "create the PriorityClass that runnerPod.priorityClassName names, or name another one",
    ),
    (
        &["ImagePullBackOff:", "ErrImagePull:"],
        "set runnerPod.imagePullSecrets of the Repository where the image's registry wants a login",
    ),
];

/// Why a pod does not run, in Kubernetes' own words, the most telling first.
pub(super) fn hint(job: &Job, pod: Option<&Pod>, complaints: &[String]) -> String {
    let waiting = pod.and_then(runner_state).and_then(|state| state.waiting.as_ref()).and_then(|waiting| {
        let reason =
            waiting.reason.as_deref().filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
        Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or("no message")))
    });
    let unscheduled = || {
        let condition = condition(pod?, "PodScheduled").filter(|condition| condition.status == "False")?;
        let reason = condition.reason.as_deref().unwrap_or("not scheduled");
        let words = format!("{reason}: {}", condition.message.as_deref().unwrap_or("no message"));
        Some(match only_node(job) {
            Some(node) => format!(
                "{words}; the pod has to run on node {node}, where its claim is mounted: if that node is lost, taint it with \
                 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
            ),
            None => words,
        })
    };
    let words = waiting.or_else(unscheduled).or_else(|| complaints.last().cloned()).unwrap_or_default();
    advised(words)
}

/// The words with what a person can do, where that is known.
pub(in crate::plan) fn advised(words: String) -> String {
    let advice = ADVICE.iter().find(|(parts, _)| parts.iter().any(|part| words.contains(part)));
    match advice {
        Some((_, advice)) => format!("{words}; {advice}"),
        None => words,
    }
}

/// Who ended a pod that its run would not have ended, such as a drain of its node.
pub(super) fn disruption(pod: &Pod) -> Option<String> {
    let condition = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True")?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("unknown");
    let what = match condition.reason.as_deref().unwrap_or_default() {
        "EvictionByEvictionAPI" => "its pod was evicted from node",
        "PreemptionByScheduler" => "its pod made room for one of a higher priority on node",
        "DeletionByTaintManager" => "its pod was deleted because of a taint of node",
        "TerminationByKubelet" => "its pod was ended by the kubelet of node",
        _ => "its pod was ended on node",
    };
    let message = condition.message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default();
    Some(format!("{what} {node}{message}"))
}

/// The node of a pod that can run on no other one.
fn only_node(job: &Job) -> Option<&str> {
    let affinity = job.spec.as_ref()?.template.spec.as_ref()?.affinity.as_ref()?;
    let required = affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == "metadata.name").find_map(|field| Some(field.values.as_ref()?.first()?.as_str()))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

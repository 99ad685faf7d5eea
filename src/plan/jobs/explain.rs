//! Why a pod does not start, or was ended: the message of Kubernetes, and what a user can do about it.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodCondition},
};

use kube::ResourceExt;

use super::runner_state;
use crate::plan::text::if_lost;

/// Parts of messages of Kubernetes, and what a user can do about each.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["exceeded quota:", "failed quota:"],
        "raise the ResourceQuota, or set runnerPod.resources of the Repository or of the run to fit into it",
    ),
    (
        &["usage per Container", "usage per Pod", "ratio per Container", "ratio per Pod"],
        "a LimitRange of the namespace refuses the pod: set runnerPod.resources of the Repository or of the run to fit into it, or change the LimitRange",
    ),
    (
        &["violates PodSecurity"],
        "the namespace's Pod Security level refuses the pod: set runnerPod.securityContext, or lower the level",
    ),
    (
        &["no PriorityClass with name"],
        "create the PriorityClass that runnerPod.priorityClassName names, or set an existing one",
    ),
    (
        &["ImagePullBackOff:", "ErrImagePull:"],
        "if the image's registry requires a login, set runnerPod.imagePullSecrets of the Repository",
    ),
    (
        &["node(s) were unschedulable"],
        "if the pod needs a cordoned node, for example because the volume of its claim is there, end the cordon: kubectl uncordon NODE",
    ),
];

/// Why a pod does not start, as Kubernetes reports it: by the container's state, else the pod's, else the last warning.
pub(super) fn hint(job: &Job, pod: Option<&Pod>, warning_events: &[String]) -> String {
    let waiting = pod.and_then(runner_state).and_then(|state| state.waiting.as_ref()).and_then(|waiting| {
        let reason =
            waiting.reason.as_deref().filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
        Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or("no message")))
    });
    let unscheduled = || {
        let condition = condition(pod?, "PodScheduled").filter(|condition| condition.status == "False")?;
        let reason = condition.reason.as_deref().unwrap_or("not scheduled");
        let message = format!("{reason}: {}", condition.message.as_deref().unwrap_or("no message"));
        Some(match only_node(job) {
            Some(node) => {
                format!("{message}; the pod has to run on node {node}, where its claim is mounted: {}", if_lost(node))
            }
            None => message,
        })
    };
    let node = pod.and_then(node_of);
    let leaving = || {
        let pod = pod.filter(|pod| pod.metadata.deletion_timestamp.is_some())?;
        let node = node?;
        Some(format!("pod {} is being deleted and has not ended on node {node}: {}", pod.name_any(), if_lost(node)))
    };
    // A pod which has a node was scheduled after that warning.
    let is_current = |event: &&String| node.is_none() || !event.starts_with("FailedScheduling");
    let warning = || warning_events.iter().rev().find(is_current).cloned();
    let message = waiting.or_else(unscheduled).or_else(leaving).or_else(warning).unwrap_or_default();
    with_advice(message)
}

/// The message, followed by what a user can do about it if that is known.
pub(in crate::plan) fn with_advice(message: String) -> String {
    let advice = ADVICE.iter().find(|(parts, _)| parts.iter().any(|part| message.contains(part)));
    match advice {
        Some((_, advice)) => format!("{message}; {advice}"),
        None => message,
    }
}

/// Whether all warnings are refusals of the Job's pod by a LimitRange alone. Such a refusal depends only on the pod and
/// the LimitRange, so it remains until a user changes one of them. A ResourceQuota, in contrast, admits the pod once
/// another pod has ended, and an admission webhook may decide differently later.
pub(super) fn is_refused_for_good(warning_events: &[String]) -> bool {
    !warning_events.is_empty() && warning_events.iter().all(|event| is_only_out_of_range(event))
}

/// Whether the warning is `FailedCreate` with causes of a LimitRange alone. Kubernetes writes several causes as
/// `[cause, cause]`. A list that is cut has no end, so its causes are not all known.
fn is_only_out_of_range(event: &str) -> bool {
    let refusal = event.strip_prefix("FailedCreate: ").and_then(|text| {
        let text = text.strip_prefix("(combined from similar events): ").unwrap_or(text);
        text.strip_prefix("Error creating: pods \"")?.split_once("\" is forbidden: ")
    });
    let Some((_, causes)) = refusal else { return false };
    let causes = causes.strip_prefix('[').and_then(|causes| causes.strip_suffix(']')).unwrap_or(causes);
    // Each cause may have a second part, such as `but limit is 2`.
    let is_second = |part: &str| SECOND_PARTS.iter().any(|begin| part.starts_with(begin));
    causes.split(", ").enumerate().all(|(at, part)| is_out_of_range(part) || at > 0 && is_second(part))
}

/// Whether the text begins as a cause of a LimitRange, for example `maximum cpu usage per Container is 1`.
fn is_out_of_range(cause: &str) -> bool {
    let is_bound = cause.starts_with("maximum ") || cause.starts_with("minimum ");
    let has = |what: &str| ["Container", "Pod"].iter().any(|kind| cause.contains(&format!(" {what} per {kind} is ")));
    is_bound && has("usage") || has("max limit to request ratio")
}

/// The second parts of a LimitRange's causes.
const SECOND_PARTS: [&str; 5] =
    ["but limit is ", "but request is ", "but provided ratio is ", "but no limit is ", "but no request is "];

/// What disrupted the pod, such as a drain of its node.
pub(super) fn disruption(pod: &Pod) -> Option<String> {
    let condition = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True")?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("unknown");
    let what = match condition.reason.as_deref().unwrap_or_default() {
        "EvictionByEvictionAPI" => "its pod was evicted from node",
        "PreemptionByScheduler" => "its pod was preempted by a pod of a higher priority on node",
        "DeletionByTaintManager" => "its pod was deleted because of a taint of node",
        "TerminationByKubelet" => "its pod was ended by the kubelet of node",
        _ => "its pod was ended on node",
    };
    let message = condition.message.as_deref().map(|message| format!(" ({message})")).unwrap_or_default();
    Some(format!("{what} {node}{message}"))
}

/// The node which the pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The node which the Job's pod is restricted to.
fn only_node(job: &Job) -> Option<&str> {
    let affinity = job.spec.as_ref()?.template.spec.as_ref()?.affinity.as_ref()?;
    let required = affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter(|field| field.key == "metadata.name").find_map(|field| Some(field.values.as_ref()?.first()?.as_str()))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

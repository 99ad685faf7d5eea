//! What the pod of a run has unless its `runnerPod` names something else: where it may run, which other tools leave it alone, and
//! its environment variables.
//!
//! It must not know what the run does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMapKeySelector, EnvVar, EnvVarSource, SecretKeySelector, Toleration};

use crate::api::{RunnerPod, RunnerVariable, SecretKeyReference, VariableSource};

/// The labels or annotations by which the proxies of meshes are kept out: such a proxy would live on when the run has ended.
const NO_PROXY: [(&str, &str); 3] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("kuma.io/sidecar-injection", "disabled"),
];
/// Of those, the one that is an annotation alone.
const ANNOTATION_ALONE: &str = "linkerd.io/inject";
/// The annotations by which an autoscaler leaves the node of a run alone until the run has ended.
const NO_EVICTION: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];
/// Taints of a node that a pod which has to run there tolerates: it has nowhere else to go, and a node that is about to be
/// drained is backed up best before that.
const OF_ITS_NODE: [&str; 5] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/not-ready",
];

/// The nodes that Stowaway's image runs on.
pub(super) fn node_selector() -> BTreeMap<String, String> {
    BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())])
}

/// Labels and annotations. Where the user sets one of a mesh, as a label or as an annotation, both are the user's.
pub(super) fn metadata(wishes: &RunnerPod) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let is_set = |key: &str| wishes.labels.contains_key(key) || wishes.annotations.contains_key(key);
    let of_meshes: Vec<(&str, &str)> = NO_PROXY.into_iter().filter(|(key, _)| !is_set(key)).collect();
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let labels = of_meshes.iter().copied().filter(|(key, _)| *key != ANNOTATION_ALONE).map(owned).collect();
    (labels, of_meshes.into_iter().chain(NO_EVICTION).map(owned).collect())
}

/// What a pod tolerates that can run on one node alone.
pub(super) fn tolerations_on_its_node() -> impl Iterator<Item = Toleration> {
    OF_ITS_NODE.into_iter().map(|taint| Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    })
}

/// The variables of the Repository and of the run, which count more.
pub(super) fn merged_variables(repository: Vec<RunnerVariable>, run: Vec<RunnerVariable>) -> Vec<RunnerVariable> {
    let is_replaced = |one: &RunnerVariable| run.iter().any(|other| other.name == one.name);
    let kept: Vec<RunnerVariable> = repository.into_iter().filter(|one| !is_replaced(one)).collect();
    kept.into_iter().chain(run).collect()
}

/// Stowaway's own variables, and those of the user that have other names.
pub(super) fn with_variables(mut own: Vec<EnvVar>, variables: Vec<RunnerVariable>) -> Vec<EnvVar> {
    for variable in variables {
        if !variable.is_reserved() && own.iter().all(|present| present.name != variable.name) {
            own.push(environment_variable(variable));
        }
    }
    own
}

fn environment_variable(RunnerVariable { name, value, value_from }: RunnerVariable) -> EnvVar {
    let value_from = value_from.map(|VariableSource { secret_key_ref, config_map_key_ref }| EnvVarSource {
        secret_key_ref: secret_key_ref.map(|SecretKeyReference { name, key }| SecretKeySelector {
            name,
            key,
            optional: None,
        }),
        config_map_key_ref: config_map_key_ref.map(|SecretKeyReference { name, key }| ConfigMapKeySelector {
            name,
            key,
            optional: None,
        }),
        ..EnvVarSource::default()
    });
    EnvVar { name, value, value_from }
}

//! Settings of a run's pod besides its `runnerPod`: the node selector and the tolerations, which it cannot override,
//! the labels and annotations which keep other tools away, and the merged environment variables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMapKeySelector, EnvVar, EnvVarSource, SecretKeySelector, Toleration};

use crate::api::{RunnerPod, RunnerVariable, SecretKeyReference, VariableSource};

/// Labels or annotations that disable proxies of service meshes. Such a proxy would keep running after the run has
/// ended.
const NO_PROXY: [(&str, &str); 3] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("kuma.io/sidecar-injection", "disabled"),
];
/// The key in `NO_PROXY` which is only valid as an annotation.
const ANNOTATION_ONLY: &str = "linkerd.io/inject";
/// Annotations that keep autoscalers from removing the node of a run before the run has ended.
const NO_EVICTION: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];
/// Taints that a pod tolerates which can run on one node only. It has no other node, and a node that is about to be
/// drained is best backed up before that.
const TOLERATED_TAINTS: [&str; 5] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/not-ready",
];

/// Selects the nodes on which Stowaway's image can run.
pub(super) fn node_selector() -> BTreeMap<String, String> {
    BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())])
}

/// Default labels and annotations. If the user sets the key of a mesh, as a label or as an annotation, neither default
/// is set.
pub(super) fn metadata(runner_pod: &RunnerPod) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let is_set = |key: &str| runner_pod.labels.contains_key(key) || runner_pod.annotations.contains_key(key);
    let of_meshes: Vec<(&str, &str)> = NO_PROXY.into_iter().filter(|(key, _)| !is_set(key)).collect();
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let labels = of_meshes.iter().copied().filter(|(key, _)| *key != ANNOTATION_ONLY).map(owned).collect();
    (labels, of_meshes.into_iter().chain(NO_EVICTION).map(owned).collect())
}

/// The tolerations of a pod that can run on one node only.
pub(super) fn tolerations_on_its_node() -> impl Iterator<Item = Toleration> {
    TOLERATED_TAINTS.into_iter().map(|taint| Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    })
}

/// The variables of the Repository and of the run. Those of the run take precedence.
pub(super) fn merged_variables(repository: Vec<RunnerVariable>, run: Vec<RunnerVariable>) -> Vec<RunnerVariable> {
    let is_replaced = |one: &RunnerVariable| run.iter().any(|other| other.name == one.name);
    let kept: Vec<RunnerVariable> = repository.into_iter().filter(|one| !is_replaced(one)).collect();
    kept.into_iter().chain(run).collect()
}

/// Stowaway's own variables, and the user's variables with other names.
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

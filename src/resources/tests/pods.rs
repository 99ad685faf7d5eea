//! The defaults of a run's pod, and the settings that a user can change.

use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::*;

fn template(mount: &ClaimMount, requested: &serde_json::Value) -> PodTemplateSpec {
    let requested: RunnerPod = serde_json::from_value(requested.clone()).unwrap();
    claim_job(mount, Some(&requested), false).spec.unwrap().template
}

#[test]
fn pod_runs_on_linux_whatever_else_the_user_selects() {
    let requested = json!({ "nodeSelector": { "disk": "fast", "kubernetes.io/os": "windows" } });
    let selector = template(&mount((70, None), None), &requested).spec.unwrap().node_selector.unwrap();
    assert_eq!(value(&selector), json!({ "disk": "fast", "kubernetes.io/os": "linux" }));
}

#[test]
fn mesh_and_autoscaler_leave_a_run_alone_unless_the_user_overrides_it() {
    let metadata = |requested: serde_json::Value| {
        let metadata = template(&mount((70, None), None), &requested).metadata.unwrap();
        (value(&metadata.labels), value(&metadata.annotations))
    };
    let (labels, annotations) = metadata(json!({}));
    assert_eq!(
        (&labels["sidecar.istio.io/inject"], &labels["kuma.io/sidecar-injection"]),
        (&json!("false"), &json!("disabled"))
    );
    for (key, expected) in [
        ("sidecar.istio.io/inject", "false"),
        ("linkerd.io/inject", "disabled"),
        ("kuma.io/sidecar-injection", "disabled"),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
        ("karpenter.sh/do-not-disrupt", "true"),
    ] {
        assert_eq!(annotations[key], expected, "{key}");
    }
    let (labels, annotations) = metadata(json!({
        "labels": { "sidecar.istio.io/inject": "true" },
        "annotations": { "linkerd.io/inject": "enabled", "kuma.io/sidecar-injection": "enabled", "karpenter.sh/do-not-disrupt": "false" },
    }));
    assert_eq!(labels["sidecar.istio.io/inject"], "true");
    assert_eq!(
        labels["kuma.io/sidecar-injection"],
        json!(null),
        "a default label would count more than the user's annotation"
    );
    assert_eq!(annotations["sidecar.istio.io/inject"], json!(null));
    assert_eq!(
        (&annotations["linkerd.io/inject"], &annotations["karpenter.sh/do-not-disrupt"]),
        (&json!("enabled"), &json!("false"))
    );
    assert_eq!(labels["stowaway.dev/kind"], "backup");
}

#[test]
fn pod_that_has_one_node_alone_runs_on_it_although_it_is_cordoned() {
    let tolerated = |node: Option<&str>| {
        let pod = template(&mount((70, None), node), &json!({})).spec.unwrap();
        let tolerations = pod.tolerations.unwrap_or_default();
        let of_taint = |taint: &str| tolerations.iter().filter(|one| one.key.as_deref() == Some(taint)).count();
        ["unschedulable", "memory-pressure", "disk-pressure", "pid-pressure", "not-ready"]
            .map(|taint| of_taint(&format!("node.kubernetes.io/{taint}")))
    };
    assert_eq!(tolerated(Some("cellar-7")), [1; 5]);
    assert_eq!(tolerated(None), [0; 5], "it has somewhere else to go");
}

#[test]
fn variables_of_the_user_are_set_beside_those_of_stowaway_and_never_replace_them() {
    let variable = |name: &str| json!({ "name": name, "value": "forged" });
    let mut variables = vec![
        json!({ "name": "HTTPS_PROXY", "valueFrom": { "secretKeyRef": { "name": "proxy", "key": "url" } } }),
        json!({ "name": "SSL_CERT_FILE", "valueFrom": { "configMapKeyRef": { "name": "authorities", "key": "path" } } }),
        json!({ "name": "NO_PROXY", "value": "10.0.0.0/8" }),
    ];
    let reserved = [
        "STOWAWAY_TASK",
        "POD_NAMESPACE",
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "GLIBC_TUNABLES",
        "GCONV_PATH",
        "PATH",
        "HOME",
    ];
    variables.extend(reserved.map(variable));
    let template = template(&mount((70, None), None), &json!({ "env": variables, "priorityClassName": "nightly" }));
    let pod = template.spec.unwrap();
    assert_eq!(pod.priority_class_name.as_deref(), Some("nightly"));
    let environment = value(&pod.containers[0].env);
    assert!(!environment.to_string().contains("forged"), "{environment}");
    let of = |name: &str| environment.as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap();
    assert_eq!(of("HTTPS_PROXY")["valueFrom"], json!({ "secretKeyRef": { "name": "proxy", "key": "url" } }));
    assert_eq!(
        of("SSL_CERT_FILE")["valueFrom"],
        json!({ "configMapKeyRef": { "name": "authorities", "key": "path" } })
    );
    assert_eq!(of("NO_PROXY")["value"], "10.0.0.0/8");
}

#[test]
fn variable_of_a_run_replaces_that_of_its_repository() {
    let variable = |name: &str, value: &str| json!({ "name": name, "value": value });
    let mut repository = on_s3();
    let of_repository = json!({ "env": [variable("A", "1"), variable("B", "2")], "priorityClassName": "low" });
    repository.runner_pod = Some(serde_json::from_value(of_repository).unwrap());
    let of_run = serde_json::from_value(json!({ "env": [variable("B", "3")] })).unwrap();
    let made = job(&JobRequest {
        owner: &owner("Repository", "cellar"),
        kind: RunKind::Init,
        source: "generation/1",
        attempt: 1,
        task: &task(&repository, TaskKind::Init),
        repository_name: "cellar",
        repository: &repository,
        runner_pod: Some(&of_run),
        claim: None,
        assigns_users: false,
        timeout: None,
        target: None,
        image: "registry.example/runner:9",
    })
    .unwrap();
    let pod = pod_of(made);
    let environment: Vec<(String, Option<String>)> =
        pod.containers[0].env.iter().flatten().map(|one| (one.name.clone(), one.value.clone())).collect();
    let of = |name: &str| {
        environment.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_deref()).collect::<Vec<_>>()
    };
    assert_eq!((of("A"), of("B")), (vec![Some("1")], vec![Some("3")]));
    assert_eq!(pod.priority_class_name.as_deref(), Some("low"));
}

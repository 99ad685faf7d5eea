//! The effect of a Repository's `runnerPod` on pods which use its store, and the resources of injected containers.

use proptest::prelude::*;
use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    inject::{InjectionFacts, Outcome, inject},
};

use super::{REPOSITORIES, facts};

fn repository() -> Vec<Repository> {
    let mut repository = REPOSITORIES[0].clone();
    repository.spec.runner_pod = Some(
        serde_json::from_value(json!({
            "imagePullSecrets": [{ "name": "registry" }, { "name": "mirror" }],
            "env": [
                { "name": "HTTPS_PROXY", "valueFrom": { "secretKeyRef": { "name": "proxy", "key": "url" } } },
                { "name": "NO_PROXY", "value": "10.0.0.0/8" },
                { "name": "STOWAWAY_BACKEND", "value": "forged" },
                { "name": "LD_PRELOAD", "value": "forged" },
            ],
        }))
        .unwrap(),
    );
    vec![repository]
}

fn decide(pod: &Value, repositories: &[Repository]) -> Outcome {
    inject(pod, &InjectionFacts { repositories, ..facts() })
}

fn pod(annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": { "annotations": annotations },
        "spec": { "containers": [{ "name": "press" }], "volumes": [{ "name": "barrels", "emptyDir": {} }] },
    });
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn sidecar(spec: &Value) -> Value {
    pod(&json!({ "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "barrels" }), spec)
}

fn patched(pod: &Value, repositories: &[Repository]) -> Value {
    let outcome = decide(pod, repositories);
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &outcome.patch).unwrap();
    assert!(decide(&patched, repositories).patch.is_empty(), "a second injection changes nothing: {patched}");
    patched
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    pod["spec"]["initContainers"].as_array().unwrap().iter().find(|container| container["name"] == name).unwrap()
}

#[test]
fn variables_of_the_repository_reach_what_uses_its_store() {
    let annotations = json!({
        "stowaway.dev/inject": "sidecar", "stowaway.dev/restore": "on-empty", "stowaway.dev/volumes": "barrels",
    });
    let patched = patched(&pod(&annotations, &json!({})), &repository());
    for name in ["stowaway-sidecar", "stowaway-restore"] {
        let environment = &container(&patched, name)["env"];
        let of = |name: &str| environment.as_array().unwrap().iter().find(|one| one["name"] == name);
        // A missing Secret must not keep the app from starting.
        let from = json!({ "secretKeyRef": { "name": "proxy", "key": "url", "optional": true } });
        assert_eq!(of("HTTPS_PROXY").unwrap()["valueFrom"], from, "{name}");
        assert_eq!(of("NO_PROXY").unwrap()["value"], "10.0.0.0/8", "{name}");
        assert!(of("LD_PRELOAD").is_none() && !environment.to_string().contains("forged"), "{name}: {environment}");
    }
    assert!(patched["spec"]["containers"][0]["env"].is_null(), "the app's variables are not touched");
}

#[test]
fn pull_secrets_of_the_repository_are_added_to_those_of_the_pod() {
    let secrets = |pod: &Value| patched(pod, &repository())["spec"]["imagePullSecrets"].clone();
    assert_eq!(secrets(&sidecar(&json!({}))), json!([{ "name": "registry" }, { "name": "mirror" }]));
    let own = json!({ "imagePullSecrets": [{ "name": "own" }, { "name": "mirror" }] });
    assert_eq!(secrets(&sidecar(&own)), json!([{ "name": "own" }, { "name": "mirror" }, { "name": "registry" }]));
    let helper = pod(&json!({ "stowaway.dev/backupcommand": "dump" }), &json!({}));
    assert_eq!(secrets(&helper), json!([{ "name": "registry" }, { "name": "mirror" }]));
}

#[test]
fn pod_that_has_all_but_the_pull_secrets_is_left_alone() {
    let mut running = patched(&sidecar(&json!({})), &repository());
    running["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
    assert!(decide(&running, &repository()).patch.is_empty());
    let plain = pod(&json!({}), &json!({}));
    assert!(decide(&plain, &repository()).patch.is_empty());
}

fn millis(amount: &Value) -> i64 {
    let text = amount.as_str().unwrap();
    text.strip_suffix('m').map_or_else(|| text.parse::<i64>().unwrap() * 1000, |text| text.parse().unwrap())
}

proptest! {
    #[test]
    fn injected_containers_fit_every_limit_range_of_cpu_that_the_app_fits(
        apps in proptest::collection::vec((1_i64..8000, 1_i64..8000, any::<bool>()), 1..4)
    ) {
        let containers: Vec<Value> = apps.iter().enumerate().map(|(index, (one, other, has_memory))| {
            let (request, limit) = (one.min(other), one.max(other));
            let mut limits = json!({ "cpu": format!("{limit}m") });
            if *has_memory {
                limits["memory"] = "64Mi".into();
            }
            json!({
                "name": format!("app-{index}"),
                "resources": { "requests": { "cpu": format!("{request}m") }, "limits": limits },
            })
        }).collect();
        let annotations = json!({
            "stowaway.dev/inject": "sidecar", "stowaway.dev/restore": "on-empty", "stowaway.dev/volumes": "barrels",
            "stowaway.dev/backupcommand": "dump",
        });
        let patched = patched(&pod(&annotations, &json!({ "containers": containers })), &repository());
        let highest = apps.iter().map(|(one, other, _)| *one.max(other)).max().unwrap();
        for container in patched["spec"]["initContainers"].as_array().unwrap() {
            let resources = &container["resources"];
            let (limit, request) = (millis(&resources["limits"]["cpu"]), millis(&resources["requests"]["cpu"]));
            prop_assert!(limit <= highest, "{container}");
            prop_assert!(request <= limit, "{container}");
            prop_assert!(request <= 500 || container["name"] != "stowaway-sidecar", "{container}");
            let fits = apps.iter().any(|(one, other, _)| limit * one.min(other) <= request * one.max(other));
            prop_assert!(fits, "{limit} is a greater multiple of {request} than any of the app's: {apps:?}");
            prop_assert_eq!(&resources["limits"]["memory"], &resources["requests"]["memory"]);
        }
    }
}

#[test]
fn annotation_sets_the_resources_of_the_sidecar() {
    let wanted = json!({ "limits": { "cpu": "250m", "memory": "128Mi" }, "requests": { "cpu": "25m" } });
    let mut pod = sidecar(&json!({}));
    pod["metadata"]["annotations"]["stowaway.dev/sidecar-resources"] = wanted.to_string().into();
    assert_eq!(container(&patched(&pod, &repository()), "stowaway-sidecar")["resources"], wanted);
}

#[test]
fn app_without_a_cpu_limit_is_bounded_by_no_limit_range() {
    let resources = container(&patched(&sidecar(&json!({})), &repository()), "stowaway-sidecar")["resources"].clone();
    assert_eq!((&resources["limits"]["cpu"], &resources["requests"]["cpu"]), (&json!("2"), &json!("10m")));
}

//! Running pods, and whether they have what their annotations request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use stowaway::{
    annotations::Injection,
    inject::{Cause, Effect},
    watchdog::{InjectionState, WatchdogFacts, by_label, injection_state, is_watched, may_request_injection},
};

use super::{IMAGE, REPOSITORIES, decide, properties::likely_pod};

pub fn facts() -> WatchdogFacts<'static> {
    WatchdogFacts { namespace: "orchard", by_namespace: None, image: IMAGE, repositories: &REPOSITORIES }
}

fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": {
            "name": "mill-0",
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "mill", "uid": "x", "controller": true }],
        },
        "spec": {
            "containers": [{ "name": "press", "image": "press:3", "volumeMounts": [{ "name": "barrels", "mountPath": "/b" }] }],
            "volumes": [{ "name": "barrels", "persistentVolumeClaim": { "claimName": "barrels" } }],
        },
        "status": { "phase": "Running" },
    })
}

fn injected(pod: &Value) -> Value {
    decide(pod).apply(pod).unwrap()
}

/// The pod as it is read later, with what the API server, its admission plugins and other controllers add to every pod.
fn defaulted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let set = |object: &mut Value, field: &str, value: Value| {
        if object[field].is_null() {
            object[field] = value;
        }
    };
    let api_access = json!({ "name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true });
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            set(container, "terminationMessagePath", json!("/dev/termination-log"));
            set(container, "terminationMessagePolicy", json!("File"));
            set(container, "imagePullPolicy", json!("Always"));
            set(container, "volumeMounts", json!([]));
            container["volumeMounts"].as_array_mut().unwrap().push(api_access.clone());
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                    field["apiVersion"] = "v1".into();
                }
            }
            // Defaults of a LimitRange, and of the API server.
            set(container, "resources", json!({}));
            set(&mut container["resources"], "limits", json!({}));
            container["resources"]["limits"]["ephemeral-storage"] = "1Gi".into();
            let limits = container["resources"]["limits"].clone();
            set(&mut container["resources"], "requests", json!({}));
            for (kind, amount) in limits.as_object().unwrap() {
                set(&mut container["resources"]["requests"], kind, amount.clone());
            }
        }
    }
    let spec = &mut pod["spec"];
    set(spec, "volumes", json!([]));
    for volume in spec["volumes"].as_array_mut().unwrap() {
        for (kind, field, value) in [
            ("projected", "defaultMode", json!(420)),
            ("secret", "defaultMode", json!(420)),
            ("hostPath", "type", json!("")),
        ] {
            if volume[kind].is_object() {
                set(&mut volume[kind], field, value);
            }
        }
    }
    spec["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "kube-api-access-x", "projected": { "sources": [] } }));
    for (field, value) in [
        ("nodeName", json!("node")),
        ("serviceAccountName", json!("default")),
        ("schedulerName", json!("default-scheduler")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("restartPolicy", json!("Always")),
        ("enableServiceLinks", json!(true)),
        ("securityContext", json!({})),
        ("tolerations", json!([{ "key": "node.kubernetes.io/not-ready", "operator": "Exists" }])),
        // A user debugs the pod.
        (
            "ephemeralContainers",
            json!([{ "name": "debug", "image": "x", "securityContext": { "runAsUser": 0 },
            "volumeMounts": [{ "name": "data", "mountPath": "/x" }, { "name": "stowaway-helper", "mountPath": "/y" }] }]),
        ),
    ] {
        set(spec, field, value);
    }
    pod["metadata"]["uid"] = "uid".into();
    pod["metadata"]["creationTimestamp"] = "2026-01-31T23:59:59Z".into();
    pod["status"] = json!({ "phase": "Running", "qosClass": "Burstable" });
    pod
}

#[test]
fn injection_states_are_distinguished() {
    let command = json!({ "stowaway.dev/backupcommand": "dump" });
    let change = |pod: &Value, path: &str, value: Value| {
        let mut pod = pod.clone();
        let patch = json!([{ "op": "add", "path": path, "value": value }]);
        json_patch::patch(&mut pod, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
        pod
    };
    let missing =
        |what: &[&str]| InjectionState::Missing { what: what.iter().map(|what| (*what).to_owned()).collect() };
    let bare = pod(&command);
    let whole = injected(&bare);
    for (case, pod, expected) in [
        ("requests nothing", pod(&json!({})), InjectionState::NotNeeded),
        (
            "opted out",
            pod(&json!({ "stowaway.dev/backupcommand": "dump", "stowaway.dev/inject": "none" })),
            InjectionState::NotNeeded,
        ),
        ("without", bare.clone(), missing(&["stowaway-helper"])),
        ("with", whole.clone(), InjectionState::Injected),
        ("pending", change(&bare, "/status", json!({ "phase": "Pending" })), missing(&["stowaway-helper"])),
        ("without a status", change(&bare, "/status", json!(null)), missing(&["stowaway-helper"])),
        ("has ended", change(&bare, "/status/phase", json!("Succeeded")), InjectionState::NotNeeded),
        ("has failed", change(&bare, "/status/phase", json!("Failed")), InjectionState::NotNeeded),
        (
            "ends",
            change(&bare, "/metadata/deletionTimestamp", json!("2026-01-31T23:59:59Z")),
            InjectionState::NotNeeded,
        ),
        (
            "of a node",
            change(&bare, "/metadata/annotations/kubernetes.io~1config.mirror", json!("x")),
            InjectionState::NotNeeded,
        ),
        ("on Windows", change(&bare, "/spec/os", json!({ "name": "windows" })), InjectionState::NotNeeded),
        ("half", change(&whole, "/spec/containers/0/volumeMounts", json!([])), missing(&["stowaway-helper"])),
        (
            "of another version",
            change(&whole, "/spec/initContainers/0/image", json!("registry.example/stowaway@sha256:01d")),
            InjectionState::Outdated,
        ),
        (
            "half of another version",
            change(
                &change(&whole, "/spec/initContainers/0/image", json!("registry.example/stowaway@sha256:01d")),
                "/spec/containers/0/volumeMounts",
                json!([]),
            ),
            InjectionState::Outdated,
        ),
        (
            "sidecar and restore",
            pod(&json!({ "stowaway.dev/inject": "sidecar", "stowaway.dev/restore": "on-empty" })),
            missing(&["stowaway-restore", "stowaway-scratch", "stowaway-sidecar", "stowaway-store"]),
        ),
    ] {
        assert_eq!(injection_state(&pod, &facts()), expected, "{case}");
    }
}

#[test]
fn injection_that_a_new_pod_could_not_have_either_is_reported_with_its_cause() {
    for (annotations, cause) in [
        (json!({ "stowaway.dev/backupcommand": "" }), Cause::InvalidAnnotation),
        (
            json!({ "stowaway.dev/backupcommand": "x", "stowaway.dev/backupcommand-container": "y" }),
            Cause::UnknownContainer,
        ),
        (json!({ "stowaway.dev/inject": "sidecar", "stowaway.dev/repository": "attic" }), Cause::RepositoryNotFound),
    ] {
        // What the pod lacks does not depend on whether a controller created it.
        let controlled = pod(&annotations);
        let mut bare = controlled.clone();
        bare["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        for pod in [controlled, bare] {
            let found = injection_state(&pod, &facts());
            assert_eq!(found.reason(), Some(cause.to_string()), "{found:?}");
            assert!(found.note().starts_with("it runs without the requested injection: "), "{}", found.note());
        }
    }
    let sidecar = pod(&json!({ "stowaway.dev/inject": "sidecar" }));
    let found = injection_state(&sidecar, &WatchdogFacts { repositories: &[], ..facts() });
    assert!(found.wants_repository(), "{found:?}");
    assert!(!injection_state(&sidecar, &facts()).wants_repository());
}

#[test]
fn namespaces_request_injection_by_their_label_and_system_namespaces_never_do() {
    let label = |value: &str| by_label(Some(&[("stowaway.dev/inject".to_owned(), value.to_owned())].into()));
    assert_eq!(label("helper"), Some(Injection::Helper));
    assert_eq!(label("sidecar"), Some(Injection::Sidecar));
    assert_eq!(label("none"), Some(Injection::None));
    assert_eq!((label("x"), by_label(None)), (None, None));
    let labelled = WatchdogFacts { by_namespace: label("helper"), ..facts() };
    assert!(matches!(injection_state(&pod(&json!({})), &labelled), InjectionState::Missing { .. }));
    assert!(is_watched("shop", "stowaway-system"));
    assert!(!is_watched("kube-system", "stowaway-system") && !is_watched("stowaway-system", "stowaway-system"));
}

#[test]
fn only_pods_that_may_request_injection_are_read() {
    let map = |key: &str| Some([(key.to_owned(), "x".to_owned())].into());
    let owner =
        |kind: &str| OwnerReference { kind: kind.to_owned(), controller: Some(true), ..OwnerReference::default() };
    let metadata = |annotation: &str, label: &str, kind: &str| ObjectMeta {
        annotations: map(annotation),
        labels: map(label),
        owner_references: Some(vec![owner(kind)]),
        ..ObjectMeta::default()
    };
    let is_relevant = |annotation: &str, label: &str, by_namespace| {
        may_request_injection(&metadata(annotation, label, "Job"), by_namespace)
    };
    assert!(!is_relevant("prometheus.io/scrape", "app", None));
    assert!(!may_request_injection(&ObjectMeta::default(), None));
    for annotation in ["stowaway.dev/backupcommand", "stowaway.dev/typo", "k8up.io/backupcommand"] {
        assert!(is_relevant(annotation, "app", None), "{annotation}");
        assert!(!is_relevant(annotation, "stowaway.dev/kind", None), "a run");
        let hidden = metadata(annotation, "stowaway.dev/kind", "ReplicaSet");
        assert!(may_request_injection(&hidden, None), "a label that anyone may set hides no pod");
    }
    assert!(may_request_injection(&ObjectMeta::default(), Some(Injection::Helper)));
    assert!(!may_request_injection(&ObjectMeta::default(), Some(Injection::None)));
}

#[test]
fn watchdog_finds_any_pod_as_the_webhook_left_it() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 1_000, ..ProptestConfig::default() });
    let checked = runner.run(&likely_pod(), |pod| {
        let outcome = decide(&pod);
        let left_alone = injection_state(&defaulted(&pod), &facts());
        if !outcome.findings.is_empty() {
            prop_assert_eq!(left_alone, InjectionState::CannotBe { findings: outcome.findings });
            return Ok(());
        }
        if outcome.effect != Effect::Inject || outcome.patch.is_empty() {
            prop_assert!(left_alone.reason().is_none(), "{:?}", left_alone);
            return Ok(());
        }
        prop_assert!(matches!(left_alone, InjectionState::Missing { .. }), "{:?} {:#}", left_alone, pod);
        let patched = outcome.apply(&pod).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(injection_state(&defaulted(&patched), &facts()), InjectionState::Injected, "{:#}", patched);
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

//! Properties of the injection into any pod: nothing of the user's is lost, and a second injection changes nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::core::v1::Pod;
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::TestRunner};
use serde_json::{Map, Value, json};
use stowaway::inject::{Cause, Effect, QualityOfService, quality_of_service};

use super::{IMAGE, decide, has_reserved_name, is_restricted, unrestricted};

/// Enough that at least [`INJECTED`] of the pods are injected, because a pod which is not injected proves little.
const POD_CASES: u32 = 13_000;
const INJECTED: u32 = 10_000;

/// Names which collide with each other and with the reserved names.
fn any_name() -> impl Strategy<Value = &'static str> {
    let reserved = select(vec!["stowaway-helper", "stowaway-sidecar", "stowaway-restore"]);
    prop_oneof![19 => select(vec!["a", "a", "b", "c"]), 1 => reserved]
}

fn any_volume() -> impl Strategy<Value = Value> {
    let kind = select(vec![
        json!({ "persistentVolumeClaim": { "claimName": "x" } }),
        json!({ "persistentVolumeClaim": { "claimName": "x" } }),
        json!({ "persistentVolumeClaim": { "claimName": "x", "readOnly": true } }),
        json!({ "emptyDir": {} }),
        json!({ "emptyDir": { "sizeLimit": "16Mi" } }),
        json!({ "secret": { "secretName": "x" } }),
        json!({ "ofTheFuture": { "x": [1, null] } }),
    ]);
    let reserved = select(vec!["stowaway-helper", "stowaway-store"]);
    let name = prop_oneof![9 => select(vec!["data", "data", "wal", "a"]), 1 => reserved];
    (name, kind).prop_map(|(name, mut volume)| {
        volume["name"] = name.into();
        volume
    })
}

fn any_mount() -> impl Strategy<Value = Value> {
    let name = prop_oneof![9 => select(vec!["data", "wal", "a"]), 1 => Just("stowaway-helper")];
    let path = prop_oneof![9 => select(vec!["/data", "/wal", "/x", "/stowaway-more"]), 1 => Just("/stowaway")];
    (name, path, any::<bool>()).prop_map(|(name, path, read_only)| {
        let mut mount = json!({ "name": name, "mountPath": path });
        if read_only {
            mount["readOnly"] = true.into();
        }
        mount
    })
}

fn any_resources() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!({}),
        json!({ "requests": { "cpu": "1" } }),
        json!({ "limits": { "cpu": "1", "memory": "1Gi" } }),
        json!({ "limits": { "cpu": "1", "memory": "64Mi" }, "requests": { "cpu": "1000m", "memory": "64Mi" } }),
        json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "100m", "memory": "1Gi" } }),
        json!({ "limits": { "cpu": [], "memory": "x" } }),
    ])
}

fn any_container() -> impl Strategy<Value = Value> {
    (
        any_name(),
        option::of(vec(any_mount(), 0..3)),
        any_resources(),
        option::of(select(vec![
            json!({ "runAsUser": 0 }),
            json!({ "runAsUser": 999 }),
            json!({ "runAsUser": 999, "runAsGroup": 1 }),
            json!({ "runAsNonRoot": true }),
            json!({ "runAsNonRoot": true, "runAsGroup": 1 }),
            json!({ "runAsNonRoot": false }),
            json!({ "runAsUser": null }),
        ])),
        option::of(Just("Always")),
        select(vec!["app", IMAGE, "registry.example/stowaway:0"]),
    )
        .prop_map(|(name, mounts, resources, security, restart, image)| {
            let mut container = json!({ "name": name, "image": image, "ofTheFuture": { "/~": [null] } });
            let mut set = |key: &str, value: Option<Value>| value.map(|value| container[key] = value);
            set("volumeMounts", mounts.map(Value::from));
            set("resources", Some(resources).filter(|resources| !resources.is_null()));
            set("securityContext", security);
            set("restartPolicy", restart.map(Value::from));
            container
        })
}

fn any_annotations() -> impl Strategy<Value = Value> {
    let pairs = vec![
        ("backupcommand", "dump"),
        ("backupcommand", "dump"),
        ("backupcommand", "dump"),
        ("backupcommand", "dump"),
        ("backupcommand.b", "dump -b"),
        ("backupcommand.b", "dump -b"),
        ("backupcommand-container", "a"),
        ("backupcommand-container.b", "b"),
        ("inject", "helper"),
        ("inject", "sidecar"),
        ("inject", "sidecar"),
        ("inject", "none"),
        ("volumes", "data"),
        ("volumes", "data,wal"),
        ("restore", "on-empty"),
        ("secrets", "login"),
        ("secrets", "login,tls.client"),
        ("secrets", "x/y"),
        ("repository", "main"),
        ("repository", "barn"),
        ("repository", "new"),
        ("injected", "true"),
    ];
    vec(select(pairs), 0..6).prop_map(|pairs| {
        let own = pairs.into_iter().map(|(key, value)| (format!("stowaway.dev/{key}"), Value::from(value)));
        Value::Object(own.chain([("other.example/~a".to_owned(), "x".into())]).collect())
    })
}

fn any_pod() -> impl Strategy<Value = Value> {
    (
        option::weighted(0.95, any_annotations()),
        vec(any_container(), 1..4),
        option::of(vec(any_container(), 0..3)),
        option::of(vec(any_volume(), 0..5)),
        option::of(select(vec![
            json!({ "runAsUser": 0, "runAsNonRoot": false }),
            json!({ "runAsUser": 1000, "runAsNonRoot": true }),
            json!({ "runAsNonRoot": true }),
            json!({ "fsGroup": 1000 }),
        ])),
        any::<bool>(),
        any_resources(),
        any::<bool>(),
    )
        .prop_map(|(annotations, containers, inits, volumes, security, controlled, resources, named)| {
            let mut metadata = json!({ "ofTheFuture": 1 });
            metadata[if named { "name" } else { "generateName" }] = "mill-".into();
            if let Some(annotations) = annotations {
                metadata["annotations"] = annotations;
            }
            if controlled {
                metadata["ownerReferences"] =
                    json!([{ "apiVersion": "v1", "kind": "Well", "name": "x", "uid": "x", "controller": true }]);
            }
            let mut spec = json!({ "containers": containers, "ofTheFuture": [{}] });
            let mut set = |key: &str, value: Option<Value>| value.map(|value| spec[key] = value);
            set("initContainers", inits.map(Value::from));
            set("volumes", volumes.map(Value::from));
            set("securityContext", security);
            if resources["limits"]["cpu"] == "1" && !controlled {
                set("resources", Some(resources));
            }
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
        })
}

/// Annotations which contradict neither each other nor [`likely_pod`].
fn fitting_annotations() -> impl Strategy<Value = Value> {
    let command = vec![
        vec![("backupcommand", "dump")],
        vec![("backupcommand", "dump"), ("backupcommand-container", "a"), ("secrets", "login,tls.client")],
        vec![("backupcommand.b", "dump -b"), ("backupcommand", "[\"dump\"]"), ("secrets", "login")],
        vec![("inject", "sidecar")],
    ];
    let further = vec![
        vec![],
        vec![("inject", "sidecar")],
        vec![("inject", "sidecar"), ("volumes", "data")],
        vec![("inject", "sidecar"), ("volumes", "data"), ("restore", "on-empty")],
        vec![("restore", "on-empty"), ("volumes", "data")],
        vec![("restore", "on-empty"), ("volumes", "data"), ("inject", "sidecar")],
    ];
    let repository =
        option::of(select(vec!["main", "cellar", "barn", "cellar.eu"]).prop_map(|name| ("repository", name)));
    (select(command), select(further), repository).prop_map(|(command, further, repository)| {
        let pairs = command.into_iter().chain(further).chain(repository);
        pairs.map(|(key, value)| (format!("stowaway.dev/{key}"), Value::from(value))).collect()
    })
}

/// A pod which has what its annotations request, so that most of these pods are injected.
pub fn likely_pod() -> impl Strategy<Value = Value> {
    (any_pod(), fitting_annotations()).prop_map(|(mut pod, annotations)| {
        pod["metadata"]["annotations"] = annotations;
        let list = |pod: &mut Value, field: &str| {
            let list = pod["spec"][field].as_array_mut().map(std::mem::take).unwrap_or_default();
            list.into_iter().filter(|entry| !has_reserved_name(entry)).collect::<Vec<Value>>()
        };
        let mut volumes = list(&mut pod, "volumes");
        volumes.retain(|volume| volume["name"] != "data");
        volumes.push(json!({ "name": "data", "persistentVolumeClaim": { "claimName": "x" } }));
        pod["spec"]["volumes"] = volumes.into();
        let mut containers = list(&mut pod, "containers");
        if !containers.iter().any(|container| container["name"] == "a") {
            containers.push(json!({ "name": "a", "image": "app" }));
        }
        pod["spec"]["containers"] = containers.into();
        if !pod["spec"]["initContainers"].is_null() {
            pod["spec"]["initContainers"] = list(&mut pod, "initContainers").into();
        }
        for field in ["containers", "initContainers"] {
            for container in pod["spec"][field].as_array_mut().into_iter().flatten() {
                for mount in container["volumeMounts"].as_array_mut().into_iter().flatten() {
                    if has_reserved_name(mount) || mount["mountPath"] == "/stowaway" {
                        *mount = json!({ "name": "data", "mountPath": "/elsewhere" });
                    }
                }
            }
        }
        pod
    })
}

/// Whether every value of `before` is in `after` at the same path. Lists may have further entries, and only injected
/// entries may have been replaced.
fn is_kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(key, before)| after.get(key).is_some_and(|after| is_kept(before, after)))
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            before.iter().all(|before| {
                rest.any(|after| is_kept(before, after) || has_reserved_name(before) && before["name"] == after["name"])
            })
        }
        // A list which is null counts as missing.
        (Value::Null, Value::Array(_)) => true,
        _ => before == after,
    }
}

/// Checks all properties of one pod. Returns whether the pod is injected, or the property which does not hold.
fn check(pod: &Value) -> Result<bool, TestCaseError> {
    let outcome = decide(pod);
    if outcome.effect != Effect::Inject {
        prop_assert!(outcome.patch.is_empty());
        return Ok(false);
    }
    let patched = outcome.apply(pod).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(is_kept(pod, &patched), "lost: {patched:#}");
    for operation in serde_json::to_value(&outcome.patch).unwrap().as_array().unwrap() {
        let allowed =
            operation["op"] == "add" || operation["op"] == "replace" && has_reserved_name(&operation["value"]);
        prop_assert!(allowed, "{operation}");
    }

    let again = decide(&patched);
    prop_assert_eq!(again.effect, Effect::Inject, "{:?}", again.findings);
    prop_assert_eq!(again.cause, Cause::AlreadyInjected);
    prop_assert!(again.patch.is_empty(), "{}", again.patch);
    prop_assert_eq!(again.injected, outcome.injected);

    if serde_json::from_value::<Pod>(pod.clone()).is_ok() {
        prop_assert!(serde_json::from_value::<Pod>(patched.clone()).is_ok());
    }
    if quality_of_service(pod) == Some(QualityOfService::Guaranteed) {
        prop_assert_eq!(quality_of_service(&patched), Some(QualityOfService::Guaranteed), "{:#}", patched);
    }
    for container in
        patched["spec"]["initContainers"].as_array().into_iter().flatten().filter(|entry| has_reserved_name(entry))
    {
        let as_root = container["securityContext"]["runAsUser"] == 0;
        prop_assert!(as_root || unrestricted(container).is_none(), "{container:#}");
        prop_assert!(!as_root || !is_restricted(pod), "{pod:#}");
        prop_assert!(container.get("ports").is_none() && container.get("livenessProbe").is_none());
    }
    for volume in patched["spec"]["volumes"].as_array().into_iter().flatten().filter(|entry| has_reserved_name(entry)) {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        let secrets = sources.map(|source| &source["secret"]).chain([&volume["secret"]]);
        prop_assert!(secrets.filter(|secret| !secret.is_null()).all(|secret| secret["optional"] == true));
    }
    Ok(true)
}

/// Any JSON, built from the field names and annotations of pods.
fn any_json() -> impl Strategy<Value = Value> {
    let text = || {
        select(vec![
            "metadata",
            "annotations",
            "spec",
            "containers",
            "initContainers",
            "volumes",
            "volumeMounts",
            "name",
            "mountPath",
            "stowaway.dev/backupcommand",
            "stowaway.dev/restore",
            "stowaway.dev/volumes",
            "stowaway.dev/inject",
            "sidecar",
            "on-empty",
            "data",
            "resources",
            "limits",
            "securityContext",
        ])
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((text(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
            }),
        ]
    })
}

#[test]
fn any_pod_keeps_all_it_had_and_is_injected_once() {
    let mut runner = TestRunner::new(ProptestConfig { cases: POD_CASES, ..ProptestConfig::default() });
    let injected = AtomicU32::new(0);
    let checked = runner.run(&prop_oneof![1 => any_pod(), 9 => likely_pod()], |pod| {
        injected.fetch_add(u32::from(check(&pod)?), Ordering::Relaxed);
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    let injected = injected.into_inner();
    assert!(injected >= INJECTED, "only {injected} of {POD_CASES} are injected");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_decided_on(json in any_json()) {
        check(&json)?;
    }

    #[test]
    fn any_json_in_a_pod_is_decided_on(pod in any_pod(), field in select(vec!["/metadata/annotations", "/spec", "/spec/containers", "/spec/containers/0", "/spec/initContainers", "/spec/volumes", "/metadata"]), json in any_json()) {
        let mut pod = pod;
        if let Some(target) = pod.pointer_mut(field) {
            *target = json;
        }
        check(&pod)?;
    }
}

#[test]
fn any_generated_pods_are_decided_on_their_merits() {
    use proptest::strategy::ValueTree;
    let mut runner = TestRunner::deterministic();
    let mut injected = 0;
    let mut forms = std::collections::BTreeMap::<Cause, usize>::new();
    for _ in 0..2_000 {
        let outcome = decide(&any_pod().new_tree(&mut runner).unwrap().current());
        injected += usize::from(outcome.effect == Effect::Inject);
        *forms.entry(outcome.cause).or_default() += 1;
    }
    assert!(injected > 400, "only {injected} of 2000 are injected: {forms:?}");
}

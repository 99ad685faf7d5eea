//! Invalid annotations of other tools: they are reported, and block nothing else.

use serde_json::{Value, json};
use stowaway::{
    inject::{Cause, Effect},
    watchdog::{InjectionState, WatchdogFacts, injection_state},
};

use super::{decide, facts};

/// A pod which a user creates by hand, with these annotations.
fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": { "name": "mill", "annotations": annotations },
        "spec": {
            "containers": [{ "name": "press", "image": "press:3", "volumeMounts": [{ "name": "barrels", "mountPath": "/b" }] }],
            "volumes": [{ "name": "barrels", "persistentVolumeClaim": { "claimName": "barrels" } }],
        },
    })
}

fn of_a_controller(mut pod: Value) -> Value {
    pod["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "mill", "uid": "x", "controller": true }]);
    pod
}

/// Annotations with one invalid annotation of another tool, its key, and the cause.
fn mistakes() -> Vec<(Value, &'static str, Cause)> {
    let k8up = "k8up.io/backupcommand";
    let default = "kubectl.kubernetes.io/default-container";
    vec![
        (json!({ k8up: "" }), k8up, Cause::InvalidAnnotation),
        (json!({ "appuio.ch/backupcommand": " " }), "appuio.ch/backupcommand", Cause::InvalidAnnotation),
        (json!({ k8up: "dump", "k8up.io/file-extension": "a/b" }), "k8up.io/file-extension", Cause::InvalidAnnotation),
        (
            json!({ k8up: "dump", "k8up.io/backupcommand-container": "No Name" }),
            "k8up.io/backupcommand-container",
            Cause::InvalidAnnotation,
        ),
        (
            json!({ k8up: "dump", "k8up.io/backupcommand-container": "no-such" }),
            "k8up.io/backupcommand-container",
            Cause::UnknownContainer,
        ),
        (json!({ "stowaway.dev/backupcommand": "dump", default: "no-such" }), default, Cause::UnknownContainer),
        (json!({ "stowaway.dev/inject": "helper", default: "no-such" }), default, Cause::UnknownContainer),
    ]
}

#[test]
fn a_mistake_in_another_tools_annotation_refuses_no_pod() {
    for (annotations, key, cause) in mistakes() {
        for pod in [pod(&annotations), of_a_controller(pod(&annotations))] {
            let outcome = decide(&pod);
            assert_eq!((outcome.effect, outcome.cause), (Effect::Skip, cause), "{annotations}: {:?}", outcome.findings);
            assert!(outcome.patch.is_empty());
            assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
            assert!(outcome.warnings[0].starts_with(&format!("not injected: annotation {key}: ")), "{annotations}");
        }
    }
}

#[test]
fn request_of_stowaways_own_annotations_is_injected_beside_the_mistake_of_another_tool() {
    for (mut annotations, key, cause) in mistakes() {
        let object = annotations.as_object_mut().unwrap();
        object.insert("stowaway.dev/restore".into(), "on-empty".into());
        object.insert("stowaway.dev/inject".into(), "sidecar".into());
        object.insert("stowaway.dev/backupcommand.ledger".into(), "dump".into());
        object.insert("stowaway.dev/backupcommand-container.ledger".into(), "press".into());
        let pod = pod(&annotations);
        let outcome = decide(&pod);
        // Without a command there is no container to find, so the default container does not matter.
        if has_no_command(&annotations) {
            assert!(outcome.findings.is_empty(), "{annotations}");
        } else {
            assert_eq!(outcome.findings.iter().map(|finding| finding.cause).collect::<Vec<_>>(), [cause]);
            assert!(outcome.warnings.iter().any(|warning| warning.contains(key)), "{:?}", outcome.warnings);
        }
        assert_eq!((outcome.effect, outcome.cause), (Effect::Inject, Cause::Injected), "{annotations}");
        assert!(outcome.injected.sidecar && outcome.injected.restore, "{annotations}");
        assert_eq!(outcome.injected.helper_in, ["press"], "{annotations}");
        assert_eq!(decide(&outcome.apply(&pod).unwrap()).cause, Cause::AlreadyInjected);
    }
}

fn has_no_command(annotations: &Value) -> bool {
    ["stowaway.dev/backupcommand", "k8up.io/backupcommand", "appuio.ch/backupcommand"]
        .iter()
        .all(|key| annotations.get(key).is_none())
}

#[test]
fn a_refusal_for_our_own_annotation_only_warns_of_the_other() {
    for (annotations, key, _) in mistakes() {
        let mut annotations = annotations;
        annotations["stowaway.dev/timeout"] = "soon".into();
        let outcome = decide(&pod(&annotations));
        assert_eq!((outcome.effect, outcome.cause), (Effect::Refuse, Cause::InvalidAnnotation), "{annotations}");
        let blamed: Vec<_> = outcome.findings.iter().filter_map(|finding| finding.annotation.as_deref()).collect();
        assert_eq!(blamed, ["stowaway.dev/timeout"], "{annotations}");
        // Whether a container exists is checked only when all values are valid.
        if !key.starts_with("kubectl") && !annotations.to_string().contains("no-such") {
            assert!(outcome.warnings.iter().any(|warning| warning.contains(key)), "{annotations}");
        }
    }
}

#[test]
fn the_watchdog_reports_missing_parts_before_findings() {
    let facts = WatchdogFacts {
        namespace: "orchard",
        by_namespace: None,
        image: facts().image,
        repositories: facts().repositories,
    };
    let pod = pod(
        &json!({ "k8up.io/backupcommand": "", "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "barrels" }),
    );
    assert!(
        matches!(injection_state(&pod, &facts), InjectionState::Missing { .. }),
        "{:?}",
        injection_state(&pod, &facts)
    );
    let whole = decide(&pod).apply(&pod).unwrap();
    assert_eq!(injection_state(&whole, &facts).reason().as_deref(), Some("InvalidAnnotation"));
}

//! A user who may create a pod or write its annotations gains no right through Stowaway which the user did not have
//! before. Each attack is a test which fails without its guard.

use serde_json::{Value, json};
use stowaway::inject::{Cause, Effect, Outcome, read_json};

use super::{IMAGE, decide};

/// A pod of a controller, with these annotations of Stowaway, changed by `change`. Such a pod is admitted even if its
/// annotations are invalid.
fn pod(annotations: &[(&str, &str)], change: impl FnOnce(&mut Value)) -> Value {
    let annotations: Value =
        annotations.iter().map(|(key, value)| (format!("stowaway.dev/{key}"), Value::from(*value))).collect();
    let mut pod = json!({
        "metadata": {
            "generateName": "mill-",
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "mill", "uid": "x", "controller": true }],
        },
        "spec": {
            "containers": [{ "name": "press", "image": "press:3", "volumeMounts": [{ "name": "barrels", "mountPath": "/b" }] }],
            "volumes": [
                { "name": "barrels", "persistentVolumeClaim": { "claimName": "barrels" } },
                { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
                { "name": "login", "secret": { "secretName": "login" } },
            ],
        },
    });
    change(&mut pod);
    pod
}

/// Nothing is injected into the pod, whether a controller or a user creates it.
fn is_declined(pod: &Value, cause: Cause) -> Outcome {
    let mut bare = pod.clone();
    bare["metadata"].as_object_mut().unwrap().remove("ownerReferences");
    let refused = decide(&bare);
    assert_eq!((refused.effect, refused.cause), (Effect::Refuse, cause), "{:?}", refused.findings);
    let skipped = decide(pod);
    assert_eq!((skipped.effect, skipped.cause), (Effect::Skip, cause), "{:?}", skipped.findings);
    assert!(refused.patch.is_empty() && skipped.patch.is_empty());
    assert!(!skipped.warnings.is_empty() && !skipped.findings.is_empty());
    skipped
}

#[test]
fn secrets_of_other_namespaces_are_not_mounted() {
    for name in
        ["kube-system/admin", "../admin", "/admin", "a/../../admin", "login,kube-system/admin", "admin\0", "ADMIN"]
    {
        is_declined(&pod(&[("backupcommand", "dump"), ("secrets", name)], |_| ()), Cause::InvalidAnnotation);
    }
}

#[test]
fn repositories_of_other_namespaces_are_not_named() {
    for name in ["other/main", "../main", "main/..", "a b", &"a".repeat(64)] {
        is_declined(&pod(&[("inject", "sidecar"), ("repository", name)], |_| ()), Cause::InvalidAnnotation);
    }
    // Even if the caller passes the Repositories of all namespaces.
    is_declined(&pod(&[("inject", "sidecar"), ("repository", "foreign")], |_| ()), Cause::RepositoryNotFound);
}

#[test]
fn volumes_are_never_left_by_their_paths() {
    for name in ["../etc", "barrels/../../etc", "/", ".", "..", "barrels:/etc", "barrels\0", "barrels/", "~1etc", ""] {
        is_declined(&pod(&[("inject", "sidecar"), ("volumes", name)], |_| ()), Cause::InvalidAnnotation);
    }
}

#[test]
fn tokens_and_secrets_never_get_into_a_repository() {
    for name in ["token", "login", "barrels,token"] {
        is_declined(&pod(&[("inject", "sidecar"), ("volumes", name)], |_| ()), Cause::UnsuitableVolume);
    }
}

#[test]
fn credentials_of_the_store_are_neither_backed_up_nor_mounted_into_the_app() {
    let present = |pod: &mut Value| {
        let store =
            json!({ "name": "stowaway-store", "projected": { "sources": [{ "secret": { "name": "other" } }] } });
        pod["spec"]["volumes"].as_array_mut().unwrap().push(store);
    };
    is_declined(&pod(&[("inject", "sidecar"), ("volumes", "stowaway-store")], present), Cause::UnsuitableVolume);
    let mounted = |pod: &mut Value| {
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "stowaway-store", "mountPath": "/x", "readOnly": true }]);
    };
    is_declined(&pod(&[("inject", "sidecar"), ("volumes", "barrels")], mounted), Cause::NameTaken);
    let repository = |pod: &mut Value| {
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "stowaway-repository", "mountPath": "/x", "readOnly": true }]);
    };
    is_declined(&pod(&[("inject", "sidecar"), ("repository", "cellar")], repository), Cause::NameTaken);
}

#[test]
fn a_prepared_store_volume_is_replaced() {
    let forged = |pod: &mut Value| {
        let store =
            json!({ "name": "stowaway-store", "projected": { "sources": [{ "secret": { "name": "other" } }] } });
        pod["spec"]["volumes"].as_array_mut().unwrap().push(store);
    };
    let pod = pod(&[("inject", "sidecar"), ("volumes", "barrels")], forged);
    let patched = decide(&pod).apply(&pod).unwrap();
    let stores: Vec<&Value> = patched["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|volume| volume["name"] == "stowaway-store")
        .collect();
    assert_eq!(stores.len(), 1);
    assert_eq!(stores[0]["projected"]["sources"][0]["secret"]["name"], "cellar-key");
    assert_eq!(stores[0]["projected"]["sources"].as_array().unwrap().len(), 4);
}

#[test]
fn the_program_cannot_be_written_to_by_the_app() {
    for mount in [
        json!({ "name": "stowaway-helper", "mountPath": "/x" }),
        json!({ "name": "stowaway-helper", "mountPath": "/stowaway", "readOnly": false }),
        json!({ "name": "stowaway-socket", "mountPath": "/x" }),
    ] {
        let change = |pod: &mut Value| {
            let further = json!({ "name": "further", "image": "x", "volumeMounts": [mount] });
            pod["spec"]["containers"].as_array_mut().unwrap().push(further);
        };
        is_declined(&pod(&[("backupcommand", "dump")], change), Cause::NameTaken);
    }
}

#[test]
fn a_volume_of_another_kind_is_not_accepted_as_injected() {
    for kind in ["hostPath", "persistentVolumeClaim", "ofTheFuture"] {
        let change = |pod: &mut Value| {
            let forged = json!({ "name": "stowaway-helper", kind: { "path": "/" } });
            pod["spec"]["volumes"].as_array_mut().unwrap().push(forged);
        };
        is_declined(&pod(&[("backupcommand", "dump")], change), Cause::NameTaken);
    }
}

#[test]
fn a_marker_alone_proves_nothing() {
    for marker in ["injected", "injection", "status", "inject-status"] {
        let outcome = decide(&pod(&[("backupcommand", "dump"), (marker, "true")], |_| ()));
        assert_eq!((outcome.effect, outcome.cause), (Effect::Inject, Cause::Injected));
        assert!(!outcome.patch.is_empty());
    }
}

#[test]
fn a_container_of_another_image_is_not_accepted_as_injected() {
    for image in ["evil", "registry.example/other@sha256:0000", "evil/registry.example/stowaway", ""] {
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            let change = |pod: &mut Value| {
                let mut forged = injected_init_container();
                forged["image"] = image.into();
                let list = &mut pod["spec"][list];
                if list.is_null() {
                    *list = json!([]);
                }
                list.as_array_mut().unwrap().push(forged);
            };
            is_declined(&pod(&[("backupcommand", "dump")], change), Cause::NameTaken);
        }
    }
}

/// The helper's init container as Stowaway injects it into [`pod`].
fn injected_init_container() -> Value {
    let pod = pod(&[("backupcommand", "dump")], |_| ());
    decide(&pod).apply(&pod).unwrap()["spec"]["initContainers"][0].clone()
}

#[test]
fn an_injected_container_or_volume_that_nothing_requests_is_rejected() {
    for (list, entry) in [
        ("initContainers", injected_init_container()),
        ("volumes", json!({ "name": "stowaway-socket", "emptyDir": {} })),
    ] {
        let change = |pod: &mut Value| {
            let list = &mut pod["spec"][list];
            if list.is_null() {
                *list = json!([]);
            }
            list.as_array_mut().unwrap().push(entry);
        };
        is_declined(&pod(&[("inject", "sidecar"), ("volumes", "barrels")], change), Cause::NameTaken);
    }
}

#[test]
fn a_container_of_our_image_that_would_do_something_else_is_replaced() {
    let sound = pod(&[("backupcommand", "dump")], |_| ());
    let sound = decide(&sound).apply(&sound).unwrap();
    for (field, forged) in [
        ("/command", json!(["/usr/local/bin/stowaway-helper", "install", "/elsewhere"])),
        ("/args", json!(["evil"])),
        ("/env", json!([{ "name": "STOWAWAY_ROOT", "value": "/x" }])),
        ("/env", json!([{ "name": "LD_PRELOAD", "value": "/x" }])),
        ("/envFrom", json!([{ "secretRef": { "name": "x" } }])),
        ("/lifecycle", json!({ "postStart": { "exec": { "command": ["evil"] } } })),
        ("/restartPolicy", json!("Always")),
        ("/workingDir", json!("/x")),
        ("/volumeMounts/-", json!({ "name": "barrels", "mountPath": "/usr/local/bin" })),
        ("/securityContext/privileged", json!(true)),
        ("/securityContext/runAsUser", json!(0)),
        ("/securityContext/capabilities/add", json!(["SYS_ADMIN"])),
        ("/image", json!("registry.example/stowaway:old")),
    ] {
        let mut pod = sound.clone();
        let patch = json!([{ "op": "add", "path": format!("/spec/initContainers/0{field}"), "value": forged }]);
        json_patch::patch(&mut pod, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
        let outcome = decide(&pod);
        assert_eq!((outcome.effect, outcome.cause), (Effect::Inject, Cause::Injected), "{field}");
        assert_eq!(outcome.apply(&pod).unwrap(), sound, "{field}");
    }
}

#[test]
fn changes_of_other_webhooks_to_every_container_are_left_there() {
    let sound = pod(&[("backupcommand", "dump")], |_| ());
    let sound = decide(&sound).apply(&sound).unwrap();
    for (field, value) in [
        ("/terminationMessagePath", json!("/dev/termination-log")),
        ("/imagePullPolicy", json!("Always")),
        ("/image", json!("mirror.example/stowaway@sha256:5e1f")),
        ("/env", json!([{ "name": "HTTP_PROXY", "value": "http://x" }])),
        ("/volumeMounts/-", json!({ "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" })),
        ("/resources/limits/ephemeral-storage", json!("1Gi")),
        ("/securityContext/seLinuxOptions", json!({ "level": "s0:c1,c2" })),
    ] {
        let mut pod = sound.clone();
        let patch = json!([{ "op": "add", "path": format!("/spec/initContainers/0{field}"), "value": value }]);
        json_patch::patch(&mut pod, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
        assert_eq!(decide(&pod).cause, Cause::AlreadyInjected, "{field}");
    }
}

#[test]
fn a_restore_is_never_skipped_even_in_the_pod_of_a_controller() {
    let cases: &[(&[(&str, &str)], Cause)] = &[
        (&[("restore", "on-emty")], Cause::InvalidAnnotation),
        (&[("restore", "on-empty"), ("backupcommand", "")], Cause::InvalidAnnotation),
        (&[("restore", "on-empty"), ("inject", "none")], Cause::InvalidAnnotation),
        (&[("restore", "on-empty"), ("volumes", "nowhere")], Cause::UnknownVolume),
        (&[("restore", "on-empty"), ("volumes", "token")], Cause::UnsuitableVolume),
        (&[("restore", "on-empty"), ("backupcommand", "x"), ("backupcommand-container", "y")], Cause::UnknownContainer),
    ];
    for (annotations, cause) in cases {
        let outcome = decide(&pod(annotations, |_| ()));
        assert_eq!((outcome.effect, outcome.cause), (Effect::Refuse, *cause), "{annotations:?}");
    }
    for broken in ["/spec/volumes", "/spec/containers", "/metadata/annotations/stowaway.dev~1restore"] {
        let mut pod = pod(&[("restore", "on-empty")], |_| ());
        *pod.pointer_mut(broken).unwrap() = json!(7);
        assert_eq!((decide(&pod).effect, decide(&pod).cause), (Effect::Refuse, Cause::NotAPod), "{broken}");
    }
    let on_windows = pod(&[("restore", "on-empty")], |pod| pod["spec"]["os"] = json!({ "name": "windows" }));
    assert_eq!((decide(&on_windows).effect, decide(&on_windows).cause), (Effect::Refuse, Cause::WindowsPod));
}

#[test]
fn names_that_would_be_pointers_point_nowhere_else() {
    for name in ["a/b", "a~1b", "~0", "-", "0", "..", "\u{0}", "spec"] {
        let change = |pod: &mut Value| {
            pod["spec"]["containers"][0]["name"] = name.into();
            pod["metadata"]["annotations"]["/~1/~0"] = "x".into();
            pod["spec"]["~1/spec"] = json!({ "/": "~" });
        };
        let pod = pod(&[("backupcommand", "dump")], change);
        let outcome = decide(&pod);
        assert_eq!(outcome.cause, Cause::Injected, "{name:?}");
        let patched = outcome.apply(&pod).unwrap();
        assert_eq!(patched["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().len(), 2);
        assert_eq!(patched["metadata"], pod["metadata"]);
        assert_eq!(patched["spec"]["~1/spec"], json!({ "/": "~" }));
    }
}

#[test]
fn hostile_names_of_containers_are_refused() {
    for name in ["../press", "press/0", "press\n", "PRESS", "", "a,b", &"a".repeat(64)] {
        let annotations = [("backupcommand", "dump"), ("backupcommand-container", name)];
        is_declined(&pod(&annotations, |_| ()), Cause::InvalidAnnotation);
    }
    // No command runs in an injected container either, because that container holds the store's credentials.
    let injected = pod(&[("inject", "sidecar"), ("volumes", "barrels")], |_| ());
    let mut injected = decide(&injected).apply(&injected).unwrap();
    injected["metadata"]["annotations"]["stowaway.dev/backupcommand"] = "dump".into();
    injected["metadata"]["annotations"]["stowaway.dev/backupcommand-container"] = "stowaway-sidecar".into();
    is_declined(&injected, Cause::UnknownContainer);
}

/// Everything whose processing time grows with its size has a limit, and the limit is exact.
#[test]
fn everything_that_is_looked_into_one_by_one_has_an_end() {
    type Make = fn(usize) -> Value;
    let containers: Make = |count| {
        pod(&[("backupcommand", "dump")], |pod| {
            let containers = (0..count).map(|number| json!({ "name": format!("c{number}") })).collect();
            pod["spec"]["containers"] = Value::Array(containers);
        })
    };
    let volumes: Make = |count| {
        pod(&[("backupcommand", "dump")], |pod| {
            let volumes = (0..count).map(|number| json!({ "name": format!("v{number}"), "emptyDir": {} })).collect();
            pod["spec"]["volumes"] = Value::Array(volumes);
        })
    };
    let commands: Make = |count| {
        pod(&[], |pod| {
            for number in 0..count {
                pod["metadata"]["annotations"][format!("stowaway.dev/backupcommand.{number}")] = "dump".into();
            }
        })
    };
    let names: Make = |count| {
        let names: Vec<String> = (0..count).map(|number| format!("secret-{number}")).collect();
        pod(&[("backupcommand", "dump"), ("secrets", &names.join(","))], |_| ())
    };
    let bytes: Make = |count| {
        let others = "stowaway.dev/backupcommanddumpother.example/x".len();
        pod(&[("backupcommand", "dump")], |pod| {
            pod["metadata"]["annotations"]["other.example/x"] = "x".repeat(count - others).into();
        })
    };
    for (what, make, most, cause) in [
        ("containers", containers, 2_000, Cause::TooLarge),
        ("volumes", volumes, 2_000, Cause::TooLarge),
        ("commands", commands, 256, Cause::InvalidAnnotation),
        ("names", names, 16, Cause::InvalidAnnotation),
        ("bytes of annotations", bytes, 256 * 1024, Cause::TooLarge),
    ] {
        assert_eq!(decide(&make(most)).cause, Cause::Injected, "{what}");
        for count in [most + 1, most * 4] {
            let outcome = decide(&make(count));
            assert_eq!((outcome.effect, outcome.cause), (Effect::Skip, cause), "{count} {what}");
            let texts = outcome.findings.iter().map(|finding| &finding.message).chain(&outcome.warnings);
            assert!(texts.map(String::len).sum::<usize>() < 4096, "{count} {what}");
        }
    }
}

#[test]
fn texts_that_two_readers_would_read_differently_are_not_read() {
    let twice = r#"{"metadata": {"annotations": {"stowaway.dev/secrets": "a", "stowaway.dev/secrets": "b"}}}"#;
    assert!(read_json(twice.as_bytes()).is_err());
    let escaped = r#"{"spec": {"volumes": []}, "sp\u0065c": {"volumes": [{}]}}"#;
    assert!(read_json(escaped.as_bytes()).is_err());
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert!(read_json(deep.as_bytes()).is_err());
    }
    assert!(read_json(format!("\"{}\"", "x".repeat(3 << 20)).as_bytes()).is_err());
}

#[test]
fn passwords_of_command_lines_get_nowhere() {
    for command in ["mysqldump -pCANARY", "sh -c 'CANARY", "[\"CANARY\"", "''"] {
        for further in [("backupcommand-container", "nowhere"), ("restore", "on-empty"), ("inject", "sidecar")] {
            let mut pod = pod(&[("backupcommand", command), ("restorecommand", command), further], |_| ());
            pod["metadata"]["annotations"]["k8up.io/backupcommand"] = "CANARY".into();
            let outcome = decide(&pod);
            assert!(!format!("{outcome:?} {}", outcome.patch).contains("CANARY"), "{outcome:?}");
        }
    }
}

#[test]
fn injected_containers_run_the_configured_image() {
    let pod = pod(&[("inject", "sidecar"), ("image", "evil"), ("restore", "on-empty"), ("backupcommand", "x")], |_| ());
    let patched = decide(&pod).apply(&pod).unwrap();
    for container in patched["spec"]["initContainers"].as_array().unwrap() {
        assert_eq!(container["image"], IMAGE);
    }
}

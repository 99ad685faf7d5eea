//! Tests of claims which are read from CSI snapshots.

use k8s_openapi::api::{
    core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{
    ClaimFacts, ClaimMount, ClaimSnapshot, ObservedPod, SnapshotFacts, SourcePlan, Target, merge, plan_with_claims,
    pod, snapshot_volumes,
};
use crate::model::Reason;

const KEY: &str = "stowaway.dev/volume-snapshot-class";

/// A namespace with the claim `cask`, whose volume `barrel` is of the driver of class `frost`.
struct Scene {
    namespace: Value,
    claim: Value,
    pods: Vec<ObservedPod>,
    classes: Option<Vec<Value>>,
    volume: Value,
    storage_class: Value,
}

fn scene(annotation: &str) -> Scene {
    Scene {
        namespace: json!({}),
        claim: json!({
            "metadata": { "name": "cask", "annotations": { KEY: annotation } },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeName": "barrel", "storageClassName": "cellar",
                "resources": { "requests": { "storage": "7Gi" } },
            },
            "status": { "phase": "Bound", "accessModes": ["ReadWriteOnce"] },
        }),
        pods: vec![],
        classes: Some(vec![
            class(&json!({ "metadata": { "name": "frost" } })),
            class(&json!({ "metadata": { "name": "dew" }, "driver": "dew.example" })),
        ]),
        volume: json!({
            "metadata": { "name": "barrel" }, "spec": { "csi": { "driver": "ice.example", "volumeHandle": "b" } },
        }),
        storage_class: json!({ "metadata": { "name": "cellar" }, "provisioner": "ice.example" }),
    }
}

fn class(change: &Value) -> Value {
    let mut class = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
        "driver": "ice.example", "deletionPolicy": "Delete",
    });
    merge(&mut class, change);
    class
}

fn read<K: serde::de::DeserializeOwned>(value: &Value) -> K {
    serde_json::from_value(value.clone()).unwrap()
}

impl Scene {
    fn plan(&self) -> SourcePlan {
        let namespace: Namespace = read(&self.namespace);
        let classes: Option<Vec<DynamicObject>> =
            self.classes.as_ref().map(|classes| classes.iter().map(read).collect());
        let claims: [PersistentVolumeClaim; 1] = [read(&self.claim)];
        let volumes: [PersistentVolume; 1] = [read(&self.volume)];
        let storage_classes: [StorageClass; 1] = [read(&self.storage_class)];
        let facts = ClaimFacts {
            namespace: &namespace,
            claims: &claims,
            repositories: &[],
            snapshots: SnapshotFacts {
                classes: classes.as_deref(),
                volumes: &volumes,
                storage_classes: &storage_classes,
            },
        };
        plan_with_claims(&self.pods, Some(facts), None)
    }

    fn mount(&self) -> ClaimMount {
        let plan = self.plan();
        match &plan.sources[..] {
            [source] => match source.target.clone() {
                Some(Target::Claim(mount)) => mount,
                other => panic!("{other:?}"),
            },
            _ => panic!("{plan:?}"),
        }
    }

    fn problem(&self) -> String {
        let plan = self.plan();
        let [problem] = &plan.problems[..] else { panic!("{plan:?}") };
        assert!(plan.sources.is_empty(), "{plan:?}");
        assert_eq!(problem.reason(), Reason::InvalidRequest);
        problem.to_string()
    }
}

/// A part of the problem's message, and the change which causes the problem.
type Case<'a> = (&'a str, &'a dyn Fn(&mut Scene));

/// A pod which mounts the claim on a node of its own and has a sidecar for it.
fn sidecar_user() -> ObservedPod {
    pod(
        "deployment",
        "mill",
        "mill-1",
        &json!({
            "metadata": { "annotations": {
                "stowaway.dev/backupcommand": null, "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data",
            } },
            "spec": {
                "nodeName": "cellar-7",
                "tolerations": [{ "key": "damp", "operator": "Exists" }],
                "securityContext": { "runAsUser": 70, "fsGroup": 71 },
                "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "cask" } }],
                "initContainers": [{
                    "name": "stowaway-sidecar", "restartPolicy": "Always",
                    "args": ["sidecar", "--volume=data=pvc/cask"],
                }],
                "containers": [{ "name": "main", "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }),
    )
}

#[test]
fn claim_with_a_class_is_read_from_its_snapshot_on_any_node_and_by_no_sidecar() {
    let mut live = scene("");
    live.pods = vec![sidecar_user()];
    assert!(matches!(live.plan().sources[0].target, Some(Target::Volume(_))), "without one the sidecar reads it");
    let mut frozen = scene("frost");
    frozen.pods = vec![sidecar_user()];
    let mount = frozen.mount();
    assert_eq!((mount.claim.as_str(), mount.node.as_deref(), &mount.tolerations[..]), ("cask", None, &[][..]));
    assert_eq!((mount.user.0, &mount.groups[..]), (70, &[71][..]), "its files belong to the same user");
    let expected = ClaimSnapshot {
        class: "frost".into(),
        storage_class: "cellar".into(),
        access_mode: "ReadWriteOnce".into(),
        size: serde_json::from_value(json!("7Gi")).unwrap(),
    };
    assert_eq!(mount.snapshot, Some(Box::new(expected)));
    let (frozen, live) = (frozen.plan().sources.remove(0), live.plan().sources.remove(0));
    assert_eq!(frozen.identity, live.identity, "path, host and tags are the same");
}

#[test]
fn claim_of_one_pod_at_a_time_is_read_from_its_snapshot_beside_the_pod() {
    let mut scene = scene("frost");
    scene.claim["status"]["accessModes"] = json!(["ReadWriteOncePod"]);
    scene.claim["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    scene.pods = vec![sidecar_user()];
    assert_eq!(scene.mount().snapshot.unwrap().access_mode, "ReadWriteOnce");
    scene.claim["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
    assert_eq!(scene.mount().snapshot.unwrap().access_mode, "ReadOnlyMany");
    scene.claim["spec"]["accessModes"] = json!(["ReadOnlyMany", "ReadWriteMany"]);
    assert_eq!(scene.mount().snapshot.unwrap().access_mode, "ReadWriteOnce");
}

#[test]
fn device_has_a_snapshot_as_well_and_no_pod_that_writes_to_it() {
    let mut scene = scene("frost");
    scene.claim["spec"]["volumeMode"] = json!("Block");
    scene.pods = vec![sidecar_user()];
    let mount = scene.mount();
    assert!(mount.device && mount.snapshot.is_some(), "{mount:?}");
    let tags = scene.plan().sources.remove(0).identity.tags;
    assert!(!tags.iter().any(|tag| tag.starts_with("pod=")), "{tags:?}");
}

#[test]
fn class_of_the_namespace_holds_for_claims_without_a_class() {
    let mut scene = scene("");
    scene.namespace = json!({ "metadata": { "annotations": { KEY: "frost" } } });
    assert_eq!(scene.mount().snapshot, None, "the claim requests its live volume");
    scene.claim["metadata"]["annotations"] = Value::Null;
    assert_eq!(scene.mount().snapshot.unwrap().class, "frost");
    scene.claim["metadata"]["annotations"] = json!({ KEY: "dew" });
    assert!(scene.problem().contains("dew.example"), "its own comes first");
}

#[test]
fn claim_without_a_possible_snapshot_fails_with_class_reason_and_remedy_and_is_never_read_live() {
    let change = |change: &dyn Fn(&mut Scene)| {
        let mut scene = scene("frost");
        scene.pods = vec![sidecar_user()];
        change(&mut scene);
        scene.problem()
    };
    let cases: &[Case<'_>] = &[
        ("install the snapshot controller", &|scene| scene.classes = None),
        ("there is no such class; the classes of the volume's driver ice.example: none", &|scene| {
            scene.classes.as_mut().unwrap().remove(0);
        }),
        ("of driver dew.example, but the volume is of ice.example", &|scene| {
            scene.classes.as_mut().unwrap()[0]["driver"] = json!("dew.example");
        }),
        ("deletionPolicy is Retain", &|scene| {
            scene.classes.as_mut().unwrap()[0]["deletionPolicy"] = json!("Retain");
        }),
        ("of no CSI driver", &|scene| scene.volume["spec"] = json!({ "hostPath": { "path": "/x" } })),
        ("\"barrel\" does not exist", &|scene| scene.volume["metadata"]["name"] = json!("another")),
        ("StorageClass \"cellar\"", &|scene| scene.storage_class["metadata"]["name"] = json!("another")),
        ("StorageClass \"\"", &|scene| scene.claim["spec"]["storageClassName"] = json!("")),
        ("reclaimPolicy of the claim's StorageClass cellar is Retain", &|scene| {
            scene.storage_class["reclaimPolicy"] = json!("Retain");
        }),
        ("the claim is being deleted", &|scene| {
            scene.claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }),
        ("the claim has no volume yet", &|scene| scene.claim["status"]["phase"] = json!("Pending")),
    ];
    for (reason, case) in cases {
        let message = change(case);
        for part in ["pvc/cask", "VolumeSnapshotClass frost", reason, &format!("{KEY}: \"\"")] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    let message = change(&|scene| scene.claim["metadata"]["annotations"] = json!({ KEY: "a/b" }));
    assert!(message.contains("nothing of it is stored") && message.contains(KEY), "{message}");
    let message = change(&|scene| {
        scene.classes.as_mut().unwrap().push(class(&json!({ "metadata": { "name": "hoar" } })));
        scene.claim["metadata"]["annotations"] = json!({ KEY: "forst" });
    });
    assert!(message.contains("the classes of the volume's driver ice.example: frost, hoar"), "{message}");
}

#[test]
fn claim_that_was_made_of_a_snapshot_is_no_source_of_any_backup() {
    let mut scene = scene("frost");
    let owner = |api: &str, kind: &str, controller: bool| json!([{ "apiVersion": api, "kind": kind, "name": "evening", "uid": "u", "controller": controller }]);
    scene.claim["metadata"]["ownerReferences"] = owner("stowaway.dev/v1alpha1", "Backup", true);
    let plan = scene.plan();
    assert_eq!((plan.sources, plan.problems, plan.skipped), (vec![], vec![], vec![]));
    for (api, kind, controller) in [
        ("another.dev/v1", "Backup", true),
        ("stowaway.dev/v1alpha1", "Restore", true),
        ("stowaway.dev/v1alpha1", "Backup", false),
    ] {
        scene.claim["metadata"]["ownerReferences"] = owner(api, kind, controller);
        assert_eq!(scene.plan().sources.len(), 1, "{api} {kind} {controller}");
    }
}

#[test]
fn only_the_volumes_of_claims_that_request_a_snapshot_are_read() {
    let namespace: Namespace = read(&json!({ "metadata": { "annotations": { KEY: "frost" } } }));
    let silent: Namespace = read(&json!({}));
    let claim = |annotations: Value| {
        let mut claim = scene("").claim;
        claim["metadata"]["annotations"] = annotations;
        read::<PersistentVolumeClaim>(&claim)
    };
    let claims = [claim(json!({})), claim(json!({ KEY: "" })), claim(json!({ KEY: "dew" }))];
    assert_eq!(snapshot_volumes(&namespace, &claims).len(), 2);
    assert_eq!(snapshot_volumes(&silent, &claims), ["barrel"]);
}

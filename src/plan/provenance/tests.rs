//! Tests that fields which any author can write prove nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::plan::fixtures::{NAMESPACE, at, backup};

fn owner() -> OwnerRef {
    let mut backup = backup(&json!({}));
    backup.metadata.creation_timestamp = Some(Time(at(0)));
    OwnerRef::of(&backup).unwrap()
}

fn references(of: &OwnerRef) -> Value {
    json!([of.reference()])
}

fn planned_job() -> Job {
    serde_json::from_value(json!({
        "metadata": {
            "name": "evening-1", "namespace": NAMESPACE, "ownerReferences": references(&owner()),
            "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
        },
        "spec": {
            "suspend": true,
            "template": { "spec": {
                "serviceAccountName": "stowaway-run-evening-1",
                "containers": [{
                    "name": "runner", "image": "stowaway:1", "args": ["runner"],
                    "env": [{ "name": "STOWAWAY_TASK", "value": "{}" }],
                }],
                "volumes": [{ "name": "password", "secret": { "secretName": "key" } }],
            } },
        },
    }))
    .unwrap()
}

/// The stored Job: with the API server's defaults, and with the value at `pointer` changed.
fn stored(pointer: &str, value: Value) -> Job {
    let mut job = serde_json::to_value(planned_job()).unwrap();
    job["metadata"]["uid"] = json!("uid-of-job");
    job["metadata"]["labels"]["team"] = json!("added by a webhook");
    job["spec"]["completionMode"] = json!("NonIndexed");
    job["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("IfNotPresent");
    job["spec"]["template"]["spec"]["volumes"][0]["secret"]["defaultMode"] = json!(420);
    if !pointer.is_empty() {
        *job.pointer_mut(pointer).unwrap() = value;
    }
    serde_json::from_value(job).unwrap()
}

#[test]
fn job_is_trusted_only_with_its_reserved_service_account() {
    let relation = |stored: &Job| stored_job(stored, &planned_job(), &owner()).unwrap();
    assert_eq!(relation(&stored("", Value::Null)), StoredJob::Planned);
    let spec = "/spec/template/spec";
    for (pointer, value, expected) in [
        (format!("{spec}/serviceAccountName"), json!("default"), StoredJob::Foreign),
        (format!("{spec}/serviceAccountName"), json!("stowaway-run-evening-2"), StoredJob::Foreign),
        ("/metadata/ownerReferences/0/uid".into(), json!("uid-of-another"), StoredJob::Foreign),
        ("/metadata/ownerReferences/0/kind".into(), json!("Restore"), StoredJob::Foreign),
        ("/metadata/ownerReferences/0/controller".into(), json!(false), StoredJob::Foreign),
        ("/metadata/labels/stowaway.dev~1run".into(), json!("morning"), StoredJob::Foreign),
        (format!("{spec}/containers/0/args"), json!(["shell"]), StoredJob::Foreign),
        (format!("{spec}/containers/0/image"), json!("stowaway:0"), StoredJob::Outdated),
        (format!("{spec}/containers/0/env/0/value"), json!("{\"other\":1}"), StoredJob::Outdated),
        (format!("{spec}/volumes/0/secret/secretName"), json!("other"), StoredJob::Outdated),
        (format!("{spec}/volumes"), json!([]), StoredJob::Outdated),
        ("/spec/suspend".into(), json!(false), StoredJob::Started),
    ] {
        assert_eq!(relation(&stored(&pointer, value)), expected, "{pointer}");
    }
}

#[test]
fn job_of_an_earlier_reconcile_is_the_planned_one_although_its_task_has_another_time() {
    let env = "/spec/template/spec/containers/0/env/0/value";
    let relation = |task: Value| stored_job(&stored(env, json!(task.to_string())), &planned_job(), &owner()).unwrap();
    assert_eq!(relation(json!({ "notBefore": "2026-05-04T03:02:01Z" })), StoredJob::Planned);
    assert_eq!(relation(json!({ "notBefore": "2026-05-04T03:02:01Z", "other": 1 })), StoredJob::Outdated);
}

#[test]
fn pod_reports_for_a_job_only_if_kubernetes_made_it_for_that_job() {
    let job = stored("", Value::Null);
    let pod = |account: &str, uid: &str| -> Pod {
        let reference =
            json!({ "apiVersion": "batch/v1", "kind": "Job", "name": "evening-1", "uid": uid, "controller": true });
        serde_json::from_value(json!({
            "metadata": { "name": "evening-1-x", "ownerReferences": [reference] },
            "spec": { "serviceAccountName": account, "containers": [] },
        }))
        .unwrap()
    };
    assert!(is_pod_of(&pod("stowaway-run-evening-1", "uid-of-job"), &job));
    assert!(!is_pod_of(&pod("default", "uid-of-job"), &job));
    assert!(!is_pod_of(&pod("stowaway-run-evening-1", "uid-of-another"), &job));
}

#[test]
fn claim_that_was_given_another_volume_is_not_the_planned_one() {
    let claim = |volume: Option<&str>, snapshot: &str, seconds: i64| -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {
                "name": "evening-1", "uid": "12ab34cd-0000", "ownerReferences": references(&owner()),
                "creationTimestamp": Time(at(seconds)),
            },
            "spec": {
                "volumeName": volume, "storageClassName": "cellar",
                "dataSource": { "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot },
            },
        }))
        .unwrap()
    };
    let planned = claim(None, "evening-1", 1);
    let is_planned = |stored: &PersistentVolumeClaim| is_planned_claim(stored, &planned, &owner()).unwrap();
    assert!(is_planned(&planned) && is_planned(&claim(Some("pvc-12ab34cd-0000"), "evening-1", 1)));
    assert!(!is_planned(&claim(Some("decoy"), "evening-1", 1)));
    assert!(!is_planned(&claim(None, "decoy", 1)));
    assert!(!is_planned(&claim(None, "evening-1", -1)), "it is older than the Backup");
}

#[test]
fn container_that_is_only_called_the_sidecar_is_left_out() {
    let sidecar = |image: &str, command: &[&str], args: &[&str]| {
        let container = json!({ "name": "stowaway-sidecar", "image": image, "command": command, "args": args });
        let pod = json!({ "spec": { "containers": [], "initContainers": [{ "name": "first" }, container] } });
        let pod = without_foreign_sidecar(serde_json::from_value(pod).unwrap(), "registry.example/stowaway:2");
        pod.spec.unwrap().init_containers.unwrap().len() == 2
    };
    assert!(sidecar("registry.example/stowaway:1", &[], &["sidecar", "--volume=d=pvc/d"]));
    assert!(!sidecar("mallory.example/stowaway:1", &[], &["sidecar", "--volume=d=pvc/d"]));
    assert!(!sidecar("registry.example/stowaway:1", &["sh"], &["sidecar", "--volume=d=pvc/d"]));
    assert!(!sidecar("registry.example/stowaway:1", &[], &["runner", "--volume=d=pvc/d"]));
}

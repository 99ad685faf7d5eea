//! Tests of the remarks about a source, and of the claim's properties which its snapshots record.

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::{ClaimFacts, ObservedPod, PlannedSource, SnapshotFacts, merge, plan_with_claims, pod};
use crate::model::StoredClaim;

/// A pod of the workload, whose container `main` has the image and writes to the claim `cask`.
fn writer((kind, workload): (&str, &str), name: &str, image: &str, change: &Value) -> ObservedPod {
    let spec = json!({
        "metadata": { "annotations": null },
        "spec": {
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "cask" } }],
            "nodeName": "node-1",
            "containers": [{ "name": "main", "image": image, "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
        },
    });
    let mut observed = pod(kind, workload, name, &spec);
    let mut whole = serde_json::to_value(&observed.pod).unwrap();
    merge(&mut whole, change);
    observed.pod = serde_json::from_value(whole).unwrap();
    observed
}

/// The source of the claim `cask`, which these pods use.
fn cask(pods: &[ObservedPod], change: &Value) -> PlannedSource {
    let mut claim = json!({
        "metadata": { "name": "cask" },
        "spec": { "accessModes": ["ReadWriteOnce"] },
        "status": { "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" } },
    });
    merge(&mut claim, change);
    let claims: [PersistentVolumeClaim; 1] = [serde_json::from_value(claim).unwrap()];
    let facts = ClaimFacts {
        namespace: &Namespace::default(),
        claims: &claims,
        repositories: &[],
        snapshots: SnapshotFacts::default(),
    };
    let plan = plan_with_claims(pods, Some(facts), None);
    let mut sources = plan.sources.into_iter().filter(|source| source.name.as_str() == "pvc/cask");
    sources.next().unwrap_or_else(|| panic!("{:?}", plan.problems))
}

const SET: (&str, &str) = ("statefulset", "press");

#[test]
fn live_files_of_a_database_that_nothing_dumps_are_named_with_what_to_do() {
    let note = |image: &str, change: &Value| cask(&[writer(SET, "press-0", image, change)], &json!({})).note;
    let found = note("docker.io/library/postgres:16", &json!({}));
    for part in ["PostgreSQL", "container main of pod press-0", "backupcommand (pg_dump)", "volume-snapshot-class"] {
        assert!(found.contains(part), "{found}");
    }
    assert_eq!(note("shop:1", &json!({})), "", "no database");
    let dumped = json!({ "metadata": { "annotations": { "stowaway.dev/backupcommand": "pg_dump shop" } } });
    assert_eq!(note("postgres", &dumped), "");
    let read_only = json!({ "spec": { "containers": [{
        "name": "main", "image": "postgres", "volumeMounts": [{ "name": "data", "mountPath": "/data", "readOnly": true }]
    }] } });
    assert_eq!(note("postgres", &read_only), "", "its data is elsewhere");
    assert_eq!(cask(&[], &json!({})).note, "", "nothing writes to it");
}

#[test]
fn live_files_that_a_sidecar_reads_are_named_too() {
    let sidecar = json!({
        "metadata": { "annotations": { "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data" } },
        "spec": { "initContainers": [{
            "name": "stowaway-sidecar", "restartPolicy": "Always", "args": ["sidecar", "--volume=data=pvc/cask"]
        }] },
    });
    assert!(cask(&[writer(SET, "press-0", "mariadb:11", &sidecar)], &json!({})).note.contains("MariaDB"));
}

/// The notes of the command sources, by name.
fn notes(pods: &[ObservedPod]) -> Vec<(String, String)> {
    let plan = plan_with_claims(pods, None, None);
    plan.sources.into_iter().map(|source| (source.name.to_string(), source.note)).collect()
}

#[test]
fn chosen_one_of_several_pods_is_named_with_its_role() {
    let labelled = |name: &str, created: &str, role: &str| {
        let change = json!({ "metadata": { "creationTimestamp": created, "labels": { "app": "mill", "role": role } } });
        pod("deployment", "mill", name, &change)
    };
    let (old, new) =
        (labelled("mill-a", "2026-01-01T00:00:00Z", "primary"), labelled("mill-b", "2026-01-02T00:00:00Z", "replica"));
    let found = notes(&[new.clone(), old]);
    let expected =
        "the dump is of pod mill-b (role=replica), the newest Ready one of 2 pods of deployment/mill with this command";
    assert_eq!(found.iter().map(|(_, note)| note.as_str()).collect::<Vec<_>>(), [expected]);
    assert_eq!(notes(&[new])[0].1, "", "there was no choice");
}

#[test]
fn each_pod_of_a_stateful_set_is_named_in_its_note() {
    let labels = json!({ "metadata": { "labels": { "cnpg.io/instanceRole": "primary", "role": "other" } } });
    let found =
        notes(&[pod("statefulset", "press", "press-0", &labels), pod("statefulset", "press", "press-1", &json!({}))]);
    let notes: Vec<&str> = found.iter().map(|(_, note)| note.as_str()).collect();
    assert!(
        notes[0].starts_with("pod press-0 (cnpg.io/instanceRole=primary) is one of 2 pods of statefulset/press"),
        "{notes:?}"
    );
    assert!(notes[1].starts_with("pod press-1 is one of 2 pods"), "{notes:?}");
}

#[test]
fn snapshot_records_what_its_claim_requested_and_not_what_its_volume_has() {
    let requested = json!({ "spec": { "storageClassName": "oak", "resources": { "requests": { "storage": "1Gi" } } } });
    let recorded = StoredClaim::of(&cask(&[], &requested).identity).unwrap();
    let expected = StoredClaim {
        size: Some("1Gi".into()),
        storage_class_name: Some("oak".into()),
        access_modes: vec!["ReadWriteOnce".into()],
        volume_mode: None,
    };
    assert_eq!(recorded, expected);
}

//! Tests that the uses of a claim are derived from Jobs, pods, `VolumeSnapshot`s and Restores, and from nothing else.

mod commands;
mod half_restored;
mod steps;

use serde_json::{Value, json};

use super::*;
use crate::plan::fixtures::{NAMESPACE, restore};

/// A pod's spec as `resources` creates it: with this volume, and the volume of the repository.
fn pod_spec(volume: &str, claim: &str) -> Value {
    json!({ "containers": [], "volumes": [
        { "name": "repository", "persistentVolumeClaim": { "claimName": "cellar" } },
        { "name": volume, "persistentVolumeClaim": { "claimName": claim } },
    ] })
}

fn metadata(kind: &str, source: &str) -> Value {
    json!({
        "name": format!("{kind}-1"), "namespace": NAMESPACE, "uid": format!("uid-of-{kind}-1"),
        "labels": { "stowaway.dev/kind": kind, "stowaway.dev/run": "evening" },
        "annotations": { "stowaway.dev/source": source },
        "ownerReferences": [{ "apiVersion": "v1", "kind": "x", "name": "evening", "uid": "uid-of-evening" }],
    })
}

fn job(kind: &str, source: &str, volume: &str, claim: &str) -> Job {
    let spec = json!({ "template": { "spec": pod_spec(volume, claim) } });
    serde_json::from_value(json!({ "metadata": metadata(kind, source), "spec": spec })).unwrap()
}

/// The pod of a Job of this UID.
fn pod(kind: &str, job: &str, phase: &str) -> Pod {
    let mut metadata = metadata(kind, "pvc/casks");
    metadata["ownerReferences"][0]["uid"] = job.into();
    let volume = if kind == "backup" { DATA_VOLUME } else { TARGET_VOLUME };
    let spec = pod_spec(volume, "casks");
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": { "phase": phase } })).unwrap()
}

fn over(mut job: Job, condition: &str) -> Job {
    let status = json!({ "conditions": [{ "type": condition, "status": "True" }] });
    job.status = serde_json::from_value(status).unwrap();
    job
}

fn owner(uid: &str) -> OwnerRef {
    let restore = restore(&json!({ "from": { "source": "pvc/casks" } }));
    OwnerRef { uid: uid.to_owned(), ..OwnerRef::of(&restore).unwrap() }
}

/// Whether a Restore waits, whether a backup waits, and whether there is a lingering pod.
fn seen(runs: OwnRuns<'_>, claim: &str) -> [bool; 3] {
    let uses = ClaimUses::of(runs);
    let (own, claim) = (owner("another"), Subject::Claim(claim.to_owned()));
    [uses.before_restore(&claim, &own, false), uses.before_backup(&claim), uses.lingering_pod(&claim)]
        .map(|description| description.is_some())
}

const NONE_WAITS: [bool; 3] = [false, false, false];
const RESTORES_WAIT: [bool; 3] = [true, false, false];
const BOTH_WAIT: [bool; 3] = [true, true, false];

#[test]
fn jobs_are_known_by_the_claim_that_they_read_or_write() {
    for ((kind, source, volume, mounted), claim, expected) in [
        (("backup", "pvc/casks", "data", "casks"), "casks", RESTORES_WAIT),
        // A pod's sidecar reads the claim.
        (("backup", "pvc/casks", "tmp", "x"), "casks", RESTORES_WAIT),
        // The temporary claim of a snapshot is read.
        (("backup", "pvc/casks", "data", "evening-1"), "casks", NONE_WAITS),
        (("backup", "deployment/mill/press", "tmp", "x"), "casks", NONE_WAITS),
        (("restore", "pvc/other", "target", "casks"), "casks", BOTH_WAIT),
        // A Restore of the claim's source into another claim.
        (("restore", "pvc/casks", "target", "other"), "casks", NONE_WAITS),
        (("restore", "pvc/casks", "tmp", "x"), "casks", NONE_WAITS),
        (("prune", "", "data", "casks"), "casks", NONE_WAITS),
        // The claim which stores the repository.
        (("backup", "deployment/mill/press", "tmp", "x"), "cellar", NONE_WAITS),
        (("restore", "pvc/other", "target", "casks"), "cellar", NONE_WAITS),
    ] {
        let job = job(kind, source, volume, mounted);
        let description = format!("{:?} {claim}", job.metadata);
        assert_eq!(
            seen(OwnRuns { jobs: std::slice::from_ref(&job), ..OwnRuns::default() }, claim),
            expected,
            "{description}"
        );
        for condition in ["Complete", "Failed"] {
            let over = [over(job.clone(), condition)];
            assert_eq!(seen(OwnRuns { jobs: &over, ..OwnRuns::default() }, claim), NONE_WAITS, "{description}");
        }
        // A suspended Job counts.
        let mut suspended = job;
        suspended.spec.as_mut().unwrap().suspend = Some(true);
        assert_eq!(seen(OwnRuns { jobs: &[suspended], ..OwnRuns::default() }, claim), expected, "{description}");
    }
}

#[test]
fn restore_does_not_wait_for_itself() {
    let jobs = [job("restore", "pvc/casks", "target", "casks")];
    let uses = ClaimUses::of(OwnRuns { jobs: &jobs, ..OwnRuns::default() });
    let casks = Subject::Claim("casks".to_owned());
    assert_eq!(uses.before_restore(&casks, &owner("uid-of-evening"), false), None);
    let description = uses.before_restore(&casks, &owner("uid-of-morning"), false).unwrap();
    assert_eq!(description, "Restore evening, whose Job restore-1 writes into claim casks");
}

#[test]
fn pod_that_outlives_its_job_still_has_the_claim() {
    let living = [job("restore", "pvc/casks", "target", "casks")];
    let ended = [over(living[0].clone(), "Failed")];
    let pod_of = |kind: &str, phase: &str| [pod(kind, "uid-of-restore-1", phase)];
    let seen = |jobs: &[Job], pods: &[Pod]| seen(OwnRuns { jobs, pods, ..OwnRuns::default() }, "casks");
    assert_eq!(seen(&living, &pod_of("restore", "Running")), BOTH_WAIT);
    for jobs in [&ended[..], &[]] {
        for phase in ["Running", "Pending", "Unknown"] {
            assert_eq!(seen(jobs, &pod_of("restore", phase)), [true, false, true]);
        }
        assert_eq!(seen(jobs, &pod_of("backup", "Running")), RESTORES_WAIT);
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(seen(jobs, &pod_of("restore", phase)), NONE_WAITS);
        }
    }
}

#[test]
fn snapshot_counts_until_it_is_taken() {
    let snapshot = |status: &Value, more: &Value| -> DynamicObject {
        let mut snapshot = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": { "name": "evening-1" },
            "spec": { "source": { "persistentVolumeClaimName": "casks" } }, "status": status,
        });
        for (key, value) in more.as_object().unwrap() {
            snapshot["metadata"][key] = value.clone();
        }
        serde_json::from_value(snapshot).unwrap()
    };
    let bound = json!({ "boundVolumeSnapshotContentName": "x", "readyToUse": false });
    for (status, more, expected) in [
        (json!({}), json!({}), RESTORES_WAIT),
        (bound, json!({}), RESTORES_WAIT),
        (json!({ "creationTime": "2026-01-01T00:00:00Z", "readyToUse": false }), json!({}), NONE_WAITS),
        (json!({ "readyToUse": true }), json!({}), NONE_WAITS),
        (json!({}), json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }), NONE_WAITS),
    ] {
        let snapshots = [snapshot(&status, &more)];
        assert_eq!(seen(OwnRuns { snapshots: &snapshots, ..OwnRuns::default() }, "casks"), expected, "{status}");
        assert_eq!(seen(OwnRuns { snapshots: &snapshots, ..OwnRuns::default() }, "other"), NONE_WAITS);
    }
}

#[test]
fn backups_let_restores_pass_that_have_no_verdict() {
    let into = |claim: &str| restore(&json!({ "from": { "source": "pvc/x" }, "to": { "claim": { "name": claim } } }));
    let before_backup = |restore: Restore| seen(OwnRuns { restores: &[restore], ..OwnRuns::default() }, "casks");
    assert_eq!(before_backup(into("casks")), [false, true, false], "pending Restores do not wait for each other");
    assert_eq!(before_backup(into("other")), NONE_WAITS);
    assert_eq!(before_backup(restore(&json!({ "from": { "source": "pvc/casks" } }))), NONE_WAITS);
    let mut over = into("casks");
    over.status.get_or_insert_default().outcome.verdict = Some(crate::model::Verdict::Failed);
    assert_eq!(before_backup(over), NONE_WAITS);
    let mut deleted = into("casks");
    deleted.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(crate::plan::fixtures::at(0)));
    assert_eq!(before_backup(deleted), NONE_WAITS);
}

#[test]
fn job_that_has_failed_for_good_is_over_although_its_pod_never_ends() {
    for (kind, volume, expected) in [("backup", "data", RESTORES_WAIT), ("restore", "target", [true, false, true])] {
        let jobs = [over(job(kind, "pvc/casks", volume, "casks"), "FailureTarget")];
        let mut pods = [pod(kind, &format!("uid-of-{kind}-1"), "Running")];
        pods[0].spec.as_mut().unwrap().node_name = Some("cellar-7".into());
        let runs = OwnRuns { jobs: &jobs, pods: &pods, ..OwnRuns::default() };
        assert_eq!(seen(runs, "casks"), expected, "{kind}");
        let uses = ClaimUses::of(runs);
        let casks = Subject::Claim("casks".to_owned());
        let description = uses.before_restore(&casks, &owner("another"), false).unwrap();
        assert!(description.contains("on node cellar-7") && description.contains("out-of-service"), "{description}");
        assert_eq!(seen(OwnRuns { jobs: &jobs, ..OwnRuns::default() }, "casks"), NONE_WAITS, "its pods have ended");
    }
}

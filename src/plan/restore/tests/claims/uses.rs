//! Tests that a Restore waits for Stowaway's other runs of a claim, and does not scale the workload down meanwhile.

use super::*;
use crate::plan::claim_uses::OwnRuns;

/// A Job of another object, which mounts the claim as this volume.
fn used_by(kind: &str, volume: &str) -> ClaimUses {
    let job = json!({
        "metadata": { "name": "evening-1", "labels": { "stowaway.dev/kind": kind, "stowaway.dev/run": "evening" } },
        "spec": { "template": { "spec": {
            "containers": [], "volumes": [{ "name": volume, "persistentVolumeClaim": { "claimName": "casks" } }],
        } } },
    });
    ClaimUses::of(OwnRuns { jobs: &[serde_json::from_value(job).unwrap()], ..OwnRuns::default() })
}

#[test]
fn claim_that_a_backup_reads_or_another_restore_writes_is_waited_for() {
    for (kind, volume, who) in [("backup", "data", "Backup evening"), ("restore", "target", "Restore evening")] {
        let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
        cellar.uses = used_by(kind, volume);
        // Longer than the wait for a Repository.
        for seconds in [0, 24 * 3600] {
            let actions = cellar.step(seconds);
            assert!(actions.start.is_empty() && actions.requeue_after.is_some(), "{actions:?}");
            let condition = &cellar.status().conditions[0];
            assert_eq!(condition.reason, "Waiting");
            assert!(condition.message.contains(&format!("waits for {who}")), "{}", condition.message);
        }
        cellar.uses = ClaimUses::default();
        cellar.started(24 * 3600 + 1);
    }
}

#[test]
fn claim_that_is_never_free_fails_the_restore_in_the_end() {
    let mut cellar = Cellar::new(&json!({}), &json!({}));
    cellar.uses = used_by("backup", "data");
    cellar.step(0);
    assert_eq!(cellar.failed_for(25 * 3600), "TargetInUse");
    assert!(cellar.status().outcome.message.contains("Backup evening"), "{:?}", cellar.status().outcome);
}

#[test]
fn workload_stays_up_as_long_as_a_run_is_waited_for() {
    let mut cellar = scaled_down(3, 3);
    cellar.uses = used_by("backup", "data");
    let actions = cellar.step(0);
    assert!(actions.restore == crate::plan::actions::RestoreActions::default() && cellar.status().scaled.is_none());
    cellar.uses = ClaimUses::default();
    cellar.step(1);
    assert!(cellar.status().scaled.is_some());
    // A run which started in the meantime is found, too.
    cellar.step(2);
    cellar.scale.as_mut().unwrap().pods = 0;
    cellar.uses = used_by("backup", "data");
    assert!(cellar.step(3).start.is_empty());
    cellar.uses = ClaimUses::default();
    cellar.started(4);
}

#[test]
fn nothing_is_restored_into_a_claim_that_a_repository_is_on() {
    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    let volume = json!({ "persistentVolumeClaim": { "claimName": "casks" } });
    cellar.world.repositories[0].spec.volume = Some(serde_json::from_value(volume).unwrap());
    assert_eq!(cellar.failed_for(0), "InvalidRequest");
    assert!(cellar.status().outcome.message.contains("is on claim casks"), "{:?}", cellar.status());
}

/// A pod whose restore step fills the claim; `containers` precede the step.
fn in_step(containers: &serde_json::Value, state: &serde_json::Value) -> ObservedPod {
    let mut one = user("waits");
    let step = json!({ "name": "stowaway-restore", "args": ["--volume=v=pvc/casks"] });
    let mut init = containers.as_array().unwrap().clone();
    init.push(step);
    let spec = one.pod.spec.as_mut().unwrap();
    spec.init_containers = serde_json::from_value(init.into()).unwrap();
    let app = json!([{ "name": "app", "volumeMounts": [{ "name": "v", "mountPath": "/data" }] }]);
    spec.containers = serde_json::from_value(app).unwrap();
    let status = |name: &str, state: &serde_json::Value| json!({ "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 3, "state": state });
    let running = json!({ "running": { "startedAt": at(0) } });
    let proxies = containers.as_array().unwrap().iter().map(|one| status(one["name"].as_str().unwrap(), &running));
    let statuses: Vec<_> = proxies.chain([status("stowaway-restore", state)]).collect();
    let status = json!({ "phase": "Pending", "initContainerStatuses": statuses });
    one.pod.status = serde_json::from_value(status).unwrap();
    one
}

#[test]
fn pod_that_waits_in_its_restore_step_is_no_user_of_the_claim() {
    let failing = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let proxy = json!([{ "name": "proxy", "restartPolicy": "Always" }]);
    let reader = json!([{ "name": "reader", "volumeMounts": [{ "name": "v", "mountPath": "/data" }] }]);
    for (containers, state, waits) in [
        (json!([]), failing.clone(), true),
        (proxy, failing.clone(), true),
        // It mounts the claim, so it may use it.
        (reader, failing, false),
        // The step has filled the claim, and the app starts.
        (json!([]), json!({ "terminated": { "exitCode": 0 } }), false),
    ] {
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        cellar.world.pods = vec![in_step(&containers, &state)];
        if waits {
            assert_eq!(cellar.mount(0).node.as_deref(), Some("node-of-waits"), "the volume is attached to its node");
        } else {
            assert_eq!(cellar.failed_for(0), "TargetInUse", "{containers} {state}");
        }
        // Its volume can be mounted by one pod alone.
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        cellar.claim = Some(claim(&json!({ "spec": { "accessModes": ["ReadWriteOncePod"] } })));
        cellar.world.pods = vec![in_step(&containers, &state)];
        assert_eq!(cellar.failed_for(0), "TargetInUse");
    }
}

#[test]
fn pod_on_a_lost_node_fails_the_restore_with_the_node_and_the_next_step() {
    let pod = json!({
        "metadata": {
            "name": "evening-1", "deletionTimestamp": at(1000),
            "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
        },
        "spec": {
            "nodeName": "cellar-7", "containers": [],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "casks" } }],
        },
        "status": { "phase": "Pending" },
    });
    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    cellar.uses = ClaimUses::of(OwnRuns { pods: &[serde_json::from_value(pod).unwrap()], ..OwnRuns::default() });
    cellar.step(0);
    cellar.step(1299);
    assert_eq!(cellar.status().outcome.verdict, None, "the pod may still end");
    assert_eq!(cellar.failed_for(1300), "TargetInUse");
    let message = &cellar.status().outcome.message;
    for part in ["5 minutes", "on node cellar-7", "Backup evening", "out-of-service"] {
        assert!(message.contains(part), "{message}");
    }
}

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

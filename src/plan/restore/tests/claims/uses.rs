//! A claim on which our own runs work is waited for, and the workload stays up meanwhile.

use super::*;
use crate::plan::claim_uses::OwnRuns;

/// A Job of another object that has the claim in this volume.
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
        // Longer than a Repository is waited for.
        for seconds in [0, 24 * 3600] {
            let actions = cellar.look(seconds);
            assert!(actions.start.is_empty() && actions.look_again.is_some(), "{actions:?}");
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
    cellar.look(0);
    assert_eq!(cellar.failed_for(25 * 3600), "TargetInUse");
    assert!(cellar.status().outcome.message.contains("Backup evening"), "{:?}", cellar.status().outcome);
}

#[test]
fn workload_stays_up_as_long_as_a_run_is_waited_for() {
    let mut cellar = scaled_down(3, 3);
    cellar.uses = used_by("backup", "data");
    let actions = cellar.look(0);
    assert!(actions.around == crate::plan::actions::Around::default() && cellar.status().scaled.is_none());
    cellar.uses = ClaimUses::default();
    cellar.look(1);
    assert!(cellar.status().scaled.is_some());
    // What began in the moment between is seen, too.
    cellar.look(2);
    cellar.scale.as_mut().unwrap().pods = 0;
    cellar.uses = used_by("backup", "data");
    assert!(cellar.look(3).start.is_empty());
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

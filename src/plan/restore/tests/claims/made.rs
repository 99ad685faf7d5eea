//! Tests of the claim which is created for a Restore: with the requested properties, else with the recorded ones.

use serde_json::Value;

use super::*;
use crate::model::{SnapshotLookup, StoredClaim};

fn lookup_of(bytes: Option<u64>, claim: Option<StoredClaim>) -> RunReport {
    let lookup = Some(SnapshotLookup { bytes, claim });
    RunReport { bytes: bytes.unwrap_or_default(), lookup, proof: Proof::None, ..success() }
}

/// The recorded claim of the snapshot.
fn stored() -> StoredClaim {
    StoredClaim {
        size: Some("1Gi".into()),
        storage_class_name: Some("elm".into()),
        access_modes: vec!["ReadWriteMany".into()],
        volume_mode: None,
    }
}

/// A Restore into a claim which does not exist, after this lookup.
fn after(create: &Value, found: &RunReport) -> Cellar {
    let mut cellar = Cellar::new(&json!({ "create": create }), &json!({}));
    cellar.claim = None;
    let lookup = cellar.step(0).start.remove(0);
    assert!(matches!(lookup.task, TaskKind::FindSnapshot(_)), "{:?}", lookup.task);
    cellar.ends(found);
    cellar.step(1);
    cellar
}

/// The spec of the created claim.
fn made(cellar: &mut Cellar) -> Value {
    let claim = cellar.step(2).restore.create_claim.unwrap_or_else(|| panic!("{:?}", cellar.status()));
    serde_json::to_value(claim.spec.unwrap()).unwrap()
}

#[test]
fn missing_claim_is_created_with_the_requested_size() {
    let new = json!({ "create": { "storageClassName": "oak", "accessModes": ["ReadWriteMany"], "size": "5Gi", "volumeMode": "Filesystem" } });
    let mut cellar = Cellar::new(&new, &json!({}));
    cellar.claim = None;
    let actions = cellar.step(0);
    let made = serde_json::to_value(actions.restore.create_claim.unwrap()).unwrap();
    assert_eq!(made["metadata"]["name"], "casks");
    assert_eq!(made["metadata"]["ownerReferences"], json!(null), "it has no owner");
    let spec = json!({
        "accessModes": ["ReadWriteMany"], "storageClassName": "oak", "volumeMode": "Filesystem",
        "resources": { "requests": { "storage": "5Gi" } },
    });
    assert_eq!(made["spec"], spec);
    assert_eq!(actions.start.len(), 1);
}

#[test]
fn size_of_a_new_claim_is_looked_up_and_that_very_snapshot_restored() {
    let from = json!({ "source": SOURCE, "asOf": "2026-05-04T03:02:01Z" });
    let mut cellar = Cellar::new(&json!({ "create": {} }), &json!({ "from": from }));
    cellar.claim = None;
    let lookup = cellar.step(0).start.remove(0);
    let TaskKind::FindSnapshot(wanted) = lookup.task else { panic!("{:?}", lookup.task) };
    assert!(wanted.as_of.is_some() && lookup.target.is_none());
    let found = lookup_of(Some(10 << 30), None);
    cellar.ends(&found);
    assert!(cellar.step(1).requeue_after.is_some());
    assert_eq!(cellar.status().outcome.verdict, None);
    let actions = cellar.step(2);
    let made = serde_json::to_value(actions.restore.create_claim.unwrap()).unwrap();
    assert_eq!(made["spec"]["resources"]["requests"]["storage"], "16Gi");
    let TaskKind::RestoreVolume(run) = &actions.start[0].task else { panic!("{:?}", actions.start) };
    assert_eq!((run.from.id.clone(), run.from.as_of), (found.snapshot, None));
    let attempt = job_name(&cellar.world.restore, SOURCE, 2);
    assert_eq!(cellar.status().job.as_deref(), Some(attempt.as_str()));

    // A failed lookup ends the Restore.
    let mut cellar = Cellar::new(&json!({ "create": {} }), &json!({}));
    cellar.claim = None;
    cellar.step(0);
    cellar.ends(&failure(Reason::SnapshotNotFound));
    assert_eq!(cellar.failed_for(1), "SnapshotNotFound");
}

#[test]
fn new_claim_is_what_the_stored_one_had_requested_and_never_its_capacity() {
    let mut cellar = after(&json!({}), &lookup_of(Some(1 << 30), Some(stored())));
    let spec = json!({
        "accessModes": ["ReadWriteMany"], "storageClassName": "elm", "resources": { "requests": { "storage": "1Gi" } }
    });
    assert_eq!(made(&mut cellar), spec);
    let description = &cellar.status().made_claim;
    assert!(
        description.contains("1Gi, which the source's claim requested") && description.contains("class elm"),
        "{description}"
    );
}

#[test]
fn claim_that_had_requested_less_than_its_volume_held_is_made_with_room() {
    let mut cellar = after(&json!({}), &lookup_of(Some((1 << 30) + 1), Some(stored())));
    assert_eq!(made(&mut cellar)["resources"]["requests"]["storage"], "3Gi");
    let description = &cellar.status().made_claim;
    assert!(description.contains("the source's claim requested less"), "{description}");
}

#[test]
fn requested_properties_of_a_new_claim_override_recorded_ones() {
    let requested = json!({ "size": "7Gi", "storageClassName": "oak" });
    let spec = made(&mut after(&requested, &lookup_of(None, Some(stored()))));
    assert_eq!(spec["resources"]["requests"]["storage"], "7Gi");
    // Another class may not support the recorded access modes.
    assert_eq!((&spec["storageClassName"], &spec["accessModes"]), (&json!("oak"), &json!(["ReadWriteOnce"])));
}

#[test]
fn recorded_class_that_the_cluster_lacks_is_replaced_by_the_default_one_and_named() {
    let mut cellar = after(&json!({}), &lookup_of(Some(1), Some(stored())));
    cellar.storage_classes = vec!["oak".into()];
    assert_eq!(made(&mut cellar)["storageClassName"], json!(null));
    let description = &cellar.status().made_claim;
    assert!(description.contains("default class (because the StorageClass elm"), "{description}");
}

#[test]
fn claim_that_nothing_can_be_written_to_is_made_to_be_written_to() {
    let claim = StoredClaim { access_modes: vec!["ReadOnlyMany".into()], ..stored() };
    assert_eq!(made(&mut after(&json!({}), &lookup_of(Some(1), Some(claim))))["accessModes"], json!(["ReadWriteOnce"]));
}

#[test]
fn size_that_is_a_guess_is_reported_with_the_verdict() {
    let mut cellar = after(&json!({}), &lookup_of(Some(10 << 30), None));
    assert_eq!(made(&mut cellar)["resources"]["requests"]["storage"], "16Gi");
    cellar.claim = Some(claim(&json!({})));
    cellar.ends(&success());
    cellar.step(3);
    assert_eq!(cellar.status().outcome.verdict, Some(Verdict::Succeeded));
    let message = &cellar.status().outcome.message;
    assert!(message.contains("does not record which size its claim requested"), "{message}");
    assert!(message.contains("spec.to.claim.create.size"), "{message}");
}

#[test]
fn snapshot_that_records_no_size_at_all_needs_one_that_is_given() {
    let mut cellar = after(&json!({}), &lookup_of(None, None));
    assert_eq!(cellar.failed_for(2), "InvalidRequest");
    assert_eq!(
        made(&mut after(&json!({ "size": "2Gi" }), &lookup_of(None, None)))["resources"]["requests"]["storage"],
        "2Gi"
    );
}

#[test]
fn lookup_of_an_earlier_version_knows_the_size_alone() {
    let earlier = RunReport { bytes: 10 << 30, proof: Proof::None, ..success() };
    assert_eq!(made(&mut after(&json!({}), &earlier))["resources"]["requests"]["storage"], "16Gi");
}

#[test]
fn claim_that_is_made_to_be_a_block_device_is_one_for_its_job() {
    let new = json!({ "create": { "volumeMode": "Block", "size": "5Gi", "storageClassName": "oak", "accessModes": ["ReadWriteOnce"] } });
    let mut cellar = Cellar::new(&new, &json!({}));
    cellar.claim = None;
    let mut actions = cellar.step(0);
    let start = actions.start.pop().unwrap();
    assert!(matches!(&start.task, TaskKind::RestoreVolume(run) if run.device));
    assert!(mount_of(start).device);
    let made = actions.restore.create_claim.unwrap().spec.unwrap();
    assert_eq!(made.volume_mode.as_deref(), Some("Block"));
}

#[test]
fn claim_of_a_stored_device_is_a_block_device_unless_another_mode_is_requested() {
    let device = StoredClaim { volume_mode: Some("Block".into()), ..StoredClaim::default() };
    for (requested, is_device) in [(json!({}), true), (json!({ "volumeMode": "Filesystem" }), false)] {
        let mut cellar = after(&requested, &lookup_of(Some(1), Some(device.clone())));
        let mut actions = cellar.step(2);
        let start = actions.start.pop().unwrap();
        assert!(matches!(&start.task, TaskKind::RestoreVolume(run) if run.device == is_device));
        assert_eq!(mount_of(start).device, is_device);
        let spec = actions.restore.create_claim.unwrap().spec.unwrap();
        assert_eq!(spec.volume_mode.as_deref() == Some("Block"), is_device);
    }
}

#[test]
fn storage_class_that_does_not_exist_is_named_while_its_claim_has_no_volume() {
    let new = json!({ "create": { "storageClassName": "ash", "accessModes": ["ReadWriteOnce"], "size": "5Gi", "volumeMode": "Filesystem" } });
    let mut cellar = Cellar::new(&new, &json!({}));
    cellar.claim = None;
    assert!(cellar.step(0).restore.create_claim.is_some(), "a volume of that class may exist");
    let pending = |class: &str| {
        let spec = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": class });
        claim(&json!({ "spec": spec, "status": { "phase": "Pending" } }))
    };
    let name = cellar.status().job.clone().unwrap();
    cellar.world.jobs = vec![job(&name, &Scene::NoPod)];
    let waiting = |cellar: &mut Cellar| {
        cellar.step(1);
        condition(&cellar.status().conditions, COMPLETE).unwrap().message.clone()
    };
    cellar.claim = Some(pending("oak"));
    assert!(!waiting(&mut cellar).contains("StorageClass"), "its volume is made when its pod is scheduled");
    cellar.claim = Some(pending("ash"));
    assert!(waiting(&mut cellar).starts_with("claim casks has no volume, because StorageClass \"ash\" does not exist"));
    cellar.step(301);
    let outcome = &cellar.status().outcome;
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Failed), "PodNotStarted"));
    assert!(outcome.message.contains("StorageClass \"ash\" does not exist"), "{}", outcome.message);
}

/// The claim which a Restore has created and none has filled.
fn unfilled() -> PersistentVolumeClaim {
    claim(&json!({ "metadata": { "name": "casks", "annotations": { "stowaway.dev/restore-unfinished": "undo" } } }))
}

#[test]
fn created_claim_is_marked_until_a_restore_has_filled_it() {
    let new = json!({ "create": { "storageClassName": "oak", "accessModes": ["ReadWriteMany"], "size": "5Gi", "volumeMode": "Filesystem" } });
    let incomplete = RunReport { verdict: Verdict::Incomplete, reason: Reason::MetadataNotKept, ..proven() };
    for (report, is_filled) in [(proven(), true), (incomplete, true), (failure(Reason::StoreUnavailable), false)] {
        let mut cellar = Cellar::new(&new, &json!({}));
        cellar.claim = None;
        let created = cellar.step(0).restore.create_claim.unwrap();
        assert_eq!(created.annotations()["stowaway.dev/restore-unfinished"], "undo");
        cellar.claim = Some(*created);
        let name = cellar.status().job.clone().unwrap();
        cellar.world.jobs = vec![job(&name, &Scene::Runs)];
        assert!(!cellar.step(1).restore.claim_is_filled);
        cellar.world.jobs.clear();
        cellar.ends(&report);
        assert_eq!(cellar.step(2).restore.claim_is_filled, is_filled, "{report:?}");
        let message = &cellar.status().outcome.message;
        assert_eq!(message.contains("no Backup stores claim casks"), !is_filled, "{message}");
        assert_eq!(message.contains("restore into it again, or delete it"), !is_filled, "{message}");
    }
}

#[test]
fn claim_that_a_failed_restore_has_created_is_taken_by_the_next_one() {
    for to in [json!({ "create": {} }), json!({})] {
        let mut cellar = Cellar::new(&to, &json!({}));
        cellar.claim = Some(unfilled());
        let (start, _) = cellar.started(0);
        assert_eq!(mount_of(start).claim, "casks");
        cellar.ends(&proven());
        assert!(cellar.step(1).restore.claim_is_filled);
        let mut other = Cellar::new(&to, &json!({}));
        other.started(0);
        other.ends(&proven());
        assert!(!other.step(1).restore.claim_is_filled, "a claim of the user has no mark");
    }
}

/// A Restore of single paths, and one into a folder of the claim: `to.claim` and `from`.
fn partial() -> [(Value, Value); 2] {
    [
        (json!({}), json!({ "source": SOURCE, "paths": ["ledger"] })),
        (json!({ "path": "old" }), json!({ "source": SOURCE })),
    ]
}

#[test]
fn restore_of_single_paths_or_into_a_folder_does_not_fill_the_claim_of_a_failed_restore() {
    for (to, from) in partial() {
        let mut cellar = Cellar::new(&to, &json!({ "from": from }));
        cellar.claim = Some(unfilled());
        cellar.started(0);
        cellar.ends(&proven());
        assert!(!cellar.step(1).restore.claim_is_filled, "{from} to {to}");
        let Outcome { verdict, message, .. } = &cellar.status().outcome;
        assert_eq!(*verdict, Some(Verdict::Succeeded));
        let next = "no Backup stores claim casks, or a dump of a pod that mounts it, before a Restore of the whole source into it has succeeded";
        assert!(message.contains(next) && !message.contains("command"), "{message}");
    }
}

#[test]
fn restore_of_single_paths_or_into_a_folder_fills_the_claim_that_it_has_created_itself() {
    let new = json!({ "storageClassName": "oak", "accessModes": ["ReadWriteMany"], "size": "5Gi", "volumeMode": "Filesystem" });
    for (mut to, from) in partial() {
        to["create"] = new.clone();
        let mut cellar = Cellar::new(&to, &json!({ "from": from }));
        cellar.claim = None;
        cellar.claim = Some(*cellar.step(0).restore.create_claim.unwrap());
        cellar.ends(&proven());
        assert!(cellar.step(1).restore.claim_is_filled, "{from} to {to}");
        assert!(!cellar.status().outcome.message.contains("no Backup stores"), "{:?}", cellar.status());
    }
}

#[test]
fn refused_job_of_a_created_claim_and_a_mark_that_stays_are_reported_with_the_next_step() {
    let mut status =
        RestoreStatus { claim: "casks".into(), made_claim: "claim casks was created".into(), ..Default::default() };
    let applied = refused(RunKind::Restore, "pvc/casks", Reason::PodNotStarted, "quota");
    settle_restore(&mut status, &mut Actions::default(), &applied, at(1));
    assert!(status.outcome.message.contains("no Backup stores claim casks"), "{}", status.outcome.message);
    claim_stays_marked(&mut status, "forbidden");
    let command = "kubectl annotate persistentvolumeclaim casks stowaway.dev/restore-unfinished-";
    assert!(status.outcome.message.contains(command), "{}", status.outcome.message);
}

#[test]
fn claim_that_was_not_created_is_not_reported_as_created() {
    let mut status =
        RestoreStatus { claim: "casks".into(), made_claim: "claim casks was created".into(), ..Default::default() };
    let applied = refused(RunKind::Restore, "pvc/casks", Reason::PodNotStarted, "forbidden");
    settle_restore(&mut status, &mut Actions::default(), &Applied { no_claim_made: true, ..applied }, at(1));
    assert_eq!((status.made_claim.as_str(), status.outcome.message.as_str()), ("", "forbidden"));
    assert_eq!(status.outcome.verdict, Some(Verdict::Failed));
}

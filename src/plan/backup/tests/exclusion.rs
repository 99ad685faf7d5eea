//! Tests that a source is not backed up while it is being restored, by the restore step of a pod or into a command.

use super::*;
use crate::plan::fixtures::stepping;

#[test]
fn claim_that_a_restore_step_has_not_filled_is_never_stored() {
    let mut world = World::new(&["pvc/casks", "pvc/barrels"]);
    world.uses = stepping("ledger-0", "casks");
    world.step(0);
    let started: Vec<String> = world.step(0).start.into_iter().map(|start| start.source).collect();
    assert_eq!(started, ["pvc/barrels"]);
    world.end("pvc/barrels", &success());
    assert!(world.step(299).start.is_empty());
    assert_eq!(world.source("pvc/casks").outcome.verdict, None);
    world.step(300);
    let outcome = &world.source("pvc/casks").outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("RestoreUnfinished", Some(Verdict::Failed)));
    assert!(
        outcome.message.contains("pod ledger-0") && outcome.message.contains("kubectl logs"),
        "{}",
        outcome.message
    );
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
}

#[test]
fn claim_whose_restore_step_ends_in_time_is_stored() {
    let mut world = World::new(&["pvc/casks"]);
    world.uses = stepping("ledger-0", "casks");
    world.step(0);
    assert!(world.step(100).start.is_empty());
    world.uses = ClaimUses::default();
    assert_eq!(world.step(200).start.len(), 1);
}

#[test]
fn step_is_named_even_if_no_pod_could_read_the_claim() {
    let mut world = World::new(&["pvc/casks"]);
    world.sources.sources[0].target = None;
    world.uses = stepping("ledger-0", "casks");
    world.step(0);
    world.step(0);
    assert_eq!(world.source("pvc/casks").outcome.reason, "RestoreUnfinished");
}

#[test]
fn command_waits_for_a_restore_into_it_as_long_as_that_takes() {
    let mut world = World::new(&[MILL, WELL]);
    let undo = crate::plan::fixtures::restore(&json!({ "from": { "source": MILL } }));
    world.uses = ClaimUses::of(crate::plan::OwnRuns { restores: &[undo], ..Default::default() });
    world.step(0);
    let started: Vec<String> = world.step(0).start.into_iter().map(|start| start.source).collect();
    assert_eq!(started, [WELL]);
    assert!(world.step(24 * 3600).start.iter().all(|start| start.source != MILL));
    let outcome = &world.source(MILL).outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("QueuedLong", None));
    assert!(outcome.message.contains("waits for Restore undo"), "{}", outcome.message);
    world.uses = ClaimUses::default();
    assert!(world.step(24 * 3600 + 1).start.iter().any(|start| start.source == MILL));
}

#[test]
fn pod_of_a_restore_that_does_not_end_fails_the_backup_of_its_claim() {
    let mut world = World::new(&["pvc/casks"]);
    world.uses = restoring("casks", true, true);
    world.step(0);
    assert!(world.step(0).start.is_empty());
    assert!(world.step(299).start.is_empty());
    assert!(world.source("pvc/casks").outcome.message.contains("pod undo-1 of Restore undo"));
    assert_eq!(world.source("pvc/casks").outcome.verdict, None);
    world.step(300);
    let outcome = &world.source("pvc/casks").outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("TargetInUse", Some(Verdict::Failed)));
}

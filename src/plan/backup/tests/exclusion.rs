//! Tests that a source is not backed up while it is being restored, by the restore step of a pod or into a command.

use super::*;
use crate::plan::{
    OwnRuns,
    fixtures::{ended_restore, stepping},
    sources::UnfilledClaim,
};

/// The claim `casks`, whose mark has this value.
fn unfilled(restore: &str) -> UnfilledClaim {
    UnfilledClaim { name: "casks".into(), restore: restore.into() }
}

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
    world.uses = ClaimUses::of(OwnRuns { restores: &[undo], ..Default::default() });
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

#[test]
fn claim_that_a_failed_restore_has_created_is_not_stored_and_the_next_step_is_named() {
    let mut world = World::new(&["pvc/casks", "pvc/barrels"]);
    world.sources.sources[0].unfilled = Some(unfilled("undo"));
    world.step(0);
    let started: Vec<String> = world.step(0).start.into_iter().map(|start| start.source).collect();
    assert_eq!(started, ["pvc/barrels"]);
    world.end("pvc/barrels", &success());
    world.step(300);
    let outcome = &world.source("pvc/casks").outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("RestoreUnfinished", Some(Verdict::Failed)));
    for part in ["Restore undo has created claim casks", "Restore into it again, or delete it", "restore-unfinished-"] {
        assert!(outcome.message.contains(part), "{part}: {}", outcome.message);
    }
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
}

#[test]
fn created_claim_is_stored_once_a_running_restore_has_filled_it_however_long_that_takes() {
    let mut world = World::new(&["pvc/casks"]);
    world.sources.sources[0].unfilled = Some(unfilled("undo"));
    world.uses = restoring("casks", false, false);
    world.step(0);
    assert!(world.step(0).start.is_empty());
    assert!(world.step(3600).start.is_empty());
    assert_eq!(world.source("pvc/casks").outcome.verdict, None);
    world.uses = ClaimUses::default();
    world.sources.sources[0].unfilled = None;
    assert_eq!(world.step(3610).start.len(), 1);
}

#[test]
fn dump_of_a_pod_with_a_claim_that_no_restore_has_filled_is_not_stored_and_the_next_step_is_named() {
    let mut world = World::new(&[MILL, WELL]);
    world.sources.sources[0].unfilled = Some(unfilled("undo"));
    world.step(0);
    let started: Vec<String> = world.step(0).start.into_iter().map(|start| start.source).collect();
    assert_eq!(started, [WELL]);
    world.end(WELL, &success());
    world.step(300);
    let outcome = &world.source(MILL).outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("RestoreUnfinished", Some(Verdict::Failed)));
    for part in [
        "Restore undo has created claim casks, which pod pod-a mounts",
        "no dump of the pod is stored",
        "Restore into it again, or delete it",
        "such as after a Restore into a command of its pod",
        "kubectl annotate persistentvolumeclaim casks stowaway.dev/restore-unfinished-",
    ] {
        assert!(outcome.message.contains(part), "{part}: {}", outcome.message);
    }
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
}

#[test]
fn dump_of_a_pod_is_stored_once_its_claim_is_filled_however_long_the_restore_takes() {
    let mut world = World::new(&[MILL]);
    world.sources.sources[0].unfilled = Some(unfilled("undo"));
    let undo = crate::plan::fixtures::restore(&json!({ "from": { "source": MILL } }));
    world.uses = ClaimUses::of(OwnRuns { restores: &[undo], ..Default::default() });
    world.step(0);
    assert!(world.step(0).start.is_empty());
    assert!(world.step(3600).start.is_empty());
    assert_eq!(world.source(MILL).outcome.verdict, None);
    world.uses = ClaimUses::default();
    assert!(world.step(3610).start.is_empty(), "a Restore into the command does not remove the mark");
    world.sources.sources[0].unfilled = None;
    assert_eq!(world.step(3620).start.len(), 1);
}

#[test]
fn mark_with_a_text_of_another_author_is_not_repeated() {
    let mut world = World::new(&["pvc/casks"]);
    world.sources.sources[0].unfilled = Some(unfilled("undo; all is well"));
    world.step(0);
    world.step(0);
    let message = &world.source("pvc/casks").outcome.message;
    assert!(message.contains("a Restore has created claim casks") && !message.contains("well"), "{message}");
}

/// The uses of Restores which have ended.
fn ended(restores: &[crate::api::Restore]) -> ClaimUses {
    ClaimUses::of(OwnRuns { restores, ..OwnRuns::default() })
}

#[test]
fn device_that_a_failed_restore_has_half_written_is_not_stored() {
    let to_cask = json!({ "from": { "source": "pvc/cask" }, "to": { "claim": { "name": "cask", "overwrite": true } } });
    let restore = |name: &str, end, seconds| ended_restore(name, &to_cask, end, seconds);
    let failed = || restore("undo-1", (Verdict::Failed, Reason::ResultLost), 10);
    for (is_device, restores, is_stored) in [
        (true, vec![failed()], false),
        (true, vec![failed(), restore("undo-2", (Verdict::Succeeded, Reason::Completed), 20)], true),
        (true, vec![restore("undo-1", (Verdict::Failed, Reason::TargetNotEmpty), 10)], true),
        // The user has deleted the Restore.
        (true, vec![], true),
        // Files have marks of the restore beside them.
        (false, vec![failed()], true),
    ] {
        let mut world = World::new(&["pvc/cask"]);
        world.sources.sources[0].target = Some(Target::Claim(ClaimMount { device: is_device, ..mount("cask") }));
        world.uses = ended(&restores);
        world.step(0);
        assert_eq!(world.step(0).start.len(), usize::from(is_stored), "{is_device} {}", restores.len());
        if is_stored {
            continue;
        }
        world.step(300);
        let outcome = &world.source("pvc/cask").outcome;
        assert_eq!((outcome.reason.as_str(), outcome.verdict), ("RestoreUnfinished", Some(Verdict::Failed)));
        for part in [
            "Restore undo-1 into the block device of claim cask failed at",
            "(ResultLost)",
            "restores.stowaway.dev undo-1",
        ] {
            assert!(outcome.message.contains(part), "{part}: {}", outcome.message);
        }
    }
}

#[test]
fn dump_after_a_failed_restore_into_its_command_is_suspect_and_names_the_restore() {
    let into_mill = json!({ "from": { "source": MILL } });
    let failed = ended_restore("undo-1", &into_mill, (Verdict::Failed, Reason::CommandFailed), 10);
    let repeated = ended_restore("undo-2", &into_mill, (Verdict::Succeeded, Reason::Completed), 20);
    for (restores, is_suspect) in [(vec![failed.clone()], true), (vec![failed, repeated], false), (vec![], false)] {
        let mut world = World::new(&[MILL, WELL]);
        world.sources.sources[0].note = "dumped is pod-a".into();
        world.uses = ended(&restores);
        world.step(0);
        let start = world.step(0).start;
        assert_eq!(start.len(), 2, "dumps are still stored");
        for job in start {
            let is_marked = is_suspect && job.source == MILL;
            let TaskKind::Backup { identity, .. } = &job.task else { panic!("{:?}", job.task) };
            assert_eq!(identity.has_tag("suspect"), is_marked, "{}", job.source);
            assert_eq!(job.note.contains("Restore undo-1 into this command failed at"), is_marked, "{}", job.note);
            assert_eq!(job.note.starts_with("dumped is pod-a"), job.source == MILL, "{}", job.note);
        }
    }
}

/// The mount of a claim which holds files.
fn mount(claim: &str) -> ClaimMount {
    ClaimMount {
        claim: claim.into(),
        device: false,
        pod: "pod-a".into(),
        node: None,
        tolerations: vec![],
        user: (70, None),
        groups: vec![],
        se_linux: None,
        snapshot: None,
    }
}

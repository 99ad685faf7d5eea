//! Tests that the repack before a prune blocks no run, and has to succeed before the prune starts.

use super::*;

#[test]
fn repack_ahead_of_a_prune_waits_only_for_prunes_and_is_tried_again_by_itself() {
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    for (kind, begins) in [("backup", true), ("restore", true), ("check", true), ("repack", true), ("prune", false)] {
        let seen = Seen { active: vec![active(kind, "other")], ..Seen::default() };
        assert_eq!(step(&mut cellar.clone(), &seen, DUE).start.len(), usize::from(begins), "{kind}");
    }
    let closed = Seen { is_closed: true, ..Seen::default() };
    assert_eq!(step(&mut cellar.clone(), &closed, DUE).start, []);

    let started = step(&mut cellar, &Seen::default(), DUE);
    let StartJob { source, task, .. } = &started.start[0];
    assert_eq!(*source, format!("repack/{}", at(120)));
    let TaskKind::Repack { retention, time_zone } = task else { panic!("{task:?}") };
    assert_eq!((retention.keep_last, time_zone.as_str()), (Some(3), "Asia/Tokyo"));
    let seen = ended_with(&cellar, &failure(Reason::StoreUnavailable));
    assert!(step(&mut cellar, &seen, 200).events[0].is_warning);
    let again = step(&mut cellar, &seen, 210);
    assert_eq!((again.start[0].kind, again.start[0].attempt), (RunKind::Repack, 2));
    let (mut unreported, of_a_prune) = (cellar.clone(), ended_with(&cellar, &prune_of(&[])));
    step(&mut unreported, &of_a_prune, 300);
    assert_eq!((prune(&unreported).reason.as_str(), prune(&unreported).repacked_bytes), ("ResultLost", None));
    let seen = ended_with(&cellar, &green(MaintenanceReport::Repack { bytes: 0 }));
    let done = step(&mut cellar, &seen, 300);
    assert_eq!((done.events.len(), done.revoke.len()), (0, 1));
    assert_eq!((prune(&cellar).attempt, prune(&cellar).repacked_bytes), (0, Some(0)));
    assert_eq!(step(&mut cellar, &seen, 300).start[0].kind, RunKind::Prune);
}

#[test]
fn damage_that_a_repack_finds_is_reported_and_nothing_is_pruned() {
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    step(&mut cellar, &Seen::default(), DUE);
    let seen = ended_with(&cellar, &failure(Reason::RepositoryDamaged));
    step(&mut cellar, &seen, 200);
    assert_eq!(prune(&cellar).verdict, Some(Verdict::Failed));
    assert_eq!(
        state_of(&cellar, HEALTHY),
        Some(("False".to_owned(), crate::plan::maintenance::outcome::PRUNE_REFUSED.to_owned()))
    );
    assert_eq!(step(&mut cellar, &seen, 210).start, []);
}

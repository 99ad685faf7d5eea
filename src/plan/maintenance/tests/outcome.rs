//! Tests that the status shows which data was read, and which is damaged.

use super::*;
use crate::api::{KEY_NOT_ESCROWED, SIZE_ANOMALY, set_condition};

/// Starts the check of the next hour, and returns the part which it reads.
fn next_part(cellar: &mut Repository, hour: i64) -> String {
    let seconds = DUE + hour * 3600;
    step(cellar, &Seen::default(), seconds);
    let started = step(cellar, &Seen::default(), seconds);
    let TaskKind::Check { part } = &started.start[0].task else { panic!("{started:?}") };
    part.to_string()
}

fn end(cellar: &mut Repository, hour: i64, report: &RunReport) -> Actions {
    let seen = ended_with(cellar, report);
    step(cellar, &seen, DUE + hour * 3600 + 60)
}

#[test]
fn all_data_is_read_part_after_part_in_the_time_that_is_set() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    for (hour, part) in (0..).zip(["1/3", "2/3", "3/3", "1/3", "2/3"]) {
        assert_eq!(next_part(&mut cellar, hour), part);
        end(&mut cellar, hour, &check_of(part, 0));
        assert_eq!(check(&cellar).read_part.unwrap().to_string(), part);
        let all = (hour >= 2).then(|| Time(at(DUE + 2 * 3600 + 60)));
        assert_eq!(check(&cellar).all_read_time, all, "{hour}");
        assert_eq!(state_of(&cellar, HEALTHY), Some(("True".into(), "Completed".into())));
    }
    // A check which did not finish has read nothing.
    assert_eq!(next_part(&mut cellar, 5), "3/3");
    end(&mut cellar, 5, &failure(Reason::Timeout));
    assert_eq!(next_part(&mut cellar, 6), "3/3");
    assert_eq!(state_of(&cellar, HEALTHY), Some(("True".into(), "Completed".into())), "nothing new is known");
    end(&mut cellar, 6, &check_of("3/3", 0));
    cellar.spec.check.as_mut().unwrap().read_all_within = Some("7d".parse().unwrap());
    assert_eq!(next_part(&mut cellar, 7), "1/168");

    let mut by_default = super::cellar(&json!({ "check": { "schedule": "@daily" } }));
    step(&mut by_default, &Seen::default(), 0);
    assert_eq!(next_part(&mut by_default, 24), "1/90");
}

#[test]
fn soundness_is_unknown_when_the_last_check_is_older_than_two_intervals() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    next_part(&mut cellar, 0);
    end(&mut cellar, 0, &check_of("1/3", 0));
    // No check succeeds from then on.
    step(&mut cellar, &Seen::default(), DUE + 2 * 3600 + 60);
    assert_eq!(state_of(&cellar, HEALTHY), Some(("True".into(), "Completed".into())));
    step(&mut cellar, &Seen::default(), DUE + 2 * 3600 + 61);
    assert_eq!(state_of(&cellar, HEALTHY), Some(("Unknown".into(), "CheckOverdue".into())));
    let status = cellar.status.as_mut().unwrap();
    set_condition(&mut status.conditions, HEALTHY, false, ("DamageFound", "x"), None, at(0));
    step(&mut cellar, &Seen::default(), DUE + 9 * 3600);
    assert_eq!(state_of(&cellar, HEALTHY), Some(("False".into(), "DamageFound".into())), "damage does not age");
}

#[test]
fn damage_is_reported_until_the_same_part_is_whole() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    next_part(&mut cellar, 0);
    end(&mut cellar, 0, &check_of("1/3", 0));
    next_part(&mut cellar, 1);
    let found = end(&mut cellar, 1, &check_of("2/3", 7));
    assert!(found.events[0].is_warning && found.events[0].reason == "RepositoryDamaged", "{found:?}");
    assert_eq!(run(&cellar).verdict, Some(Verdict::Failed));
    for hour in [2, 3] {
        assert_eq!(state_of(&cellar, HEALTHY), Some(("False".into(), "DamageFound".into())));
        let message = condition(&cellar.status.as_ref().unwrap().conditions, HEALTHY).unwrap().message.clone();
        assert!(message.contains("7 findings; 7 snapshots") && message.contains("pvc/barrels"), "{message}");
        // Even if the number of parts has changed.
        cellar.spec.check.as_mut().unwrap().read_all_within = Some(format!("{hour}d").parse().unwrap());
        assert_eq!(next_part(&mut cellar, hour), "2/3");
        end(&mut cellar, hour, &if hour == 2 { failure(Reason::Timeout) } else { check_of("2/3", 0) });
    }
    assert_eq!(state_of(&cellar, HEALTHY), Some(("True".into(), "Completed".into())));
    assert_eq!(check(&cellar).damaged_part, None);
}

#[test]
fn check_that_does_not_find_the_repository_makes_it_due_at_once() {
    for (reason, is_due) in [(Reason::RepositoryNotFound, true), (Reason::Timeout, false)] {
        let mut cellar = checked();
        let status = cellar.status.as_mut().unwrap();
        let later = Time(at(9 * 3600));
        (status.repository_id, status.next_attempt_time) = (Some("ab".repeat(32)), Some(later.clone()));
        step(&mut cellar, &Seen::default(), 0);
        next_part(&mut cellar, 0);
        end(&mut cellar, 0, &failure(reason));
        assert_eq!(run(&cellar).message.contains("accept-repository=new"), is_due, "{}", run(&cellar).message);
        let due = cellar.status.as_ref().unwrap().next_attempt_time.clone().unwrap();
        assert_eq!(due.0 < later.0, is_due, "{reason}");
    }
}

/// A report on damage in one pack.
fn damaged(part: &str, pack: &str) -> RunReport {
    let mut report = check_of(part, 1);
    if let Some(MaintenanceReport::Check { damaged_packs, .. }) = &mut report.maintenance {
        *damaged_packs = Some(DamagedPacks { ids: vec![pack.to_owned()], more_in: None });
    }
    report
}

#[test]
fn damaged_packs_are_listed_until_a_check_has_read_them_and_found_them_intact() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    // A pack of part 1, in which a tree is damaged, is found by each check that reads all trees.
    let (first, second) = ("0012345678abcdef", "0112345678abcdef");
    let listed = |cellar: &Repository| check(cellar).damage().ids;
    next_part(&mut cellar, 0);
    end(&mut cellar, 0, &damaged("2/3", first));
    assert_eq!(listed(&cellar), [first]);
    next_part(&mut cellar, 1);
    end(&mut cellar, 1, &damaged("2/3", second));
    assert_eq!(listed(&cellar), [second, first], "the second check has not read the first pack");
    next_part(&mut cellar, 2);
    end(&mut cellar, 2, &failure(Reason::Timeout));
    assert_eq!(listed(&cellar), [second, first], "nothing was read");
    for (hour, part, left) in [(3, "2/3", &[first][..]), (4, "3/3", &[first]), (5, "1/3", &[])] {
        assert_eq!(next_part(&mut cellar, hour), part);
        end(&mut cellar, hour, &check_of(part, 0));
        assert_eq!(listed(&cellar), left, "{part}");
    }
    assert_eq!(check(&cellar).damaged_packs, None);
}

#[test]
fn check_with_findings_clears_nothing_not_even_in_the_part_that_it_has_read() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    // Both packs belong to the part. The second check may have ended at the second pack before it read the first.
    let (first, second) = ("0112345678abcdef", "0412345678abcdef");
    let listed = |cellar: &Repository| check(cellar).damage().ids;
    next_part(&mut cellar, 0);
    end(&mut cellar, 0, &damaged("2/3", first));
    next_part(&mut cellar, 1);
    end(&mut cellar, 1, &damaged("2/3", second));
    assert_eq!(listed(&cellar), [second, first]);
    assert_eq!(next_part(&mut cellar, 2), "2/3");
    end(&mut cellar, 2, &check_of("2/3", 0));
    assert!(check(&cellar).damage().is_empty());
}

#[test]
fn part_with_more_damaged_packs_than_are_listed_is_checked_next_and_then_cleared() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    next_part(&mut cellar, 0);
    let mut found = check_of("1/3", 1);
    if let Some(MaintenanceReport::Check { damaged_packs, .. }) = &mut found.maintenance {
        *damaged_packs = Some(DamagedPacks::anywhere_in(DataPart::ALL));
    }
    end(&mut cellar, 0, &found);
    assert_eq!(next_part(&mut cellar, 1), DataPart::ALL.to_string(), "the packs may be in any part");
    end(&mut cellar, 1, &check_of(&DataPart::ALL.to_string(), 0));
    assert!(check(&cellar).damage().is_empty());
    assert_eq!(next_part(&mut cellar, 2), "1/3");
}

#[test]
fn part_with_more_damage_than_is_listed_is_read_before_any_other_part() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    next_part(&mut cellar, 0);
    // Every backup reads this part until a check has found it intact.
    let mut found = damaged("1/3", "0012345678abcdef");
    if let Some(MaintenanceReport::Check { damaged_packs: Some(packs), .. }) = &mut found.maintenance {
        packs.more_in = "2/3".parse().ok();
    }
    end(&mut cellar, 0, &found);
    assert_eq!(check(&cellar).damaged_part, "1/3".parse().ok());
    for (hour, report) in [(1, failure(Reason::Timeout)), (2, check_of("2/3", 0))] {
        assert_eq!(next_part(&mut cellar, hour), "2/3");
        end(&mut cellar, hour, &report);
    }
    assert_eq!(check(&cellar).damage().more_in, None);
    assert_eq!(state_of(&cellar, HEALTHY), Some(("False".into(), "DamageFound".into())), "the damage is in 1/3");
    for (hour, part) in [(3, "1/3"), (4, "2/3")] {
        assert_eq!(next_part(&mut cellar, hour), part);
        end(&mut cellar, hour, &check_of(part, 0));
        assert_eq!(state_of(&cellar, HEALTHY), Some(("True".into(), "Completed".into())));
    }
    assert!(check(&cellar).damage().is_empty());
}

#[test]
fn damage_without_a_list_counts_for_the_whole_part() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    next_part(&mut cellar, 0);
    end(&mut cellar, 0, &check_of("1/3", 1));
    assert!(check(&cellar).damage().is_empty(), "files are missing, and no pack is damaged");
    // The status of an earlier version.
    cellar.status.as_mut().unwrap().check.as_mut().unwrap().damaged_packs = None;
    assert_eq!(check(&cellar).damage(), DamagedPacks::anywhere_in("1/3".parse().unwrap()));
    next_part(&mut cellar, 1);
    end(&mut cellar, 1, &check_of("1/3", 0));
    assert!(check(&cellar).damage().is_empty());
}

#[test]
fn damage_that_a_prune_finds_is_reported_until_a_prune_or_check_finds_none() {
    let mut cellar = pruned();
    for (hour, report, expected) in [
        (0, failure(Reason::RepositoryDamaged), Some(("False".to_owned(), "PruneRefused".to_owned()))),
        (1, failure(Reason::Timeout), Some(("False".to_owned(), "PruneRefused".to_owned()))),
        (2, prune_of(&[]), None),
    ] {
        begin(&mut cellar, DUE + hour * 3600);
        end(&mut cellar, hour, &report);
        assert_eq!(state_of(&cellar, HEALTHY), expected, "{hour}");
    }
    // A prune does not clear the damage which a check has found.
    let status = cellar.status.as_mut().unwrap();
    set_condition(&mut status.conditions, HEALTHY, false, ("DamageFound", "x"), None, at(0));
    begin(&mut cellar, DUE + 3 * 3600);
    end(&mut cellar, 3, &prune_of(&[]));
    assert_eq!(state_of(&cellar, HEALTHY), Some(("False".into(), "DamageFound".into())));
}

#[test]
fn sources_that_shrank_are_reported_once_and_the_condition_stays_while_they_are_small() {
    let mut cellar = pruned();
    for (hour, shrunk, reported, is_there) in [
        (0, &["pvc/a has 1 byte"][..], true, true),
        (1, &["pvc/a has 1 byte"], false, true),
        (2, &["pvc/b"], true, true),
        (3, &[], false, false),
    ] {
        begin(&mut cellar, DUE + hour * 3600);
        let ended = end(&mut cellar, hour, &prune_of(shrunk));
        assert_eq!(
            ended.events.iter().any(|event| event.reason == SIZE_ANOMALY && event.is_warning),
            reported,
            "{hour}"
        );
        assert_eq!(state_of(&cellar, SIZE_ANOMALY), is_there.then(|| ("True".into(), "Shrunk".into())));
    }
}

#[test]
fn check_sees_whether_there_is_a_second_key() {
    let mut cellar = checked();
    step(&mut cellar, &Seen::default(), 0);
    for (hour, keys, is_reported) in [(0, 1, true), (1, 2, false)] {
        next_part(&mut cellar, hour);
        end(&mut cellar, hour, &RunReport { keys: Some(keys), ..check_of("1/3", 0) });
        let conditions = &cellar.status.as_ref().unwrap().conditions;
        assert_eq!(condition_is_true(conditions, KEY_NOT_ESCROWED), is_reported, "{keys} keys");
    }
}

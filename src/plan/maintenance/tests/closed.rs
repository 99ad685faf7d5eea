//! Tests that a prune blocks other runs only while it has to, and that a status alone never blocks them.

use std::collections::BTreeSet;

use super::*;

#[test]
fn backups_are_kept_off_while_a_prune_is_due_and_at_no_other_time() {
    let is_closed = |cellar: &Repository, seconds| {
        !closed_repositories(std::slice::from_ref(cellar), &runs_of(cellar), at(seconds)).is_empty()
    };
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    assert!(!is_closed(&cellar, DUE), "due, and others may work beside what is done first");
    step(&mut cellar, &Seen::default(), DUE);
    assert!(run(&cellar).job.is_some() && !is_closed(&cellar, DUE), "it repacks");
    assert!(pruned_repositories(std::slice::from_ref(&cellar), &runs_of(&cellar)).is_empty());
    let seen = ended_with(&cellar, &green(MaintenanceReport::Repack { bytes: 70 }));
    step(&mut cellar, &seen, DUE);
    assert!(is_closed(&cellar, DUE), "due by itself");
    step(&mut cellar, &Seen::default(), DUE);
    assert!(is_closed(&cellar, DUE), "runs");
    let seen = ended_with(&cellar, &failure(Reason::StoreUnavailable));
    step(&mut cellar, &seen, 200);
    assert!(!is_closed(&cellar, 209) && is_closed(&cellar, 210), "between two attempts");
    step(&mut cellar, &seen, 210);
    let seen = ended_with(&cellar, &prune_of(&[]));
    step(&mut cellar, &seen, 300);
    assert!(!is_closed(&cellar, 300));

    let mut cellar = pruned();
    due(&mut cellar, DUE);
    assert!(is_closed(&cellar, DUE));
    cellar.spec.prune = None;
    step(&mut cellar, &Seen::default(), DUE + 1);
    assert!(!is_closed(&cellar, DUE + 1), "the schedule was removed");
}

#[test]
fn prune_that_waits_long_lets_others_work_every_other_hour_and_restores_always() {
    let (mut cellar, hour) = (pruned(), 3600);
    let busy = || ActiveJob {
        namespace: NAMESPACE.into(),
        name: "all-day".into(),
        repository: "cellar".into(),
        kind: "backup".into(),
    };
    due(&mut cellar, DUE);
    for (seconds, is_closed) in [(DUE, true), (hour + 124, true), (hour + 125, false), (2 * hour + 125, true)] {
        step(&mut cellar, &Seen { active: vec![busy()], ..Seen::default() }, seconds);
        assert_eq!(prune(&cellar).state, Some(SourceState::Waiting));
        let all = std::slice::from_ref(&cellar);
        assert_eq!(!closed_repositories(all, &runs_of(&cellar), at(seconds)).is_empty(), is_closed, "{seconds}");
        assert!(pruned_repositories(all, &runs_of(&cellar)).is_empty());
    }
    step(&mut cellar, &Seen::default(), 3 * hour + 200);
    assert_eq!(prune(&cellar).state, Some(SourceState::Running), "it starts although the repository is not closed");
    let all = std::slice::from_ref(&cellar);
    assert!(
        !pruned_repositories(all, &runs_of(&cellar)).is_empty()
            && !closed_repositories(all, &runs_of(&cellar), at(3 * hour + 200)).is_empty()
    );
}

/// The Jobs of the prune in the status of this Repository.
fn runs_of(cellar: &Repository) -> PruneRuns {
    let here = || BTreeSet::from([(NAMESPACE.to_owned(), "cellar".to_owned())]);
    let mut runs = PruneRuns::default();
    let run =
        cellar.status.as_ref().and_then(|status| status.prune.as_ref()).filter(|run| run.repacked_bytes.is_some());
    if let Some(run) = run {
        runs.prepared = here();
        if run.state == Some(SourceState::Running) {
            runs.live = here();
        }
    }
    runs
}

#[test]
fn repositories_of_one_id_at_one_location_are_closed_together() {
    let at_store = |name: &str, namespace: &str, url: &str, id: &str| {
        let mut repository = repository(name, Ok(()));
        repository.metadata.namespace = Some(namespace.into());
        repository.spec = serde_json::from_value(json!({
            "rest": { "url": url }, "passwordSecretRef": { "name": "key" },
        }))
        .unwrap();
        repository.status.as_mut().unwrap().repository_id = Some(id.into());
        repository
    };
    let mut cellar = pruned();
    cellar.spec.volume = None;
    cellar.spec.rest = at_store("cellar", NAMESPACE, "https://shed.example:443/casks/", "a").spec.rest;
    cellar.status.as_mut().unwrap().repository_id = Some("a".into());
    due(&mut cellar, DUE);
    let twin = at_store("twin", "elsewhere", "https://Shed.example/casks", "a");
    let stranger = at_store("stranger", NAMESPACE, "https://shed.example/casks", "b");
    let forged = at_store("forged", NAMESPACE, "https://mallory.example/casks", "a");
    let unknown = repository("unknown", Ok(()));
    let all = vec![cellar.clone(), twin, stranger, forged, unknown];
    let expected = [("elsewhere", "twin"), (NAMESPACE, "cellar")];
    let closed = closed_repositories(&all, &runs_of(&cellar), at(DUE));
    assert_eq!(closed, expected.map(|(space, name)| (space.to_owned(), name.to_owned())).into());
}

#[test]
fn status_that_speaks_of_a_prune_without_a_job_keeps_no_run_off() {
    let mut cellar = pruned();
    due(&mut cellar, DUE);
    for state in [SourceState::Waiting, SourceState::Running] {
        cellar.status.as_mut().unwrap().prune.as_mut().unwrap().state = Some(state);
        let all = std::slice::from_ref(&cellar);
        assert!(closed_repositories(all, &PruneRuns::default(), at(DUE)).is_empty());
        assert!(pruned_repositories(all, &PruneRuns::default()).is_empty());
    }
    let live = PruneRuns { live: [(NAMESPACE.into(), "cellar".into())].into(), ..PruneRuns::default() };
    assert!(!pruned_repositories(std::slice::from_ref(&cellar), &live).is_empty());
}

#[test]
fn attempts_that_a_status_claims_cost_nothing() {
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    cellar.status.as_mut().unwrap().prune.as_mut().unwrap().attempt = i32::MAX.unsigned_abs();
    assert_eq!(step(&mut cellar, &Seen::default(), DUE).start.len(), 1);
}

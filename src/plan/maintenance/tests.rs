//! Tests that a due slot is run once and reported, and that damage is reported until it is repaired.

mod ahead;
mod closed;
mod outcome;
mod retentions;
mod shared;

use serde_json::json;

use super::*;
use crate::{
    api::{HEALTHY, condition},
    model::{DamagedPacks, MaintenanceReport, Reason},
    plan::{
        fixtures::{NAMESPACE, Scene, at, failure, job, refused, repository},
        labels,
        repository::settle_repository,
    },
};

/// The fixtures' clock starts at 08:00:00Z, so this schedule is due two minutes later.
const TWO_PAST: &str = "2 * * * *";
/// Some seconds after the slot.
const DUE: i64 = 125;

fn cellar(spec: &serde_json::Value) -> Repository {
    let mut cellar = repository("cellar", Ok(()));
    let mut whole = serde_json::to_value(&cellar.spec).unwrap();
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cellar.spec = serde_json::from_value(whole).unwrap();
    cellar
}

fn pruned() -> Repository {
    cellar(&json!({ "prune": { "schedule": TWO_PAST }, "retention": { "keepLast": 3 }, "timeZone": "Asia/Tokyo" }))
}

fn checked() -> Repository {
    // The data is read in three parts within three hours.
    cellar(&json!({ "check": { "schedule": TWO_PAST, "readAllWithin": "3h" } }))
}

#[derive(Default)]
struct Seen {
    jobs: Vec<ObservedJob>,
    active: Vec<ActiveJob>,
    is_closed: bool,
    differing_retentions: Vec<String>,
}

/// Plans, and puts the new status into the object.
fn step(repository: &mut Repository, seen: &Seen, seconds: i64) -> Actions {
    let mut actions = Actions::default();
    let mut status = repository.status.clone().unwrap();
    let facts = MaintenanceFacts {
        jobs: &seen.jobs,
        active: &seen.active,
        is_closed: seen.is_closed,
        differing_retentions: &seen.differing_retentions,
    };
    plan_maintenance(repository, facts, &mut status, &mut actions, at(seconds));
    repository.status = Some(status);
    actions
}

/// Advances until the slot is stored.
fn mark(repository: &mut Repository, seconds: i64) {
    step(repository, &Seen::default(), 0);
    let marked = step(repository, &Seen::default(), seconds);
    assert!(marked.start.is_empty() && marked.requeue_after.is_some(), "the slot is stored before its Job is created");
}

/// Advances until the exclusive Job of a prune is due, or a check.
fn due(repository: &mut Repository, seconds: i64) {
    mark(repository, seconds);
    if repository.spec.prune.is_some() {
        let ahead = step(repository, &Seen::default(), seconds).start;
        assert_eq!(ahead.iter().map(|job| job.kind).collect::<Vec<_>>(), [RunKind::Repack]);
        let seen = ended_with(repository, &green(MaintenanceReport::Repack { bytes: 70 }));
        let marked = step(repository, &seen, seconds);
        assert!(marked.start.is_empty() && marked.requeue_after.is_some(), "the result of the repack is stored first");
    }
}

/// Advances until the Job is created.
fn begin(repository: &mut Repository, seconds: i64) -> Actions {
    due(repository, seconds);
    let started = step(repository, &Seen::default(), seconds);
    assert_eq!(started.start.len(), 1, "{started:?}");
    started
}

fn prune(repository: &Repository) -> &MaintenanceStatus {
    repository.status.as_ref().unwrap().prune.as_ref().unwrap()
}

fn check(repository: &Repository) -> &CheckStatus {
    repository.status.as_ref().unwrap().check.as_ref().unwrap()
}

fn run(repository: &Repository) -> &MaintenanceStatus {
    let status = repository.status.as_ref().unwrap();
    status.prune.as_ref().or(status.check.as_ref().map(|check| &check.run)).unwrap()
}

/// The present Job, which ended with this report.
fn ended_with(repository: &Repository, report: &RunReport) -> Seen {
    let name = run(repository).job.clone().unwrap();
    Seen { jobs: vec![job(&name, &Scene::Ended(&report.to_termination_message()))], ..Seen::default() }
}

fn green(maintenance: MaintenanceReport) -> RunReport {
    RunReport {
        verdict: Verdict::Succeeded,
        maintenance: Some(maintenance),
        ..RunReport::failed(Failure::new(Reason::Completed, ""), Duration::from_secs(1))
    }
}

fn prune_of(shrunk: &[&str]) -> RunReport {
    let first_shrunk = shrunk.iter().map(|one| (*one).to_owned()).collect();
    green(MaintenanceReport::Prune {
        forgotten: 2,
        kept: 3,
        freed_bytes: 100,
        shrunk: shrunk.len() as u64,
        first_shrunk,
    })
}

fn check_of(part: &str, findings: u64) -> RunReport {
    let report = green(MaintenanceReport::Check {
        part: part.parse().unwrap(),
        bytes_read: 10,
        snapshots: 4,
        findings,
        harmed_snapshots: findings,
        harmed_sources: vec!["pvc/barrels".into(); usize::from(findings > 0)],
        damaged_packs: Some(DamagedPacks::default()),
    });
    if findings == 0 {
        return report;
    }
    let message = "pack 47 is damaged".to_owned();
    RunReport { verdict: Verdict::Failed, reason: Reason::RepositoryDamaged, message, ..report }
}

fn state_of(repository: &Repository, kind: &str) -> Option<(String, String)> {
    let found = condition(&repository.status.as_ref().unwrap().conditions, kind)?;
    Some((found.status.clone(), found.reason.clone()))
}

fn active(kind: &str, name: &str) -> ActiveJob {
    ActiveJob { namespace: NAMESPACE.into(), name: name.into(), repository: "cellar".into(), kind: kind.into() }
}

#[test]
fn slot_is_done_once_by_a_job_of_its_own() {
    let mut cellar = pruned();
    assert_eq!(step(&mut cellar, &Seen::default(), 0).start, []);
    assert_eq!(prune(&cellar).next_time, Some(Time(at(120))));
    let started = begin(&mut cellar, DUE);
    let StartJob { kind, source, attempt, task, .. } = &started.start[0];
    assert_eq!((*kind, source.as_str(), *attempt), (RunKind::Prune, format!("prune/{}", at(120)).as_str(), 1));
    let TaskKind::Prune { retention, time_zone, repacked_bytes } = task else { panic!("{task:?}") };
    assert_eq!((retention.keep_last, time_zone.as_str(), *repacked_bytes), (Some(3), "Asia/Tokyo", 70));
    // While the Job runs, even for long.
    let running = Seen { jobs: vec![job(run(&cellar).job.as_ref().unwrap(), &Scene::Runs)], ..Seen::default() };
    assert_eq!(step(&mut cellar, &running, 7200).start, []);

    let seen = ended_with(&cellar, &prune_of(&[]));
    let ended = step(&mut cellar, &seen, 200);
    assert_eq!((ended.start.len(), ended.revoke.len(), ended.events[0].is_warning), (0, 1, false));
    assert_eq!(prune(&cellar).verdict, Some(Verdict::Succeeded));
    assert_eq!(prune(&cellar).last_success_time, Some(Time(at(200))));
    assert_eq!(prune(&cellar).next_time, Some(Time(at(120 + 3600))));
    assert_eq!(step(&mut cellar, &seen, 3000).start, [], "nothing is due");
}

#[test]
fn controller_that_was_ended_at_any_point_makes_no_second_job() {
    let mut cellar = pruned();
    let first = begin(&mut cellar, DUE).start;
    // The Job was created, and the status was not stored.
    let mut again = pruned();
    due(&mut again, DUE);
    let own = run(&cellar).job.clone().unwrap();
    let seen = Seen { active: vec![active("prune", &own)], ..Seen::default() };
    assert_eq!(step(&mut again, &seen, 4000).start, first, "the same name, also when another slot is due by then");
}

#[test]
fn missed_slots_are_made_up_for_by_one_run_and_reported() {
    let mut cellar = pruned();
    begin(&mut cellar, 120 + 3 * 3600);
    assert_eq!((prune(&cellar).missed_slots, &prune(&cellar).slot), (3, &Some(Time(at(120 + 3 * 3600)))));
    let seen = ended_with(&cellar, &prune_of(&[]));
    let ended = step(&mut cellar, &seen, 4 * 3600);
    assert!(ended.events[0].note.contains("3 earlier slots were missed"), "{}", ended.events[0].note);
}

#[test]
fn schedule_that_is_new_does_not_make_up_for_the_past() {
    let mut cellar = pruned();
    assert_eq!(step(&mut cellar, &Seen::default(), 100 * 86400).start, []);
    assert_eq!(prune(&cellar).state, None);
    cellar.spec.prune = None;
    step(&mut cellar, &Seen::default(), 101 * 86400);
    cellar.spec.prune = pruned().spec.prune;
    step(&mut cellar, &Seen::default(), 200 * 86400);
    assert_eq!(prune(&cellar).state, None);
    // The status does not change while nothing happens, so that no write causes another reconcile.
    let before = cellar.status.clone();
    step(&mut cellar, &Seen::default(), 200 * 86400 + 1);
    assert_eq!(cellar.status, before);
    cellar.spec.prune = None;
    step(&mut cellar, &Seen::default(), 200 * 86400 + 2);
    let before = cellar.status.clone();
    step(&mut cellar, &Seen::default(), 200 * 86400 + 3);
    assert_eq!(cellar.status, before);
}

#[test]
fn prune_waits_for_all_others_and_a_check_only_for_prunes() {
    for (mut cellar, kinds) in [
        (pruned(), [("backup", false), ("restore", false), ("check", false), ("prune", false), ("answer", false)]),
        (checked(), [("backup", true), ("restore", true), ("check", true), ("prune", false), ("answer", true)]),
    ] {
        due(&mut cellar, DUE);
        for (kind, begins) in kinds {
            let seen = Seen { active: vec![active(kind, "other")], ..Seen::default() };
            let mut here = cellar.clone();
            assert_eq!(step(&mut here, &seen, DUE).start.len(), usize::from(begins), "{kind}");
            assert!(
                begins || run(&here).reason == QUEUED && !run(&here).message.is_empty(),
                "{kind}: {:?}",
                run(&here)
            );
        }
    }
}

#[test]
fn check_lets_a_prune_go_first_by_whatever_name() {
    let mut cellar = cellar(&json!({ "check": { "schedule": TWO_PAST }, "prune": { "schedule": TWO_PAST } }));
    due(&mut cellar, DUE);
    let started = step(&mut cellar, &Seen::default(), DUE).start;
    assert_eq!(started.iter().map(|job| job.kind).collect::<Vec<_>>(), [RunKind::Prune]);
    let seen = ended_with(&cellar, &prune_of(&[]));
    assert_eq!(step(&mut cellar, &seen, 300).start[0].kind, RunKind::Check);

    let mut elsewhere = checked();
    step(&mut elsewhere, &Seen::default(), 0);
    step(&mut elsewhere, &Seen::default(), DUE);
    let closed = Seen { is_closed: true, ..Seen::default() };
    assert_eq!(step(&mut elsewhere, &closed, DUE).start, []);
}

#[test]
fn nothing_begins_in_a_repository_that_is_not_ready() {
    let mut cellar = pruned();
    let status = repository("cellar", Err(("SecretMissing", ""))).status;
    cellar.status = status;
    mark(&mut cellar, DUE);
    assert_eq!(step(&mut cellar, &Seen::default(), DUE).start, []);
    assert!(prune(&cellar).message.contains("Ready"));
    assert!(
        closed_repositories(std::slice::from_ref(&cellar), &PruneRuns::default(), at(DUE)).is_empty(),
        "it blocks no run"
    );
}

#[test]
fn prune_rests_as_long_as_it_took_so_that_backups_come_to_their_turn() {
    let mut cellar = cellar(&json!({ "prune": { "schedule": "* * * * *" } }));
    begin(&mut cellar, 65);
    let seen = ended_with(&cellar, &prune_of(&[]));
    step(&mut cellar, &seen, 65 + 600);
    for seconds in [666, 1200, 65 + 1199] {
        assert_eq!(step(&mut cellar, &seen, seconds).start, []);
        assert_eq!(prune(&cellar).state, Some(SourceState::Done), "{seconds}");
        assert_eq!(prune(&cellar).next_time, Some(Time(at(65 + 1200))));
    }
    step(&mut cellar, &seen, 65 + 1200);
    assert_eq!(prune(&cellar).state, Some(SourceState::Waiting));
}

#[test]
fn failed_run_is_repeated_a_few_times_and_each_failure_is_reported() {
    let mut cellar = pruned();
    begin(&mut cellar, DUE);
    let mut now = 200;
    for attempt in 1..=ATTEMPTS {
        assert_eq!(prune(&cellar).attempt, attempt);
        let seen = ended_with(&cellar, &failure(Reason::StoreUnavailable));
        let failed = step(&mut cellar, &seen, now);
        assert!(failed.events[0].is_warning && failed.events[0].reason == "StoreUnavailable", "{failed:?}");
        assert_eq!(failed.revoke.len(), 1);
        if attempt < ATTEMPTS {
            assert_eq!((prune(&cellar).state, prune(&cellar).verdict), (Some(SourceState::Waiting), None));
            now += 300;
            assert_eq!(step(&mut cellar, &seen, now).start[0].attempt, attempt + 1);
        }
    }
    assert_eq!((prune(&cellar).state, prune(&cellar).verdict), (Some(SourceState::Done), Some(Verdict::Failed)));
    assert_eq!(prune(&cellar).last_success_time, None);

    let mut damaged = pruned();
    begin(&mut damaged, DUE);
    let seen = ended_with(&damaged, &failure(Reason::RepositoryDamaged));
    step(&mut damaged, &seen, 200);
    assert_eq!(prune(&damaged).verdict, Some(Verdict::Failed), "a repetition would find the same damage");
}

#[test]
fn job_that_is_stuck_deleted_or_refused_is_a_failed_attempt() {
    let mut cellar = pruned();
    begin(&mut cellar, DUE);
    let name = run(&cellar).job.clone().unwrap();
    let stuck = Seen { jobs: vec![job(&name, &Scene::Waits("ErrImagePull"))], ..Seen::default() };
    let cut = step(&mut cellar.clone(), &stuck, 301);
    assert_eq!((cut.end.len(), cut.events[0].reason.as_str()), (1, "PodNotStarted"));
    let gone = step(&mut cellar.clone(), &Seen::default(), 301);
    assert_eq!(gone.events[0].reason, "ResultLost");
    let suspended = Seen { jobs: vec![job(&name, &Scene::Suspended)], ..Seen::default() };
    let mut unstarted = cellar.clone();
    assert_eq!(step(&mut unstarted, &suspended, 301).start, [], "the other runs of the repository are observed first");
    assert_eq!(step(&mut unstarted, &suspended, 303).start.len(), 1);
    assert_eq!(run(&unstarted).job.as_ref(), Some(&name));

    let mut status = cellar.status.clone().unwrap();
    let mut actions = Actions::default();
    let source = source_of(Operation::Prune, run(&cellar));
    let applied = refused(RunKind::Repack, &source, Reason::PodNotStarted, "exceeded quota");
    settle_repository(&cellar, &mut status, &mut actions, &applied, at(DUE));
    let refused = status.prune.unwrap();
    assert_eq!((refused.state, refused.reason.as_str()), (Some(SourceState::Waiting), "PodNotStarted"));
    assert!(actions.events[0].note.contains("exceeded quota") && actions.events[0].is_warning);
}

#[test]
fn green_report_without_details_is_not_green() {
    let unreported = RunReport { maintenance: None, ..prune_of(&[]) };
    let contradicted = RunReport {
        verdict: Verdict::Succeeded,
        reason: Reason::Completed,
        message: String::new(),
        ..check_of("1/3", 1)
    };
    let is_lost = |mut cellar: Repository, report: RunReport| {
        begin(&mut cellar, DUE);
        let seen = ended_with(&cellar, &report);
        step(&mut cellar, &seen, 200);
        assert_eq!((run(&cellar).reason.as_str(), &run(&cellar).last_success_time), ("ResultLost", &None));
        assert_eq!(state_of(&cellar, HEALTHY), None);
    };
    is_lost(pruned(), unreported);
    is_lost(pruned(), check_of("1/3", 0));
    is_lost(checked(), prune_of(&[]));
    is_lost(checked(), contradicted);
}

#[test]
fn only_jobs_of_the_present_slot_stay() {
    let mut cellar = pruned();
    let labelled = |name: &str, kind: &str| {
        let mut old = job(name, &Scene::CompleteAlone);
        old.job.metadata.labels = Some([(labels::KIND.to_owned(), kind.to_owned())].into());
        old
    };
    let mut seen =
        Seen { jobs: vec![labelled("old-prune", "prune"), labelled("old-check", "check")], ..Seen::default() };
    due(&mut cellar, DUE);
    assert_eq!(step(&mut cellar, &seen, DUE).delete, ["old-prune"]);
    let first = run(&cellar).job.clone().unwrap();
    let mut failed = job(&first, &Scene::Ended(&failure(Reason::StoreUnavailable).to_termination_message()));
    failed.job.metadata.labels = Some([(labels::KIND.to_owned(), "prune".to_owned())].into());
    seen.jobs.push(failed);
    step(&mut cellar, &seen, 200);
    assert_eq!(step(&mut cellar, &seen, 210).delete, ["old-prune"], "the first attempt's log is kept");
}

#[test]
fn invalid_schedule_is_reported_once_and_blocks_no_run() {
    let mut cellar = pruned();
    mark(&mut cellar, DUE);
    cellar.spec.time_zone = Some("Europe/Atlantis".into());
    let reported = step(&mut cellar, &Seen::default(), DUE);
    assert!(reported.events[0].is_warning && reported.events[0].note.contains("Atlantis"), "{reported:?}");
    assert_eq!((prune(&cellar).state, prune(&cellar).reason.as_str()), (None, "InvalidSchedule"));
    assert_eq!(step(&mut cellar, &Seen::default(), DUE).events, []);
}

#[test]
fn other_runs_are_observed_only_if_something_is_due() {
    let mut cellar = pruned();
    assert!(!needs_facts(&cellar, at(DUE)), "the schedule is new");
    step(&mut cellar, &Seen::default(), 0);
    assert!(!needs_facts(&cellar, at(100)) && needs_facts(&cellar, at(DUE)));
    step(&mut cellar, &Seen::default(), DUE);
    assert!(needs_facts(&cellar, at(DUE)));
    step(&mut cellar, &Seen::default(), DUE);
    assert!(!needs_facts(&cellar, at(DUE)), "it runs");
}

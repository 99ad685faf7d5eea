//! Tests that missing sources are in the status, and that a Backup with an expected source missing is not green.

use super::*;
use crate::{
    api::{COVERED, FAILED, MissingReason, MissingSource, SkipReason, SkippedClaim},
    plan::backup::{newer_of, sources_of},
};

fn missing(name: &str, reason: MissingReason) -> MissingSource {
    MissingSource { name: name.parse().unwrap(), reason, message: "scale it up".into() }
}

fn ended_with(missing: &[MissingSource]) -> World {
    let mut world = World::new(&[MILL]);
    world.sources.missing = missing.to_vec();
    world.sources.is_complete = true;
    let events = world.step(0).events;
    let warned = events.iter().filter(|event| event.reason == "SourcesMissing" && event.is_warning).count();
    assert_eq!(warned, usize::from(!missing.is_empty()));
    world.step(0);
    world.end(MILL, &success());
    world.step(1);
    world
}

fn state(world: &World, kind: &str) -> Option<String> {
    condition(&world.status().conditions, kind).map(|condition| condition.status.clone())
}

#[test]
fn backup_that_lacks_a_source_is_incomplete_and_names_the_next_step() {
    for reason in [
        MissingReason::NoPod,
        MissingReason::NotSelected,
        MissingReason::NotBound,
        MissingReason::Terminating,
        MissingReason::HoldsRepository,
        MissingReason::Unknown,
    ] {
        let world = ended_with(&[missing(WELL, reason)]);
        assert_eq!(world.status().verdict, Some(Verdict::Incomplete), "{reason:?}");
        let complete = condition(&world.status().conditions, COMPLETE).unwrap();
        assert_eq!((complete.status.as_str(), complete.reason.as_str()), ("False", "SourcesMissing"));
        assert!(complete.message.contains(WELL) && complete.message.contains("scale it up"), "{}", complete.message);
        assert_eq!(state(&world, COVERED).as_deref(), Some("False"));
        assert_eq!(state(&world, FAILED).as_deref(), Some("True"));
        assert_eq!(world.status().missing.len(), 1);
    }
}

#[test]
fn deleted_sources_are_reported_and_the_backup_stays_green() {
    let world = ended_with(&[missing(WELL, MissingReason::Gone), missing(YARD, MissingReason::NotRequested)]);
    assert_eq!(world.status().verdict, Some(Verdict::Succeeded));
    assert_eq!((state(&world, COVERED).as_deref(), state(&world, FAILED)), (Some("False"), None));
    assert_eq!(world.status().missing.len(), 2);
    assert_eq!(state(&ended_with(&[]), COVERED).as_deref(), Some("True"));
}

#[test]
fn workloads_that_cannot_be_listed_leave_the_coverage_unknown() {
    let mut world = World::new(&[MILL]);
    world.step(0);
    assert_eq!(state(&world, COVERED).as_deref(), Some("Unknown"));
}

#[test]
fn lists_are_never_cut_without_the_number_that_is_left_out() {
    let mut world = World::new(&[MILL]);
    let claim = |index: usize| SkippedClaim {
        name: format!("claim-{index:03}"),
        reason: SkipReason::OptedOut,
        message: "x".repeat(1000),
    };
    world.sources.skipped = (0..300).map(claim).collect();
    world.sources.missing =
        (0..299).map(|index| missing(&format!("deployment/a-{index:03}/x"), MissingReason::Gone)).collect();
    world.sources.missing.push(missing(WELL, MissingReason::NoPod));
    world.step(0);
    let status = world.status();
    assert_eq!((status.skipped.len(), status.skipped_not_listed), (256, 44));
    assert_eq!((status.missing.len(), status.missing_not_listed), (256, 44));
    assert_eq!(status.missing[0].name.as_str(), WELL, "sources which affect the verdict are never cut");
    assert!(serde_json::to_vec(status).unwrap().len() < 400_000);
}

#[test]
fn undecided_plan_is_not_frozen_until_the_wait_is_over() {
    let mut world = World::new(&[MILL]);
    world.backup.metadata.creation_timestamp = Some(Time(at(0)));
    world.sources.undecided = Some("waits until Repository new is opened".into());
    assert!(world.step(0).start.is_empty() && world.status().start_time.is_none());
    let complete = condition(&world.status().conditions, COMPLETE).unwrap();
    assert!(complete.message.contains("Repository new"), "{}", complete.message);
    world.step(299);
    assert!(world.status().start_time.is_none());
    world.step(300);
    assert_eq!(world.status().sources.len(), 1);
}

const IMPORT: &str = "job/import/main";

#[test]
fn source_of_a_job_that_ended_before_its_turn_is_left_out_and_not_waited_for() {
    let mut world = World::new(&[IMPORT, MILL]);
    world.step(0);
    world.sources.sources.retain(|source| source.name.as_str() != IMPORT);
    world.step(1);
    let names: Vec<&str> = world.status().sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, [MILL]);
    let skipped: Vec<_> = world.status().skipped.iter().map(|one| (one.name.as_str(), one.reason)).collect();
    assert_eq!(skipped, [("job/import", SkipReason::RunsToCompletion)]);
    world.end(MILL, &success());
    world.step(2);
    assert_eq!(world.status().verdict, Some(Verdict::Succeeded));
}

#[test]
fn source_of_a_job_that_ended_under_its_dump_has_failed() {
    let mut world = running(&[IMPORT, MILL]);
    world.end(IMPORT, &failure(Reason::PodGone));
    world.sources.sources.retain(|source| source.name.as_str() != IMPORT);
    world.step(1);
    world.step(100);
    assert_eq!(world.source(IMPORT).outcome.verdict, Some(Verdict::Failed));
}

#[test]
fn run_of_which_every_pod_has_ended_is_no_success() {
    let mut world = World::new(&[IMPORT]);
    world.step(0);
    world.sources.sources.clear();
    world.step(1);
    assert_eq!(world.status().verdict, Some(Verdict::Failed));
}

#[test]
fn backup_is_compared_with_the_last_one_of_its_kind() {
    let ended = |name: &str, seconds: i64, spec: &serde_json::Value| {
        let mut backup = ended_with(&[missing(WELL, MissingReason::NoPod), missing(YARD, MissingReason::Gone)]).backup;
        backup.spec = crate::plan::fixtures::backup(spec).spec;
        backup.metadata.name = Some(name.into());
        backup.metadata.uid = Some(format!("uid-of-{name}"));
        backup.status.as_mut().unwrap().completion_time = Some(Time(at(seconds)));
        backup
    };
    let all = json!({});
    let mut running = ended("running", 50, &all);
    running.status.as_mut().unwrap().verdict = None;
    let mut refused = ended("refused", 60, &all);
    refused.status.as_mut().unwrap().sources.clear();
    refused.status.as_mut().unwrap().missing.clear();
    let others = [
        ended("old", 10, &all),
        ended("last", 20, &all),
        ended("older", 15, &all),
        ended("selected", 30, &json!({ "selector": { "matchLabels": { "app": "mill" } } })),
        ended("elsewhere", 40, &json!({ "repositoryRef": { "kind": "Repository", "name": "x" } })),
        running,
        refused,
        World::new(&[MILL]).backup,
    ];
    let new = crate::plan::fixtures::backup(&all);
    let last = others.into_iter().fold(None, |best, other| newer_of(&new, best, other)).unwrap();
    assert_eq!(last.name_any(), "last");
    let names: Vec<String> = sources_of(&last).iter().map(|source| source.name.to_string()).collect();
    assert_eq!(names, [MILL, WELL], "a lost source is expected again, and a deleted one is not");
}

#[test]
fn source_that_may_have_been_deleted_is_expected_until_the_user_has_confirmed_that() {
    let lost = [missing(WELL, MissingReason::Unknown), missing(YARD, MissingReason::NoPod)];
    let mut backup = ended_with(&lost).backup;
    let names =
        |backup: &Backup| -> Vec<String> { sources_of(backup).iter().map(|source| source.name.to_string()).collect() };
    assert_eq!(names(&backup).len(), 3);
    backup.annotations_mut().insert("stowaway.dev/allow-missing".into(), "true".into());
    let left = names(&backup);
    assert!(!left.contains(&WELL.to_owned()) && left.contains(&YARD.to_owned()), "{left:?}");
}

#[test]
fn status_records_which_sources_may_be_missing_later() {
    let mut world = World::new(&[MILL, WELL]);
    for source in &mut world.sources.sources {
        source.allow_missing = source.name.as_str() == WELL;
    }
    world.step(0);
    let expected = |name: &str| {
        let found = sources_of(&world.backup).into_iter().find(|source| source.name.as_str() == name);
        found.map(|source| source.may_be_missing)
    };
    assert_eq!((expected(MILL), expected(WELL)), (Some(false), Some(true)));
}

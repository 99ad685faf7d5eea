//! Tests of a Backup from its first reconcile to its verdict.

mod exclusion;
mod missing;
mod mistakes;
mod progress;
mod stage;
mod unstarted;

use serde_json::json;

use super::*;
use crate::{
    annotations::{Problem, Problems},
    api::{COMPLETE, RECONCILING, STALLED, condition, condition_is_true},
    plan::{
        fixtures::{
            NAMESPACE, Scene, at, backup, failure, job, job_name, plan_of, planned, refused, repository, restoring,
            success,
        },
        sources::PlanProblem,
    },
};

/// A cluster with one Backup.
struct World {
    backup: Backup,
    repositories: Vec<Repository>,
    sources: SourcePlan,
    jobs: Vec<ObservedJob>,
    active: Vec<(String, String)>,
    closed: BTreeSet<(String, String)>,
    uses: ClaimUses,
}

const MILL: &str = "deployment/mill/press";
const WELL: &str = "deployment/well/press";
const YARD: &str = "deployment/yard/press";

impl World {
    fn new(names: &[&str]) -> Self {
        let sources: Vec<_> = names.iter().map(|name| planned(name, Some("pod-a"))).collect();
        Self {
            backup: backup(&json!({})),
            repositories: vec![repository("cellar", Ok(()))],
            sources: plan_of(&sources),
            jobs: vec![],
            active: vec![],
            closed: BTreeSet::new(),
            uses: ClaimUses::default(),
        }
    }

    /// Plans, and puts the new status into the object.
    fn step(&mut self, seconds: i64) -> Actions {
        let facts = BackupFacts {
            repositories: &self.repositories,
            jobs: &self.jobs,
            staged: Staged::default(),
            sources: &self.sources,
            active: &self.active,
            closed: &self.closed,
            uses: &self.uses,
        };
        let (status, actions) = plan_backup(&self.backup, facts, at(seconds));
        assert!(status.verdict.is_some() || actions.requeue_after.is_some(), "a Backup without a verdict is requeued");
        self.backup.status = Some(status);
        actions
    }

    /// Sets the state of the newest Job of a source.
    fn set(&mut self, source: &str, scene: &Scene<'_>) {
        let name = self.source(source).jobs.last().unwrap().clone();
        self.jobs.retain(|observed| observed.job.name_any() != name);
        self.jobs.push(job(&name, scene));
    }

    fn end(&mut self, source: &str, report: &RunReport) {
        self.set(source, &Scene::Ended(&report.to_termination_message()));
    }

    fn status(&self) -> &BackupStatus {
        self.backup.status.as_ref().unwrap()
    }

    fn source(&self, name: &str) -> &SourceStatus {
        self.status().sources.iter().find(|source| source.name.as_str() == name).unwrap()
    }
}

/// A world whose sources all run.
fn running(names: &[&str]) -> World {
    let mut world = World::new(names);
    world.step(0);
    assert_eq!(world.step(0).start.len(), names.len());
    for name in names {
        world.set(name, &Scene::Runs);
    }
    world
}

#[test]
fn sources_are_frozen_before_the_first_job() {
    let mut world = World::new(&[MILL]);
    assert!(world.step(0).start.is_empty());
    assert_eq!(world.status().sources.len(), 1);
    world.sources = plan_of(&[planned(MILL, Some("pod-a")), planned(WELL, Some("pod-b"))]);
    let start = world.step(0).start;
    assert_eq!((start.len(), world.status().sources.len()), (1, 1), "a later source is not part of this Backup");
    assert_eq!(world.source(MILL).jobs, [job_name(&world.backup, MILL, 1)]);
}

#[test]
fn one_failing_source_of_three_fails_alone_and_only_it_is_tried_again() {
    let mut world = running(&[MILL, WELL, YARD]);
    world.end(MILL, &success());
    world.end(YARD, &success());
    world.end(WELL, &failure(Reason::CommandFailed));
    let actions = world.step(1);
    assert_eq!(actions.revoke.len(), 3, "rights end with the Job");
    assert_eq!(world.source(WELL).state, SourceState::Waiting);
    assert_eq!(world.source(WELL).outcome.reason, "CommandFailed");
    assert!(world.step(10).start.is_empty(), "before the pause is over");
    let start = world.step(11).start;
    assert_eq!((start.len(), start[0].source.as_str(), start[0].attempt), (1, WELL, 2));
    for (attempt, due) in [(2, 71), (3, 0)] {
        assert_eq!(world.source(WELL).attempt, attempt);
        world.end(WELL, &failure(Reason::CommandFailed));
        world.step(11);
        world.step(due);
    }
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
    assert_eq!(world.status().progress.as_deref(), Some("2/3"));
    assert_eq!(world.status().bytes, 2 * 4711);
    let complete = condition(&world.status().conditions, COMPLETE).unwrap();
    assert_eq!((complete.status.as_str(), complete.reason.as_str()), ("False", "CommandFailed"));
    assert!(complete.message.contains(WELL) && complete.message.contains("the press broke"), "{}", complete.message);
    assert!(condition_is_true(&world.status().conditions, STALLED));
    assert!(condition(&world.status().conditions, RECONCILING).is_none());
}

#[test]
fn failure_that_does_not_pass_by_waiting_is_not_repeated() {
    for reason in [Reason::EmptyStream, Reason::WrongPassword, Reason::CommandNotFound, Reason::Timeout] {
        let mut world = running(&[MILL]);
        world.end(MILL, &failure(reason));
        world.step(1);
        assert_eq!(world.status().verdict, Some(Verdict::Failed), "{reason}");
        assert_eq!(world.source(MILL).attempt, 1);
    }
}

#[test]
fn verdict_of_the_whole_is_never_better_than_its_parts() {
    let unproven = RunReport { verdict: Verdict::Unproven, reason: Reason::NotProven, ..success() };
    let suspect = RunReport { verdict: Verdict::Suspect, reason: Reason::VolumeEmptied, ..success() };
    let failed = failure(Reason::EmptyStream);
    let table = [
        (vec![success(), success()], Verdict::Succeeded),
        (vec![success(), unproven.clone()], Verdict::Unproven),
        (vec![unproven.clone(), unproven.clone()], Verdict::Unproven),
        (vec![success(), failed.clone()], Verdict::Incomplete),
        (vec![unproven.clone(), failed.clone()], Verdict::Incomplete),
        (vec![success(), suspect.clone()], Verdict::Suspect),
        (vec![unproven, suspect.clone()], Verdict::Suspect),
        (vec![suspect, failed.clone()], Verdict::Incomplete),
        (vec![failed.clone(), failed], Verdict::Failed),
    ];
    for (reports, verdict) in table {
        let mut world = running(&[MILL, WELL]);
        world.end(MILL, &reports[0]);
        world.end(WELL, &reports[1]);
        world.step(1);
        assert_eq!(world.status().verdict, Some(verdict), "{reports:?}");
        assert_eq!(condition_is_true(&world.status().conditions, COMPLETE), verdict.is_green());
        assert_eq!(condition_is_true(&world.status().conditions, STALLED), !verdict.is_green());
        assert_eq!(world.status().completion_time, Some(Time(at(1))));
    }
}

#[test]
fn nothing_selected_is_no_success() {
    let mut world = World::new(&[]);
    world.step(0);
    assert_eq!(world.status().verdict, Some(Verdict::Failed));
    let complete = condition(&world.status().conditions, COMPLETE).unwrap();
    assert_eq!((complete.status.as_str(), complete.reason.as_str()), ("False", "InvalidRequest"));
}

#[test]
fn selector_that_matches_nothing_is_named() {
    let mut world = World::new(&[]);
    world.backup.spec = serde_json::from_value(json!({ "selector": { "matchLabels": { "app": "web" } } })).unwrap();
    world.step(0);
    let message = &condition(&world.status().conditions, COMPLETE).unwrap().message;
    assert!(message.starts_with("the selector app=web matches no pod"), "{message}");
}

#[test]
fn annotations_that_cannot_be_carried_out_are_failed_sources_with_all_problems() {
    let mut world = World::new(&[MILL]);
    let problem = |key: &str| Problem { key: key.into(), value: "\"soon\"".into(), reason: "is not a duration".into() };
    let problems = vec![problem("a/timeout"), problem("a/idle-timeout")];
    let problems = Problems { problems, warnings: Vec::new() };
    world.sources.problems = vec![PlanProblem::Annotations { pod: "pod-z".into(), problems }];
    world.step(0);
    let message = &world.source("pod/pod-z").outcome.message;
    assert!(message.contains("a/timeout") && message.contains("a/idle-timeout"), "{message}");
    assert_eq!(world.step(0).start.len(), 1, "the others are backed up");
    world.end(MILL, &success());
    world.step(1);
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
}

#[test]
fn refused_selector_fails_the_backup_with_its_cause() {
    let mut world = World::new(&[]);
    world.sources.problems = vec![PlanProblem::Selector { message: "no such operator".into() }];
    world.step(0);
    assert_eq!(world.status().verdict, Some(Verdict::Failed));
    assert!(condition(&world.status().conditions, COMPLETE).unwrap().message.contains("no such operator"));
}

#[test]
fn repository_that_is_not_ready_is_waited_for_and_its_reason_copied() {
    let mut world = World::new(&[MILL]);
    world.repositories = vec![repository("cellar", Err(("SecretMissing", "Secret cellar-key is missing")))];
    world.step(0);
    assert!(world.step(1).start.is_empty());
    let condition = condition(&world.status().conditions, RECONCILING).unwrap().message.clone();
    assert!(condition.contains("Secret cellar-key is missing"), "{condition}");
    world.step(300);
    assert_eq!(world.status().verdict, None);
    world.step(301);
    assert_eq!(world.status().verdict, Some(Verdict::Failed));
    assert_eq!(world.source(MILL).outcome.reason, "SecretMissing");
}

#[test]
fn readiness_of_an_older_spec_does_not_count() {
    let mut world = World::new(&[MILL]);
    world.repositories[0].metadata.generation = Some(2);
    world.step(0);
    assert!(world.step(1).start.is_empty());
    world.repositories[0].status.as_mut().unwrap().observed_generation = Some(2);
    assert_eq!(world.step(2).start.len(), 1);
}

#[test]
fn pod_that_comes_back_in_time_is_backed_up() {
    let mut world = World::new(&[MILL]);
    world.step(0);
    world.sources = plan_of(&[planned(MILL, None)]);
    assert!(world.step(1).start.is_empty());
    assert_eq!(world.source(MILL).outcome.reason, "PodGone");
    world.sources = plan_of(&[planned(MILL, Some("pod-b"))]);
    assert_eq!(world.step(200).start.len(), 1);
    assert_eq!(world.source(MILL).pod, "pod-b");
    assert_eq!(world.source(MILL).waiting_since, None);
}

#[test]
fn caps_hold_for_repository_and_cluster_and_the_queue_is_visible() {
    let mut world = World::new(&[MILL, WELL]);
    world.active = vec![(NAMESPACE.into(), "cellar".into()); JOBS_PER_REPOSITORY - 1];
    world.step(0);
    assert_eq!(world.step(1).start.len(), 1);
    assert_eq!(world.source(WELL).outcome.reason, "Queued");
    assert_eq!(world.source(WELL).waiting_since, None, "the limit of the queue is longer than that of a missing pod");
    assert!(world.source(WELL).outcome.message.contains("number 1 in the queue"), "{:?}", world.source(WELL));
    let mut world = World::new(&[MILL]);
    world.active = vec![("elsewhere".into(), "cellar".into()); JOBS_IN_CLUSTER];
    world.step(0);
    assert!(world.step(1).start.is_empty());
    world.active.pop();
    assert_eq!(world.step(2).start.len(), 1);
}

#[test]
fn one_namespace_leaves_half_of_the_cluster_to_the_others() {
    let mut world = World::new(&[MILL]);
    world.active = vec![(NAMESPACE.into(), "attic".into()); JOBS_PER_NAMESPACE];
    world.active.extend(vec![("elsewhere".into(), "cellar".into()); JOBS_IN_CLUSTER / 2 - JOBS_PER_NAMESPACE]);
    world.step(0);
    assert!(world.step(1).start.is_empty());
    assert!(world.source(MILL).outcome.message.contains("of this namespace"), "{:?}", world.source(MILL));
    world.active.remove(0);
    assert_eq!(world.step(2).start.len(), 1);
}

#[test]
fn queue_warns_once_and_has_an_end() {
    let mut world = World::new(&[MILL]);
    world.active = vec![("elsewhere".into(), "cellar".into()); JOBS_IN_CLUSTER];
    world.step(0);
    let hour = 3600;
    assert_eq!(world.step(1).events, []);
    let warned = world.step(1 + hour).events;
    assert!(warned.len() == 1 && warned[0].is_warning && warned[0].note.contains("60 minutes"), "{warned:?}");
    assert_eq!(world.step(2 + hour).events, []);
    assert_eq!(world.source(MILL).outcome.reason, "QueuedLong");
    let ended = world.step(1 + 26 * hour);
    assert_eq!(
        (world.source(MILL).outcome.verdict, world.status().verdict),
        (Some(Verdict::Failed), Some(Verdict::Failed))
    );
    assert!(ended.events.iter().any(|event| event.is_warning && event.note.contains("given up after 26 hours")));
}

#[test]
fn source_beyond_the_last_one_is_named_and_the_others_are_stored() {
    let names: Vec<String> = (0..257).map(|number| format!("deployment/mill-{number:03}/press")).collect();
    let mut world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let frozen = world.step(0);
    assert_eq!(world.status().sources.len(), 256);
    assert!(frozen.events.iter().any(|event| event.note.contains("mill-256")), "{:?}", frozen.events);
    assert_eq!(world.step(1).start.len(), JOBS_PER_REPOSITORY);
    let status = world.backup.status.as_mut().unwrap();
    for source in &mut status.sources {
        source.state = SourceState::Done;
        source.outcome.verdict = Some(Verdict::Succeeded);
    }
    world.step(2);
    assert_eq!(world.status().verdict, Some(Verdict::Incomplete));
    let complete = condition(&world.status().conditions, COMPLETE).unwrap();
    assert!(complete.message.contains("mill-256"), "{complete:?}");
}

#[test]
fn status_of_the_most_sources_with_the_longest_messages_fits_an_object() {
    let names: Vec<String> = (0..256).map(|number| format!("deployment/mill-{number:03}/press")).collect();
    let mut world = running(&[MILL]);
    world.backup.status.as_mut().unwrap().sources = names
        .iter()
        .map(|name| {
            let mut source = world.source(MILL).clone();
            source.name = name.parse().unwrap();
            source.outcome.message = "\u{1b}[31m".repeat(300);
            source.outcome.stderr_tail = "\u{0}".repeat(512);
            source.outcome.log_tail = "\n".repeat(1024);
            source.state = SourceState::Done;
            source
        })
        .collect();
    world.step(1);
    let length = serde_json::to_string(world.status()).unwrap().len();
    assert!(length < 512 * 1024, "{length}");
}

#[test]
fn job_that_a_status_names_is_neither_trusted_nor_changed() {
    let mut world = running(&[MILL]);
    world.backup.status.as_mut().unwrap().sources[0].jobs = vec!["admins".into()];
    world.jobs = vec![job("admins", &Scene::Ended(&success().to_termination_message()))];
    let actions = world.step(1);
    assert_eq!(actions.revoke, [job_name(&world.backup, MILL, 1)]);
    assert!(actions.end.is_empty() && actions.delete.is_empty());
    assert_eq!(world.source(MILL).outcome.reason, "ResultLost");
}

#[test]
fn taken_name_is_reported_once_and_stops_no_other_source() {
    let mut world = World::new(&[MILL, WELL]);
    world.step(0);
    let mut events = 0;
    for seconds in [1, 11] {
        let before = world.backup.status.clone();
        let mut actions = world.step(seconds);
        let count = actions.events.len();
        let status = world.backup.status.as_mut().unwrap();
        let applied = refused(RunKind::Backup, MILL, Reason::NameTaken, "Job x exists");
        settle_backup(before.as_ref(), status, &mut actions, &applied, false, at(seconds));
        events += actions.events.len() - count;
        assert_eq!(world.source(MILL).outcome.reason, "NameTaken");
        assert_eq!(world.source(WELL).state, SourceState::Running);
        world.set(WELL, &Scene::Runs);
    }
    assert_eq!(events, 1);
}

#[test]
fn explicit_repository_wins_over_the_annotation_and_that_over_the_default() {
    let mut world = World::new(&[MILL]);
    world.repositories = ["cellar", "attic", "shed"].map(|name| repository(name, Ok(()))).to_vec();
    world.step(0);
    assert!(world.step(1).start.is_empty(), "several, and none is the default");
    let annotations = [("stowaway.dev/is-default".to_owned(), "true".to_owned())].into();
    world.repositories[1].metadata.annotations = Some(annotations);
    let start = |world: &World, spec: serde_json::Value| {
        let mut world =
            World { backup: backup(&spec), repositories: world.repositories.clone(), ..World::new(&[MILL]) };
        world.sources.sources[0].repository = Some("shed".into());
        world.step(0);
        world.step(1).start[0].repository.clone()
    };
    assert_eq!(world.step(2).start[0].repository, "attic");
    assert_eq!(start(&world, json!({})), "shed");
    assert_eq!(start(&world, json!({ "repositoryRef": { "name": "cellar" } })), "cellar");
}

#[test]
fn restart_of_the_controller_starts_nothing_twice_and_finishes_what_it_began() {
    let mut world = World::new(&[MILL]);
    world.step(0);
    let before = world.backup.clone();
    let first = world.step(1).start;
    let mut again = World { backup: before, ..World::new(&[MILL]) };
    assert_eq!(again.step(2).start, first, "the same Job by the same name");
    // The Job was created, and the controller ended before its start. The attempt is planned again.
    world.set(MILL, &Scene::Suspended);
    assert_eq!(world.step(3).start, []);
    assert_eq!(world.step(4).start, first);
}

#[test]
fn deleted_job_is_a_lost_result() {
    let mut world = running(&[MILL]);
    world.jobs.clear();
    world.step(1);
    assert_eq!(world.source(MILL).outcome.reason, "ResultLost");
    assert_eq!(world.step(11).start[0].attempt, 2);
}

#[test]
fn finished_and_deleted_backups_are_left_alone() {
    let mut world = running(&[MILL]);
    world.end(MILL, &success());
    world.step(1);
    let finished = world.backup.clone();
    assert_eq!(world.step(9999), Actions::default());
    assert_eq!(world.backup, finished);
    let mut world = World::new(&[MILL]);
    world.step(0);
    world.backup.metadata.deletion_timestamp = Some(Time(at(1)));
    let facts = BackupFacts {
        repositories: &world.repositories,
        jobs: &[],
        staged: Staged::default(),
        sources: &world.sources,
        active: &[],
        closed: &world.closed,
        uses: &world.uses,
    };
    assert_eq!(plan_backup(&world.backup, facts, at(2)).1, Actions::default());
}

#[test]
fn backup_waits_for_a_prune_of_its_repository_and_for_no_other() {
    let mut world = World::new(&[MILL]);
    world.closed = [("elsewhere".into(), "cellar".into()), (NAMESPACE.into(), "another".into())].into();
    world.step(0);
    assert_eq!(world.step(1).start.len(), 1);

    let mut world = World::new(&[MILL]);
    world.closed = [(NAMESPACE.into(), "cellar".into())].into();
    world.step(0);
    for seconds in [1, 10_000] {
        assert!(world.step(seconds).start.is_empty());
        assert!(world.source(MILL).outcome.reason.starts_with("Queued"));
        assert!(world.source(MILL).outcome.message.contains("prune"), "{}", world.source(MILL).outcome.message);
    }
    world.closed.clear();
    assert_eq!(world.step(10_010).start.len(), 1);
}

#[test]
fn claim_that_is_being_restored_waits_in_the_queue_and_others_do_not() {
    let mut world = World::new(&["pvc/casks", "pvc/barrels", MILL]);
    world.uses = restoring("casks", false, false);
    world.step(0);
    let started: Vec<String> = world.step(0).start.into_iter().map(|start| start.source).collect();
    assert_eq!(started, [MILL, "pvc/barrels"]);
    // A restore may take long, and the Backup does not fail because of that.
    assert!(world.step(24 * 3600).start.iter().all(|start| start.source != "pvc/casks"));
    let outcome = &world.source("pvc/casks").outcome;
    assert_eq!((outcome.reason.as_str(), outcome.verdict), ("QueuedLong", None));
    assert!(outcome.message.contains("waits for Restore undo into claim casks"), "{}", outcome.message);
    world.uses = restoring("casks", true, false);
    assert!(world.step(24 * 3600 + 1).start.iter().any(|start| start.source == "pvc/casks"));
}

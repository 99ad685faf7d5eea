//! Sources whose Jobs the API server does not create.

use super::*;
use crate::plan::applied::Applied;

/// The result of a plan in which the creation of the Job of [`MILL`] failed and may succeed later.
fn delayed(message: &str) -> Applied {
    let mut applied = refused(RunKind::Backup, MILL, Reason::PodNotStarted, message);
    applied.refused[0].is_temporary = true;
    applied
}

#[test]
fn refused_job_waits_and_then_fails_with_the_api_servers_message() {
    let mut world = World::new(&[MILL]);
    world.step(0);
    for (seconds, verdict) in [(1, None), (200, None), (301, Some(Verdict::Failed))] {
        let before = world.backup.status.clone();
        let mut actions = world.step(seconds);
        assert_eq!(actions.start.len(), 1);
        let status = world.backup.status.as_mut().unwrap();
        let applied = refused(RunKind::Backup, MILL, Reason::PodNotStarted, "exceeded quota: count/jobs.batch");
        settle_backup(before.as_ref(), status, &mut actions, &applied, false, at(seconds));
        assert_eq!(status.verdict, verdict, "{seconds}");
    }
    assert!(world.source(MILL).outcome.message.contains("exceeded quota"));
    assert_eq!((world.source(MILL).attempt, world.source(MILL).jobs.len()), (0, 0));
}

#[test]
fn job_whose_creation_fails_waits_as_long_as_a_queued_one_and_then_fails() {
    let mut world = World::new(&[MILL, WELL]);
    world.step(0);
    let limit = i64::try_from(QUEUE_LIMIT.as_secs()).unwrap();
    let mut warnings = 0;
    for (seconds, state) in [(1, SourceState::Waiting), (4000, SourceState::Waiting), (limit + 1, SourceState::Done)] {
        let before = world.backup.status.clone();
        let mut actions = world.step(seconds);
        let planned = actions.events.len();
        let status = world.backup.status.as_mut().unwrap();
        let applied = delayed("failed to create Job orchard/x: no answer within 35 s");
        settle_backup(before.as_ref(), status, &mut actions, &applied, false, at(seconds));
        warnings += actions.events.len() - planned;
        assert_eq!(world.source(MILL).state, state, "{seconds}");
        assert!(world.source(MILL).outcome.message.contains("no answer within 35 s"));
        assert_eq!((world.source(MILL).attempt, world.source(MILL).jobs.len()), (0, 0));
        if seconds == 1 {
            assert_eq!(world.source(WELL).state, SourceState::Running, "the other source runs");
            world.set(WELL, &Scene::Runs);
        }
    }
    assert_eq!(world.source(MILL).outcome.verdict, Some(Verdict::Failed));
    assert!(world.source(MILL).outcome.message.starts_with("given up after 26 hours"));
    assert_eq!(warnings, 2, "the reason and the end are reported, each once");
}

#[test]
fn job_that_is_created_after_all_starts_its_wait_from_the_beginning() {
    let mut world = World::new(&[MILL]);
    world.step(0);
    let before = world.backup.status.clone();
    let mut actions = world.step(1);
    let status = world.backup.status.as_mut().unwrap();
    settle_backup(before.as_ref(), status, &mut actions, &delayed("slow"), false, at(1));
    assert!(world.source(MILL).queued_since.is_some());
    assert_eq!(world.step(11).start.len(), 1);
    assert!(world.source(MILL).queued_since.is_none());
}

#[test]
fn source_whose_pod_a_limit_range_refuses_fails_at_once_and_one_over_the_quota_is_tried_again() {
    let mut world = running(&[MILL, WELL]);
    let causes = [
        (MILL, "maximum memory usage per Container is 100Mi, but limit is 512Mi"),
        (WELL, "exceeded quota: small, requested: cpu=100m, used: cpu=1, limited: cpu=1"),
    ];
    for (source, cause) in causes {
        world.set(source, &Scene::NoPod);
        let event = format!("FailedCreate: Error creating: pods \"x-7k2p\" is forbidden: {cause}");
        world.jobs.last_mut().unwrap().warning_events = vec![event];
    }
    let actions = world.step(1);
    assert_eq!(actions.end, [job_name(&world.backup, MILL, 1)]);
    let refused = world.source(MILL);
    assert_eq!((refused.state, refused.outcome.verdict), (SourceState::Done, Some(Verdict::Failed)));
    assert_eq!(refused.outcome.reason, "PodRefused");
    assert!(refused.outcome.message.contains("runnerPod.resources"), "{}", refused.outcome.message);
    assert_eq!(world.source(WELL).state, SourceState::Running, "the quota may have room before the deadline");
    world.step(300);
    let over = world.source(WELL);
    assert_eq!((over.state, over.outcome.reason.as_str()), (SourceState::Waiting, "PodNotStarted"));
    assert!(over.next_attempt_time.is_some());
}

//! Sources whose Jobs the API server does not create.

use super::*;

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
        let cause = (MILL, "failed to create Job orchard/x: no answer within 35 s");
        job_delayed((before.as_ref(), false), status, &mut actions, cause, at(seconds));
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
    job_delayed((before.as_ref(), false), status, &mut actions, (MILL, "slow"), at(1));
    assert!(world.source(MILL).queued_since.is_some());
    assert_eq!(world.step(11).start.len(), 1);
    assert!(world.source(MILL).queued_since.is_none());
}

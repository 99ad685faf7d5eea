//! Tests that a Restore is carried out once, even if its status is lost.

use super::*;
use crate::{api::CARRIED_OUT, plan::fixtures::job_name};

/// A Restore whose Job was allowed to run, as the controller annotates it.
fn carried_out() -> World {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.step(0);
    world.restore.annotations_mut().insert(CARRIED_OUT.into(), "uid-of-undo".into());
    world
}

#[test]
fn copy_of_a_restore_that_was_carried_out_is_refused_with_the_remedy() {
    let mut world = carried_out();
    world.restore.status = None;
    world.restore.metadata.uid = Some("uid-of-a-copy".into());
    let actions = world.step(1);
    assert_eq!((actions.start, actions.restore), (vec![], crate::plan::actions::RestoreActions::default()));
    let outcome = &world.status().outcome;
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Failed), "AlreadyCarriedOut"));
    assert!(outcome.message.contains("another name without that annotation"), "{}", outcome.message);
}

#[test]
fn lost_status_is_found_again_by_the_job() {
    let mut world = carried_out();
    let name = world.status().job.clone().unwrap();
    world.jobs = vec![job(&name, &Scene::Ended(&success().to_termination_message()))];
    world.restore.status = None;
    assert_eq!(world.step(1).start, []);
    assert_eq!(world.status().outcome.verdict, Some(Verdict::Succeeded));
}

#[test]
fn lost_status_without_a_job_is_a_lost_result_and_no_second_restore() {
    let mut world = carried_out();
    world.restore.status = None;
    assert_eq!(world.step(1).start, []);
    let outcome = &world.status().outcome;
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Failed), "ResultLost"));
    assert!(outcome.message.contains("may have taken effect"), "{}", outcome.message);
}

#[test]
fn job_that_never_ran_is_planned_again_and_one_that_was_suspended_in_between_is_not() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    let first = world.step(0).start;
    let name = job_name(&world.restore, MILL, 1);
    world.jobs = vec![job(&name, &Scene::Suspended)];
    world.restore.status = None;
    assert_eq!(world.step(1).start, first);
    // The controller ended between the annotation and the start.
    world.restore.annotations_mut().insert(CARRIED_OUT.into(), "uid-of-undo".into());
    world.restore.status = None;
    assert_eq!(world.step(2).start, first);

    let actions = world.step(3);
    assert_eq!((actions.start, actions.end), (vec![], vec![name]));
    assert_eq!(world.status().outcome.reason, "Cancelled");
}

#[test]
fn job_that_a_status_names_is_neither_trusted_nor_changed() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.jobs = vec![job("admins", &Scene::Ended(&success().to_termination_message()))];
    world.restore.status = Some(RestoreStatus { job: Some("admins".into()), ..RestoreStatus::default() });
    let actions = world.step(0);
    assert_eq!((actions.start.len(), actions.revoke.len()), (1, 0));
    assert_eq!(world.status().job, Some(job_name(&world.restore, MILL, 1)));
}

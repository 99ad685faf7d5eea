//! Tests of the progress which a run reports.

use super::*;
use crate::model::RunProgress;

#[test]
fn progress_of_a_run_is_shown_and_decides_nothing() {
    let mut world = running(&[MILL]);
    let progress = RunProgress { bytes: 3 << 30, total_bytes: Some(4 << 30), bytes_per_second: 5 << 20 };
    world.jobs = vec![job(&job_name(&world.backup, MILL, 1), &Scene::Runs)];
    world.jobs[0].progress = Some(RunProgress { bytes: u64::MAX, ..progress });
    world.step(59);
    assert!(i64::try_from(world.status().bytes).is_ok(), "any number may be reported");
    world.jobs[0].progress = Some(progress);
    world.step(60);
    assert_eq!((world.status().bytes, world.status().transfer.as_deref()), (3 << 30, Some("75% of 4.0GiB, 5.0MiB/s")));
    assert_eq!((world.status().verdict, world.source(MILL).outcome.bytes), (None, None));
    // Only the report counts in the end.
    let report = success();
    world.jobs = vec![job(&job_name(&world.backup, MILL, 1), &Scene::Ended(&report.to_termination_message()))];
    world.jobs[0].progress = Some(progress);
    world.step(61);
    assert_eq!((world.status().bytes, world.status().transfer.as_deref()), (report.bytes, None));
}

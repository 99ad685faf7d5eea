//! Silence gets a name, and a report is believed only when it can be read.

use super::*;
use crate::{
    model::Verdict,
    plan::fixtures::{Scene, at, failure as failed_report, job, success},
};

fn ended(scene: &Scene<'_>, seconds: i64) -> SourceReport {
    match standing(&job("apple", scene), at(seconds)) {
        Standing::Ended(report) | Standing::Stuck(report) => *report,
        standing => panic!("not over: {standing:?}"),
    }
}

#[test]
fn no_kind_of_silence_is_green() {
    let table = [
        (Scene::Said(""), Reason::ResultLost),
        (Scene::Said("all is well"), Reason::ResultLost),
        (Scene::Said(r#"{"verdict":"Succeeded"}"#), Reason::ResultLost),
        (Scene::CompleteAlone, Reason::ResultLost),
        (Scene::FailedAlone("BackoffLimitExceeded"), Reason::ResultLost),
        (Scene::FailedAlone("DeadlineExceeded"), Reason::Timeout),
        (Scene::NoPod, Reason::PodNotStarted),
        (Scene::Waits("ImagePullBackOff"), Reason::PodNotStarted),
        (Scene::Waits("ContainerCreating"), Reason::PodNotStarted),
    ];
    for (scene, reason) in table {
        let report = ended(&scene, 300);
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, reason), "{}", report.message);
        assert!(report.message.contains("apple"), "{}", report.message);
    }
}

#[test]
fn runners_own_report_is_copied() {
    let report = success();
    assert_eq!(ended(&Scene::Said(&report.to_termination_message()), 1), report);
}

#[test]
fn killed_runner_is_named_with_what_killed_it() {
    let message = ended(&Scene::Said(""), 1).message;
    assert!(message.contains("OOMKilled") && message.contains("137") && message.contains("kubectl logs"), "{message}");
}

#[test]
fn pod_that_does_not_start_has_five_minutes_and_says_why() {
    let waiting = job("apple", &Scene::Waits("ImagePullBackOff"));
    let Standing::Starting { deadline, hint } = standing(&waiting, at(299)) else { panic!("given up too early") };
    assert_eq!(deadline, at(300));
    assert_eq!(hint, "ImagePullBackOff: in Kubernetes' own words");
    assert!(
        matches!(standing(&waiting, at(300)), Standing::Stuck(report) if report.message.contains("ImagePullBackOff"))
    );
}

#[test]
fn events_speak_where_the_pod_is_silent() {
    let mut mute = job("apple", &Scene::Waits("ContainerCreating"));
    mute.complaints = vec!["FailedScheduling: old".into(), "FailedMount: no such volume".into()];
    let Standing::Stuck(report) = standing(&mute, at(300)) else { panic!("not given up") };
    assert!(report.message.contains("FailedMount: no such volume"), "{}", report.message);
}

#[test]
fn run_that_was_cancelled_by_the_deadline_timed_out() {
    for kind in ["Failed", "FailureTarget"] {
        let mut late = job("apple", &Scene::Said(&failed_report(Reason::Cancelled).to_termination_message()));
        let mut condition = job("x", &Scene::FailedAlone("DeadlineExceeded")).job.status.unwrap().conditions.unwrap();
        condition[0].type_ = kind.into();
        late.job.status.as_mut().unwrap().conditions = Some(condition);
        let Standing::Ended(report) = standing(&late, at(1)) else { panic!("not over") };
        assert_eq!(report.reason, Reason::Timeout, "{kind}");
    }
}

#[test]
fn job_that_was_made_and_not_started_is_suspended() {
    assert_eq!(standing(&job("apple", &Scene::Suspended), at(9999)), Standing::Suspended);
    assert_eq!(standing(&job("apple", &Scene::Runs), at(9999)), Standing::Running);
}

//! Tests that every run without a report gets a reason, and that only a readable report is used.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::{
    model::Verdict,
    plan::fixtures::{Scene, at, failure as failed_report, job, success},
};

fn ended(scene: &Scene<'_>, seconds: i64) -> RunReport {
    match job_state(&job("apple", scene), at(seconds)) {
        JobState::Ended(report) | JobState::Stuck(report) => *report,
        state => panic!("not over: {state:?}"),
    }
}

#[test]
fn no_missing_report_is_green() {
    let table = [
        (Scene::Ended(""), Reason::ResultLost),
        (Scene::Ended("all is well"), Reason::ResultLost),
        (Scene::Ended(r#"{"verdict":"Succeeded"}"#), Reason::ResultLost),
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
    assert_eq!(ended(&Scene::Ended(&report.to_termination_message()), 1), report);
}

#[test]
fn killed_runner_is_named_with_what_killed_it() {
    let message = ended(&Scene::Ended(""), 1).message;
    for part in ["OOMKilled", "137", "kubectl logs", "`runnerPod.resources.limits.memory` of the Repository"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn pod_that_does_not_start_fails_after_five_minutes_with_the_cause() {
    let waiting = job("apple", &Scene::Waits("ImagePullBackOff"));
    let JobState::Starting { deadline, hint } = job_state(&waiting, at(299)) else { panic!("given up too early") };
    assert_eq!(deadline, at(300));
    let advice = "ImagePullBackOff: a message of Kubernetes; if the image's registry requires a login, set runnerPod.imagePullSecrets";
    assert!(hint.starts_with(advice), "{hint}");
    assert!(
        matches!(job_state(&waiting, at(300)), JobState::Stuck(report) if report.message.contains("ImagePullBackOff"))
    );
}

#[test]
fn events_explain_a_pod_without_a_message() {
    let mut mute = job("apple", &Scene::Waits("ContainerCreating"));
    mute.warning_events = vec!["FailedScheduling: old".into(), "FailedMount: no such volume".into()];
    let JobState::Stuck(report) = job_state(&mute, at(300)) else { panic!("not given up") };
    assert!(report.message.contains("FailedMount: no such volume"), "{}", report.message);
}

#[test]
fn run_that_was_cancelled_by_the_deadline_timed_out() {
    for kind in ["Failed", "FailureTarget"] {
        let mut late = job("apple", &Scene::Ended(&failed_report(Reason::Cancelled).to_termination_message()));
        let mut condition = job("x", &Scene::FailedAlone("DeadlineExceeded")).job.status.unwrap().conditions.unwrap();
        condition[0].type_ = kind.into();
        late.job.status.as_mut().unwrap().conditions = Some(condition);
        let JobState::Ended(report) = job_state(&late, at(1)) else { panic!("not over") };
        assert_eq!(report.reason, Reason::Timeout, "{kind}");
    }
}

#[test]
fn job_that_was_made_and_not_started_is_suspended() {
    assert_eq!(job_state(&job("apple", &Scene::Suspended), at(9999)), JobState::Suspended);
    assert_eq!(job_state(&job("apple", &Scene::Runs), at(9999)), JobState::Running);
}

/// A Job with a UID, whose pod belongs to it.
fn owned(scene: &Scene<'_>, claim: Option<&str>) -> ObservedJob {
    let mut observed = job("apple", scene);
    observed.job.metadata.uid = Some("uid-of-apple".into());
    let volumes = claim.map(|name| json!([{ "name": "data", "persistentVolumeClaim": { "claimName": name } }]));
    observed.job.spec.as_mut().unwrap().template.spec =
        Some(serde_json::from_value(json!({ "containers": [], "volumes": volumes })).unwrap());
    for pod in &mut observed.pods {
        let owner = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "apple", "uid": "uid-of-apple" }]);
        pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
    }
    observed
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

fn add_proxy(observed: &mut ObservedJob) {
    let statuses = observed.pods[0].status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    let proxy = json!({
        "name": "istio-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} },
    });
    statuses.push(serde_json::from_value(proxy).unwrap());
}

#[test]
fn run_whose_runner_has_ended_is_over_although_the_proxy_of_a_mesh_lives_on() {
    let mut runs = owned(&Scene::Runs, None);
    add_proxy(&mut runs);
    assert!(is_active(&runs.job, &runs.pods));
    assert_eq!(job_retention(&runs, &none()), JobRetention::Keep);
    let mut ended = owned(&Scene::Ended(&success().to_termination_message()), None);
    assert_eq!(job_retention(&ended, &none()), JobRetention::Keep, "Kubernetes notices its end soon");
    add_proxy(&mut ended);
    assert!(is_started(&ended.job) && !is_active(&ended.job, &ended.pods));
    assert_eq!(job_retention(&ended, &none()), JobRetention::Delete);
    assert!(matches!(job_state(&ended, at(1)), JobState::Ended(report) if report.verdict == Verdict::Succeeded));
}

#[test]
fn pod_of_another_job_does_not_end_this_one() {
    let ended = owned(&Scene::Ended(""), None);
    let mut other = owned(&Scene::Runs, None);
    other.job.metadata.uid = Some("uid-of-pear".into());
    assert!(is_active(&other.job, &ended.pods));
}

#[test]
fn job_with_a_stored_result_expires_soon_and_sooner_where_it_holds_a_claim() {
    let minutes = |scene: &Scene<'_>, claim| match job_retention(&owned(scene, claim), &none()) {
        JobRetention::Expire(after) => after.as_secs() / 60,
        other => panic!("{other:?}"),
    };
    assert_eq!(minutes(&Scene::CompleteAlone, None), 60);
    assert_eq!(minutes(&Scene::CompleteAlone, Some("cask")), 1);
    assert_eq!(minutes(&Scene::FailedAlone("BackoffLimitExceeded"), None), 24 * 60);
    assert_eq!(minutes(&Scene::FailedAlone("BackoffLimitExceeded"), Some("cask")), 10);
    let mut known = owned(&Scene::CompleteAlone, None);
    known.job.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(60);
    assert_eq!(job_retention(&known, &none()), JobRetention::Keep);
    assert_eq!(job_retention(&owned(&Scene::Runs, None), &none()), JobRetention::Keep);
}

#[test]
fn ended_job_is_deleted_at_once_if_its_claim_is_being_deleted() {
    let ending = BTreeSet::from(["cask".to_owned()]);
    for scene in [Scene::CompleteAlone, Scene::FailedAlone("BackoffLimitExceeded")] {
        let mut ended = owned(&scene, Some("cask"));
        assert!(holds_claim(&ended.job));
        assert_eq!(job_retention(&ended, &ending), JobRetention::Delete);
        ended.job.spec.as_mut().unwrap().ttl_seconds_after_finished = Some(600);
        assert_eq!(job_retention(&ended, &ending), JobRetention::Delete, "whatever time to live it has");
        assert_eq!(job_retention(&ended, &BTreeSet::from(["other".to_owned()])), JobRetention::Keep);
    }
    let running = owned(&Scene::Runs, Some("cask"));
    assert_eq!(job_retention(&running, &ending), JobRetention::Keep, "a run is never ended for that");
    assert!(!holds_claim(&running.job));
    // The controller deletes a temporary claim itself, and keeps the Job for its log.
    let temporary = owned(&Scene::CompleteAlone, Some("apple"));
    let ending = BTreeSet::from(["apple".to_owned()]);
    assert!(matches!(job_retention(&temporary, &ending), JobRetention::Expire(_)) && !holds_claim(&temporary.job));
}

#[test]
fn run_whose_pod_no_longer_exists_is_reported_as_deleted_and_never_as_a_limit_of_the_job() {
    let mut gone = job("apple", &Scene::FailedAlone("BackoffLimitExceeded"));
    let message = |gone: &ObservedJob| match job_state(gone, at(1)) {
        JobState::Ended(report) => report.message,
        state => panic!("not over: {state:?}"),
    };
    for part in ["was deleted", "eviction", "drain", "create it again"] {
        assert!(message(&gone).contains(part), "{}", message(&gone));
    }
    assert!(!message(&gone).contains("in part"), "{}", message(&gone));
    gone.job.metadata.labels = Some([("stowaway.dev/kind".to_owned(), "restore".to_owned())].into());
    assert!(message(&gone).contains("may have taken effect in part"), "{}", message(&gone));
}

#[test]
fn refusal_of_a_pod_comes_with_what_to_do() {
    for (warning, advice) in [
        (
            "FailedCreate: Error creating: pods \"apple-x\" is forbidden: exceeded quota: small, requested: cpu=100m, used: cpu=1",
            "ResourceQuota",
        ),
        (
            "FailedCreate: Error creating: pods \"apple-x\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            "LimitRange",
        ),
        (
            "FailedCreate: Error creating: pods \"apple-x\" is forbidden: cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
            "LimitRange",
        ),
        (
            "FailedCreate: Error creating: pods \"apple-x\" is forbidden: violates PodSecurity \"restricted:latest\"",
            "securityContext",
        ),
        (
            "FailedCreate: Error creating: pods \"apple-x\" is forbidden: no PriorityClass with name low was found",
            "priorityClassName",
        ),
    ] {
        let mut refused = job("apple", &Scene::NoPod);
        refused.warning_events = vec![warning.to_owned()];
        let JobState::Stuck(report) = job_state(&refused, at(300)) else { panic!("not given up") };
        assert!(report.message.contains(warning) && report.message.contains(advice), "{}", report.message);
    }
}

/// A warning of the Job controller about a pod that admission refuses.
fn refusal(cause: &str) -> String {
    format!("FailedCreate: Error creating: pods \"apple-x7k2p\" is forbidden: {cause}")
}

#[test]
fn pod_that_only_a_limit_range_refuses_ends_the_run_at_once_with_the_next_step() {
    let texts = [
        "maximum memory usage per Container is 100Mi, but limit is 512Mi",
        "maximum memory usage per Container is 100Mi, but request is 512Mi",
        "maximum cpu usage per Container is 1.  No limit is specified",
        "minimum memory usage per Container is 1Gi, but request is 64Mi",
        "minimum cpu usage per Pod is 1.  No request is specified",
        "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
        "memory max limit to request ratio per Pod is 2, but no request is specified or request is 0",
        "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 100Mi, but limit is 512Mi]",
        "[minimum cpu usage per Pod is 1.  No request is specified, maximum memory usage per Container is 1Gi.  No limit is specified]",
    ];
    for text in texts {
        let mut refused = job("apple", &Scene::NoPod);
        let combined = refusal(text).replace("Error", "(combined from similar events): Error");
        refused.warning_events = vec![refusal(text), combined];
        let JobState::Stuck(report) = job_state(&refused, at(1)) else { panic!("not ended: {text}") };
        assert_eq!((report.verdict, report.reason), (Verdict::Failed, Reason::PodRefused), "{text}");
        for part in [text, "Job apple", "runnerPod.resources", "change the LimitRange"] {
            assert!(report.message.contains(part), "{part}: {}", report.message);
        }
    }
}

#[test]
fn pod_that_may_be_admitted_later_is_waited_for() {
    let range = "maximum memory usage per Container is 100Mi, but limit is 512Mi";
    let quota =
        "exceeded quota: small, requested: limits.memory=512Mi, used: limits.memory=1Gi, limited: limits.memory=1Gi";
    let denied = format!("admission webhook \"sizes.example\" denied the request: {range}");
    let cases = [
        vec![refusal(quota)],
        vec![refusal("failed quota: small: must specify limits.memory for: runner")],
        vec![refusal("violates PodSecurity \"restricted:latest\": runAsNonRoot != true")],
        vec![refusal(&format!("[{range}, {quota}]"))],
        // The list is cut, so it may have another cause.
        vec![refusal(&format!("[{range}, maximum cpu usage per Container is 1, but lim"))],
        // Both refuse the pod in turn.
        vec![refusal(quota), refusal(range)],
        vec![refusal(range), refusal(quota)],
        vec![format!("FailedCreate: Error creating: {denied}")],
        vec![refusal(&denied)],
        vec![format!("FailedCreate: {range}")],
        vec![],
    ];
    for warning_events in cases {
        let mut refused = job("apple", &Scene::NoPod);
        refused.warning_events.clone_from(&warning_events);
        let state = job_state(&refused, at(299));
        assert!(matches!(state, JobState::Starting { .. }), "{warning_events:?}: {state:?}");
        let JobState::Stuck(report) = job_state(&refused, at(300)) else { panic!("not given up: {warning_events:?}") };
        assert_eq!(report.reason, Reason::PodNotStarted, "{warning_events:?}");
    }
    // The pod was created after all.
    let mut created = job("apple", &Scene::Waits("ContainerCreating"));
    created.warning_events = vec![refusal(range)];
    assert!(matches!(job_state(&created, at(1)), JobState::Starting { .. }));
}

#[test]
fn pod_that_waits_for_a_cordoned_node_names_how_to_end_the_cordon() {
    let mut waiting = job("apple", &Scene::Waits("ContainerCreating"));
    let message = "0/2 nodes are available: 1 node(s) had volume node affinity conflict, 1 node(s) were unschedulable. \
                   preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let condition =
        json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }]);
    waiting.pods[0].status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    let JobState::Stuck(report) = job_state(&waiting, at(300)) else { panic!("not given up") };
    assert_eq!(report.reason, Reason::PodNotStarted, "it is repeated");
    for part in [message, "kubectl uncordon"] {
        assert!(report.message.contains(part), "{part}: {}", report.message);
    }
}

#[test]
fn evicted_pod_is_reported_as_evicted() {
    let mut evicted = job("apple", &Scene::Ended(&failed_report(Reason::Cancelled).to_termination_message()));
    let pod = &mut evicted.pods[0];
    pod.spec = serde_json::from_value(json!({ "containers": [], "nodeName": "cellar-7" })).unwrap();
    let condition = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }]);
    pod.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    let JobState::Ended(report) = job_state(&evicted, at(1)) else { panic!("not over") };
    assert_eq!(report.reason, Reason::Cancelled, "it is repeated");
    assert!(report.message.contains("evicted from node cellar-7"), "{}", report.message);
}

#[test]
fn pod_that_waits_for_its_only_node_names_it_and_the_taint_of_a_lost_one() {
    let mut waiting = owned(&Scene::Waits("ContainerCreating"), None);
    let condition =
        json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes" }]);
    waiting.pods[0].status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
        { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["cellar-7"] }] },
    ] } } });
    let pod = waiting.job.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    pod.affinity = serde_json::from_value(affinity).unwrap();
    let JobState::Starting { hint, .. } = job_state(&waiting, at(1)) else { panic!("given up") };
    assert!(hint.contains("0/2 nodes") && hint.contains("cellar-7") && hint.contains("out-of-service"), "{hint}");
}

#[test]
fn job_that_failed_on_a_lost_node_ends_and_names_the_node() {
    let mut lost = job("apple", &Scene::Runs);
    let mut conditions = job("x", &Scene::FailedAlone("DeadlineExceeded")).job.status.unwrap().conditions.unwrap();
    conditions[0].type_ = "FailureTarget".into();
    lost.job.status.as_mut().unwrap().conditions = Some(conditions);
    lost.pods[0].metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
    lost.pods[0].spec = Some(serde_json::from_value(json!({ "containers": [], "nodeName": "cellar-7" })).unwrap());
    assert_eq!(job_state(&lost, at(399)), JobState::Running, "the pod may still end");
    let JobState::Ended(report) = job_state(&lost, at(400)) else { panic!("not over") };
    assert_eq!(report.reason, Reason::Timeout);
    assert!(report.message.contains("cellar-7") && report.message.contains("out-of-service"), "{}", report.message);
}

#[test]
fn pod_that_was_bound_to_a_lost_node_and_never_started_names_the_node() {
    let mut lost = job("apple", &Scene::Waits("ContainerCreating"));
    lost.pods[0].spec = Some(serde_json::from_value(json!({ "containers": [], "nodeName": "cellar-7" })).unwrap());
    lost.warning_events = vec!["FailedScheduling: no node has room".into()];
    for is_deleted in [false, true] {
        if is_deleted {
            let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100));
            lost.pods[0].metadata.deletion_timestamp = Some(time);
        }
        let JobState::Stuck(report) = job_state(&lost, at(300)) else { panic!("not given up") };
        assert!(report.message.contains("cellar-7") && report.message.contains("out-of-service"), "{}", report.message);
        assert!(!report.message.contains("FailedScheduling"), "that is over: {}", report.message);
    }
}

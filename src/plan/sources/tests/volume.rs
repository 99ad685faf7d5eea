//! Tests of volume sources: first which cannot be backed up, then which pod reads a claim, and how its snapshot is
//! labelled.

use serde_json::{Value, json};

use super::{PlanProblem, PlannedSource, SourcePlan, Target, plan, pod};
use crate::model::{Reason, TargetVolume};

/// A merge patch for a pod with a claim and a sidecar for it.
fn with_volume(claim: &str) -> Value {
    json!({
        "metadata": { "annotations": {
            "stowaway.dev/backupcommand": null, "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data"
        } },
        "spec": {
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }, { "name": "scratch", "emptyDir": {} }],
            "initContainers": [{
                "name": "stowaway-sidecar", "restartPolicy": "Always", "args": ["sidecar", format!("--volume=data=pvc/{claim}")]
            }],
        },
    })
}

fn changed(mut change: Value, pointer: &str, value: Value) -> Value {
    *change.pointer_mut(pointer).unwrap() = value;
    change
}

fn summary(plan: &SourcePlan) -> Vec<String> {
    let pod = |source: &PlannedSource| source.target.as_ref().map_or("-", Target::pod).to_owned();
    plan.sources.iter().map(|source| format!("{} -> {}", source.name, pod(source))).collect()
}

#[test]
fn claim_without_a_sidecar_is_reported_by_its_name() {
    let none = changed(with_volume("harvest"), "/spec/initContainers", json!([]));
    // The container is a sidecar for other volumes, or not a sidecar.
    let other =
        changed(with_volume("harvest"), "/spec/initContainers/0/args", json!(["sidecar", "--volume=data=pvc/x"]));
    let init = changed(with_volume("harvest"), "/spec/initContainers/0/restartPolicy", json!(null));
    for change in [none, other, init] {
        let plan = plan(&[pod("deployment", "mill", "mill-1", &change)]);
        assert!(plan.sources.is_empty());
        let [problem @ PlanProblem::NotInjected { pod, name }] = &plan.problems[..] else { panic!("{plan:?}") };
        assert_eq!((pod.as_str(), name.as_str(), problem.reason()), ("mill-1", "pvc/harvest", Reason::NotInjected));
    }
}

#[test]
fn volumes_that_cannot_be_backed_up_are_problems() {
    for (volume, text) in [("scratch", "is not a PersistentVolumeClaim"), ("nothing", "no volume \"nothing\"")] {
        let change = changed(with_volume("harvest"), "/metadata/annotations/stowaway.dev~1volumes", json!(volume));
        let plan = plan(&[pod("deployment", "mill", "mill-1", &change)]);
        let [problem @ PlanProblem::Volume { .. }] = &plan.problems[..] else { panic!("{plan:?}") };
        assert!(problem.to_string().contains(text), "{problem}");
    }
}

#[test]
fn volumes_of_the_restore_step_alone_are_no_sources() {
    let change = changed(with_volume("harvest"), "/metadata/annotations/stowaway.dev~1inject", json!("none"));
    let plan = plan(&[pod("deployment", "mill", "mill-1", &change)]);
    assert_eq!((summary(&plan), plan.problems), (vec![], vec![]));
}

#[test]
fn claim_of_several_pods_is_read_once_by_the_newest_ready_one_that_can() {
    let at = |time: &str, ready: bool, injected: bool| {
        let mut change = with_volume("harvest");
        change["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T{time}:00Z"));
        if !ready {
            change["status"] = json!({ "conditions": [{ "type": "Ready", "status": "False" }] });
        }
        if !injected {
            change["spec"]["initContainers"] = json!([]);
        }
        change
    };
    let pods = [
        pod("deployment", "mill", "old", &at("01:00", true, true)),
        pod("deployment", "press", "newer", &at("02:00", true, true)),
        pod("deployment", "press", "unready", &at("03:00", false, true)),
        pod("deployment", "press", "bare", &at("04:00", true, false)),
    ];
    assert_eq!(summary(&plan(&pods)), ["pvc/harvest -> newer"]);
    let mut backwards = pods.to_vec();
    backwards.reverse();
    assert_eq!(plan(&backwards), plan(&pods));
    // A pod which is not Ready may become Ready, so the Backup waits for it.
    assert_eq!(summary(&plan(&pods[2..])), ["pvc/harvest -> -"]);
    assert!(plan(&pods[2..]).problems.is_empty());
}

#[test]
fn each_claim_is_a_source_beside_the_commands_and_is_labelled() {
    let mut both = with_volume("harvest");
    both["metadata"]["annotations"]["stowaway.dev/backupcommand"] = json!("dump");
    let replica = |number: u8| {
        let claim = format!("data-mill-{number}");
        let mut change = with_volume(&claim);
        change["metadata"]["annotations"].as_object_mut().unwrap().remove("stowaway.dev/inject");
        change
    };
    let plan = plan(&[
        pod("deployment", "press", "press-1", &both),
        pod("statefulset", "mill", "mill-0", &replica(0)),
        // The namespace requested the sidecar.
        pod("statefulset", "mill", "mill-1", &replica(1)),
    ]);
    assert!(plan.problems.is_empty(), "{plan:?}");
    let mill = ["pod/mill-0/main -> mill-0", "pod/mill-1/main -> mill-1"];
    let all: Vec<String> = summary(&plan).into_iter().filter(|line| !mill.contains(&line.as_str())).collect();
    assert_eq!(
        all,
        [
            "deployment/press/main -> press-1",
            "pvc/data-mill-0 -> mill-0",
            "pvc/data-mill-1 -> mill-1",
            "pvc/harvest -> press-1"
        ]
    );
    let source = plan.sources.last().unwrap();
    assert_eq!(
        source.target,
        Some(Target::Volume(TargetVolume {
            namespace: "shop".into(),
            pod: "press-1".into(),
            pod_uid: "uid-press-1".into(),
            claim: "harvest".into()
        }))
    );
    assert_eq!((source.identity.host.as_str(), source.identity.path.as_str()), ("shop", "/data/harvest"));
    assert_eq!(
        source.identity.tags,
        ["source=pvc/harvest", "run=backup-1/pvc/harvest", "cluster=cluster-1", "pod=press-1"]
    );
}

#[test]
fn only_claim_of_a_pod_that_is_restored_need_not_be_named() {
    let mut change = with_volume("harvest");
    change["metadata"]["annotations"]["stowaway.dev/volumes"] = json!(null);
    change["metadata"]["annotations"]["stowaway.dev/restore"] = json!("on-empty");
    assert_eq!(summary(&plan(&[pod("deployment", "mill", "mill-1", &change)])), ["pvc/harvest -> mill-1"]);
}

//! Tests that a pod counts as restoring until its restore step has succeeded.

use super::*;
use crate::plan::sources::Workload;

/// A pod whose restore step fills `casks` and is in this state. The claim `cellar` stores the repository.
fn app(name: &str, state: &Value, restarts: i32) -> ObservedPod {
    let mut spec = pod_spec("data", "casks");
    spec["volumes"][0]["name"] = "stowaway-repository".into();
    spec["initContainers"] = json!([{
        "name": "stowaway-restore", "args": ["restore-step", "--volume=data=pvc/casks"],
        "volumeMounts": [
            { "name": "data", "mountPath": "/stowaway-volumes/data" },
            { "name": "stowaway-repository", "mountPath": "/repository" },
        ],
    }]);
    let status = json!({ "name": "stowaway-restore", "image": "", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state });
    let status = json!({ "phase": "Pending", "initContainerStatuses": [status] });
    let pod = json!({ "metadata": { "name": name }, "spec": spec, "status": status });
    let workload = Workload { kind: "statefulset".into(), name: "ledger".into() };
    ObservedPod { pod: serde_json::from_value(pod).unwrap(), workload }
}

fn running() -> Value {
    json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })
}

fn ended(code: i32) -> Value {
    json!({ "terminated": { "exitCode": code } })
}

fn crash_loop() -> Value {
    json!({ "waiting": { "reason": "CrashLoopBackOff" } })
}

fn uses_of(apps: &[ObservedPod]) -> ClaimUses {
    ClaimUses::of(OwnRuns { apps, ..OwnRuns::default() })
}

fn claim(name: &str) -> Subject {
    Subject::Claim(name.to_owned())
}

#[test]
fn claim_whose_step_has_not_ended_well_is_being_restored() {
    for (state, restarts) in
        [(running(), 0), (running(), 2), (crash_loop(), 7), (ended(1), 0), (ended(137), 3), (json!({}), 0)]
    {
        let uses = uses_of(&[app("ledger-0", &state, restarts)]);
        let message = uses.restore_step(&claim("casks")).unwrap();
        assert!(message.contains("pod ledger-0"), "{message}");
        assert_eq!(uses.restore_step(&claim("cellar")), None, "the repository is not restored into");
    }
    let mut unseen = app("ledger-0", &running(), 0);
    unseen.pod.status = None;
    assert!(uses_of(&[unseen]).restore_step(&claim("casks")).is_some(), "a pod which no kubelet has started yet");
}

#[test]
fn command_of_a_pod_whose_step_runs_is_not_dumped() {
    let uses = uses_of(&[app("ledger-0", &running(), 0)]);
    assert!(uses.restore_step(&Subject::of("pod/ledger-0/main", "ledger-0")).is_some());
    assert_eq!(uses.restore_step(&Subject::of("pod/other/main", "other")), None);
}

#[test]
fn step_that_has_ended_well_or_whose_pod_is_over_restores_nothing() {
    assert_eq!(uses_of(&[app("ledger-0", &ended(0), 0)]).restore_step(&claim("casks")), None);
    for phase in ["Succeeded", "Failed"] {
        let mut over = app("ledger-0", &ended(1), 0);
        over.pod.status.as_mut().unwrap().phase = Some(phase.into());
        assert_eq!(uses_of(&[over]).restore_step(&claim("casks")), None, "{phase}");
    }
}

#[test]
fn rollout_that_is_stuck_in_its_step_does_not_stop_the_backups_of_the_pod_that_runs() {
    let apps = [app("ledger-a", &ended(0), 0), app("ledger-b", &crash_loop(), 9)];
    assert_eq!(uses_of(&apps).restore_step(&claim("casks")), None);
}

#[test]
fn restore_waits_for_a_running_step_and_not_for_one_that_fails() {
    let waits = |state: &Value, scales_down: bool| {
        let uses = uses_of(&[app("ledger-0", state, 3)]);
        uses.before_restore(&claim("casks"), &owner("another"), scales_down).is_some()
    };
    assert!(waits(&running(), false));
    assert!(!waits(&running(), true), "its pod is ended first");
    assert!(!waits(&crash_loop(), false) && !waits(&ended(1), false));
}

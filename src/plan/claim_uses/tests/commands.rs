//! Tests that a command is not dumped while another command restores into its server, and vice versa.

use super::*;
use crate::plan::{
    fixtures::repository,
    sources::{ObservedPod, Workload},
};

/// A Job which execs in a pod, with the controller's task.
fn exec_job(kind: &str, source: &str, pod: &str) -> Job {
    let mut job = job(kind, source, "tmp", "x");
    let task = json!({
        "backend": {}, "later": true,
        "kind": { "do": kind, "target": { "namespace": NAMESPACE, "pod": pod, "container": "press" } },
    });
    let runner = json!({
        "name": "runner", "env": [{ "name": "STOWAWAY_TASK", "value": task.to_string() }],
    });
    let spec = job.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    spec.containers = vec![serde_json::from_value(runner).unwrap()];
    job
}

/// Whether a Restore waits, and whether a backup waits.
fn waiting(runs: OwnRuns<'_>, source: &str, pod: &str) -> [bool; 2] {
    let (uses, subject) = (ClaimUses::of(runs), Subject::of(source, pod));
    [uses.before_restore(&subject, &owner("another"), false), uses.before_backup(&subject)].map(|one| one.is_some())
}

fn of_jobs(jobs: &[Job], source: &str, pod: &str) -> [bool; 2] {
    waiting(OwnRuns { jobs, ..OwnRuns::default() }, source, pod)
}

const MILL: &str = "deployment/mill/press";

#[test]
fn backup_waits_for_a_restore_into_the_same_pod_and_a_restore_for_a_backup_of_it() {
    for (kind, expected) in [("restore", [true, true]), ("backup", [true, false])] {
        let jobs = [exec_job(kind, MILL, "mill-1")];
        for source in [MILL, "deployment/mill/press/roles", "deployment/mill/vat"] {
            assert_eq!(of_jobs(&jobs, source, "mill-1"), expected, "{kind} {source}");
        }
        assert_eq!(of_jobs(&jobs, "deployment/well/press", "well-1"), [false, false], "{kind}");
        let over = [over(jobs[0].clone(), "Failed")];
        assert_eq!(of_jobs(&over, MILL, "mill-1"), [false, false], "{kind}");
    }
    // Another pod of the same workload has the same state. A Restore may name a pod of another workload.
    assert_eq!(of_jobs(&[exec_job("backup", MILL, "mill-1")], MILL, "mill-2"), [true, false]);
    assert_eq!(of_jobs(&[exec_job("restore", MILL, "well-1")], MILL, "mill-1"), [false, false]);
    assert_eq!(of_jobs(&[exec_job("restore", MILL, "well-1")], "deployment/well/press", "well-1"), [true, true]);
}

#[test]
fn pod_of_a_restore_that_outlives_its_job_may_still_write() {
    let mut left = pod("restore", "uid-of-gone", "Running");
    left.spec = exec_job("restore", MILL, "mill-1").spec.unwrap().template.spec;
    let uses = ClaimUses::of(OwnRuns { pods: &[left], ..OwnRuns::default() });
    assert!(uses.lingering_pod(&Subject::of(MILL, "mill-1")).is_some());
    assert_eq!(uses.lingering_pod(&Subject::of("deployment/well/press", "well-1")), None);
}

#[test]
fn restore_without_a_verdict_comes_before_a_backup_of_its_source() {
    let before = |spec: &Value, source: &str, pod: &str| {
        waiting(OwnRuns { restores: &[restore(spec)], ..OwnRuns::default() }, source, pod)
    };
    let by_source = json!({ "from": { "source": MILL } });
    assert_eq!(before(&by_source, "deployment/mill/press/roles", "mill-1"), [false, true]);
    assert_eq!(before(&by_source, "deployment/well/press", "well-1"), [false, false]);
    let by_pod = json!({ "from": { "source": MILL }, "to": { "pod": "well-1" } });
    assert_eq!(before(&by_pod, "deployment/well/press", "well-1"), [false, true]);
    assert_eq!(before(&by_pod, MILL, "mill-1"), [false, false]);
    let volume = repository("x", Ok(())).spec.volume;
    let archive = json!({ "from": { "source": MILL }, "to": { "archive": { "name": "x.tar", "volume": volume } } });
    assert_eq!(before(&archive, MILL, "mill-1"), [false, false], "an archive is only read from the repository");
}

#[test]
fn claim_and_command_of_one_pod_exclude_each_other() {
    let pod = json!({ "metadata": { "name": "mill-1" }, "spec": pod_spec("v", "casks") });
    let workload = Workload { kind: "deployment".into(), name: "mill".into() };
    let apps = [ObservedPod { pod: serde_json::from_value(pod).unwrap(), workload }];
    let runs = |jobs: &[Job], source: &str, pod: &str| {
        waiting(OwnRuns { jobs, apps: &apps, ..OwnRuns::default() }, source, pod)
    };
    assert_eq!(runs(&[exec_job("restore", MILL, "mill-1")], "pvc/casks", ""), [true, true]);
    assert_eq!(runs(&[job("restore", "pvc/casks", "target", "casks")], MILL, "mill-1"), [true, true]);
    assert_eq!(runs(&[job("restore", "pvc/casks", "target", "casks")], "deployment/well/press", "well-1"), [false; 2]);
}

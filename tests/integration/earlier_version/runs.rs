//! Jobs, tasks, reports and injected pods of the earlier version, with which this version works after an upgrade.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use serde_json::Value;
use stowaway::{
    model::{DataPart, MaintenanceReport, Proof, Reason, RunReport, Task, Verdict, mounts},
    plan::{
        InjectedVersion, StoredJob, injected_version, is_run, labels,
        names::{self, OwnerRef},
        stored_job,
    },
    watchdog::{InjectionState, injection_state},
};

use super::fixtures;
use crate::injection::{self, IMAGE};

fn report(name: &str) -> RunReport {
    let (_, text) = fixtures("reports").into_iter().find(|(file, _)| file == name).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn tasks_are_parsed() {
    for (name, text) in fixtures("tasks") {
        let task: Task = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(task.not_before, None, "{name}");
    }
}

#[test]
fn reports_are_parsed_with_what_maintenance_has_found() {
    let backup = report("backup-claim");
    assert_eq!((backup.verdict, backup.reason, backup.proof), (Verdict::Succeeded, Reason::Completed, Proof::Sealed));
    assert!(backup.bytes > 0 && backup.snapshot.is_some_and(|id| id.len() == 64));
    let opened = report("init");
    assert!(opened.repository_id.is_some_and(|id| id.len() == 64) && opened.keys == Some(1));
    assert!(matches!(report("prune").maintenance, Some(MaintenanceReport::Prune { kept, .. }) if kept > 0));
    assert!(matches!(report("repack").maintenance, Some(MaintenanceReport::Repack { .. })));
    let Some(MaintenanceReport::Check { part, findings: 0, snapshots, damaged_packs: None, .. }) =
        report("check").maintenance
    else {
        panic!("{:?}", report("check"));
    };
    assert!(part == DataPart::ALL && snapshots > 0);
    let damaged = report("check-damaged");
    assert_eq!(damaged.reason, Reason::RepositoryDamaged);
    assert!(matches!(damaged.maintenance, Some(MaintenanceReport::Check { findings, .. }) if findings > 0));
    assert!(report("restore-volume").safety_snapshot.is_some());
    assert_eq!(report("restore-volume-not-empty").reason, Reason::TargetNotEmpty);
    assert!(report("restore-archive").archive.is_some_and(|archive| archive.sha256.len() == 64));
    assert_eq!(report("init-not-found").reason, Reason::RepositoryNotFound);
}

#[test]
fn jobs_are_runs_whose_results_are_taken_over() {
    for (name, text) in fixtures("jobs") {
        let mut job: Job = yaml_serde::from_str(text.trim_start_matches("---\n")).unwrap();
        assert!(is_run(&job), "{name}");
        let owner = job.owner_references()[0].clone();
        let owner = OwnerRef {
            api_version: owner.api_version,
            kind: owner.kind,
            namespace: job.namespace().unwrap(),
            name: owner.name,
            uid: owner.uid,
            since: None,
        };
        let attempt = names::attempt(&job);
        assert_eq!(attempt, if ["backup", "restore-volume"].contains(&name.as_str()) { 2 } else { 1 }, "{name}");
        // The name by which this version looks for the Job of the same attempt.
        if let Some(source) = job.annotations().get(labels::SOURCE) {
            assert_eq!(names::job_name(&owner, source, attempt), job.name_any(), "{name}");
        }
        let pod = job.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        let variables = pod.containers[0].env.as_ref().unwrap();
        let task = variables.iter().find(|variable| variable.name == mounts::TASK_VARIABLE).unwrap();
        serde_json::from_str::<Task>(task.value.as_ref().unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        // This version would plan it with other settings.
        let mut planned = job.clone();
        planned.spec.as_mut().unwrap().active_deadline_seconds = Some(60);
        assert_eq!(stored_job(&job, &planned, &owner).unwrap(), StoredJob::Outdated, "{name}");
        job.spec.as_mut().unwrap().suspend = Some(false);
        assert_eq!(stored_job(&job, &planned, &owner).unwrap(), StoredJob::Started, "{name}");
    }
}

#[test]
fn injected_pods_are_recognized_and_not_replaced() {
    for (name, text) in fixtures("pods") {
        let pod: Value = yaml_serde::from_str(&text).unwrap();
        let state = injection_state(&pod, &injection::watchdog::facts());
        assert!(matches!(state, InjectionState::Injected | InjectionState::Outdated), "{name}: {state:?}");
        let typed: Pod = serde_json::from_value(pod).unwrap();
        let spec = typed.spec.unwrap();
        assert_eq!(injected_version(&spec, IMAGE), Some(InjectedVersion::Current), "{name}");
        assert_eq!(injected_version(&spec, "registry.example/stowaway:next"), Some(InjectedVersion::Other), "{name}");
    }
}

//! Objects for the tests of plans. Their names are unusual, so that no test passes because two names agree by chance.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus},
        core::v1::{
            ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
            Pod, PodStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::json;

use super::{
    applied::{Applied, Refused},
    claim_uses::{ClaimUses, OwnRuns},
    jobs::ObservedJob,
    names::{self, OwnerRef, RunKind},
    sources::{ObservedPod, PlannedSource, SourcePlan, Target, Workload},
};
use crate::{
    api::{Backup, CARRIED_OUT, Repository, RepositoryStatus, Restore, set_condition},
    model::{Failure, Proof, Reason, RunReport, SnapshotIdentity, TargetCommand, Verdict},
};

pub const NAMESPACE: &str = "orchard";

/// The time so many seconds after the start of the tests' clock.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub fn backup(spec: &serde_json::Value) -> Backup {
    let mut backup: Backup = serde_json::from_value(json!({
        "apiVersion": "stowaway.dev/v1alpha1",
        "kind": "Backup",
        "metadata": { "name": "evening", "namespace": NAMESPACE, "uid": "uid-of-evening", "generation": 1 },
        "spec": {}
    }))
    .unwrap();
    backup.spec = serde_json::from_value(spec.clone()).unwrap();
    backup
}

pub fn restore(spec: &serde_json::Value) -> Restore {
    serde_json::from_value(json!({
        "apiVersion": "stowaway.dev/v1alpha1",
        "kind": "Restore",
        "metadata": { "name": "undo", "namespace": NAMESPACE, "uid": "uid-of-undo", "generation": 1 },
        "spec": spec
    }))
    .unwrap()
}

/// A Repository which was never reconciled.
pub fn new_repository(name: &str) -> Repository {
    serde_json::from_value(json!({
        "apiVersion": "stowaway.dev/v1alpha1",
        "kind": "Repository",
        "metadata": { "name": name, "namespace": NAMESPACE, "uid": format!("uid-of-{name}"), "generation": 1 },
        "spec": {
            "volume": { "persistentVolumeClaim": { "claimName": "cellar" } },
            "passwordSecretRef": { "name": "cellar-key" }
        }
    }))
    .unwrap()
}

pub fn repository(name: &str, ready: Result<(), (&str, &str)>) -> Repository {
    let mut repository = new_repository(name);
    let mut status = RepositoryStatus { observed_generation: Some(1), ..RepositoryStatus::default() };
    let condition = ready.err().unwrap_or(("Completed", ""));
    set_condition(&mut status.conditions, "Ready", ready.is_ok(), condition, Some(1), at(0));
    repository.status = Some(status);
    repository
}

pub fn planned(name: &str, pod: Option<&str>) -> PlannedSource {
    PlannedSource {
        name: name.parse().unwrap(),
        pod: pod.unwrap_or("no-pod").into(),
        target: pod.map(|pod| {
            Target::Command(TargetCommand {
                namespace: NAMESPACE.into(),
                pod: pod.into(),
                pod_uid: format!("uid-of-{pod}"),
                container: "press".into(),
                command: None,
            })
        }),
        identity: SnapshotIdentity { host: NAMESPACE.into(), path: "/orchard-press".into(), tags: vec![] },
        alternative_path: "/orchard-mill-press".into(),
        repository: None,
        timeout: Some(Duration::from_mins(1)),
        idle_timeout: None,
        allow_empty: false,
        accept_unproven: false,
        allow_missing: false,
        skip_format_check: false,
        exclude: Vec::new(),
        accept_shrunken: false,
        unfilled: None,
        has_restore_command: true,
        note: String::new(),
    }
}

pub fn plan_of(sources: &[PlannedSource]) -> SourcePlan {
    SourcePlan { sources: sources.to_vec(), ..SourcePlan::default() }
}

/// The state of a test's Job.
pub enum Scene<'a> {
    Suspended,
    /// The Job is started and has no pod.
    NoPod,
    /// The runner's container waits, for this reason.
    Waits(&'a str),
    Runs,
    /// The runner's container ended with this termination message.
    Ended(&'a str),
    /// The Job failed for this reason, and its pod was deleted.
    FailedAlone(&'a str),
    /// The Job is complete, and its pod was deleted.
    CompleteAlone,
}

/// A Job which was started at [`at`]`(0)`.
pub fn job(name: &str, scene: &Scene<'_>) -> ObservedJob {
    let condition = |kind: &str, reason: &str| JobCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        ..JobCondition::default()
    };
    let conditions = match scene {
        Scene::FailedAlone(reason) => vec![condition("Failed", reason)],
        Scene::CompleteAlone => vec![condition("Complete", "CompletionsReached")],
        _ => vec![],
    };
    let state = match scene {
        Scene::Waits(reason) => Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).into()),
                message: Some("a message of Kubernetes".into()),
            }),
            ..ContainerState::default()
        }),
        Scene::Runs => {
            Some(ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() })
        }
        Scene::Ended(message) => Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("OOMKilled".into()),
                message: Some((*message).into()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        }),
        _ => None,
    };
    let pod = |state| Pod {
        status: Some(PodStatus {
            container_statuses: Some(vec![ContainerStatus {
                name: "runner".into(),
                state: Some(state),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        }),
        ..Pod::default()
    };
    ObservedJob {
        progress: None,
        job: Job {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(JobSpec { suspend: Some(matches!(scene, Scene::Suspended)), ..JobSpec::default() }),
            status: Some(JobStatus {
                start_time: Some(Time(at(0))),
                conditions: Some(conditions),
                ..JobStatus::default()
            }),
        },
        pods: state.map(pod).into_iter().collect(),
        warning_events: vec![],
    }
}

/// The name of an attempt's Job.
pub fn job_name<K: kube::Resource<DynamicType = ()>>(owner: &K, source: &str, attempt: u32) -> String {
    names::job_name(&OwnerRef::of(owner).unwrap(), source, attempt)
}

/// The report of a successful run.
pub fn success() -> RunReport {
    RunReport {
        verdict: Verdict::Succeeded,
        reason: Reason::Completed,
        bytes: 4711,
        proof: Proof::Acknowledged,
        snapshot: Some("ab".repeat(32)),
        repository_id: Some("cd".repeat(32)),
        ..RunReport::failed(Failure::new(Reason::Completed, ""), Duration::from_secs(3))
    }
}

pub fn failure(reason: Reason) -> RunReport {
    RunReport::failed(Failure::new(reason, "the press broke"), Duration::from_secs(3))
}

/// The result of a plan of which the API server refused this one object.
pub fn refused(kind: RunKind, source: &str, reason: Reason, message: &str) -> Applied {
    let refused = Refused { kind, source: source.into(), reason, message: message.into(), is_temporary: false };
    Applied { no_claim_made: false, refused: vec![refused] }
}

/// The uses of a Restore into this claim. The Restore may be over, and a pod without a Job may be left.
pub fn restoring(claim: &str, is_over: bool, is_left: bool) -> ClaimUses {
    let mut restore = restore(&json!({ "from": { "source": "pvc/x" }, "to": { "claim": { "name": claim } } }));
    if is_over {
        restore.status.get_or_insert_default().outcome.verdict = Some(Verdict::Failed);
    }
    let pod = json!({
        "metadata": { "name": "undo-1", "labels": { "stowaway.dev/kind": "restore", "stowaway.dev/run": "undo" } },
        "spec": { "containers": [], "volumes": [{ "name": "target", "persistentVolumeClaim": { "claimName": claim } }] },
    });
    let pods = if is_left { vec![serde_json::from_value(pod).unwrap()] } else { vec![] };
    ClaimUses::of(OwnRuns { restores: &[restore], pods: &pods, ..OwnRuns::default() })
}

/// A Restore whose Job was allowed to run, and which ended at this time.
pub fn ended_restore(name: &str, spec: &serde_json::Value, end: (Verdict, Reason), seconds: i64) -> Restore {
    let mut restore = restore(spec);
    restore.metadata.name = Some(name.to_owned());
    restore.metadata.annotations = Some([(CARRIED_OUT.to_owned(), "uid-of-undo".to_owned())].into());
    let status = restore.status.get_or_insert_default();
    (status.outcome.verdict, status.outcome.reason) = (Some(end.0), end.1.to_string());
    status.completion_time = Some(Time(at(seconds)));
    restore
}

/// The uses of a Backup whose Job dumps this source in this pod.
pub fn dumping(source: &str, pod: &str) -> ClaimUses {
    let task = json!({ "kind": { "do": "backup", "target": { "pod": pod } } });
    let job = json!({
        "metadata": {
            "name": "evening-1", "labels": { "stowaway.dev/kind": "backup", "stowaway.dev/run": "evening" },
            "annotations": { "stowaway.dev/source": source },
        },
        "spec": { "template": { "spec": { "containers": [
            { "name": "runner", "env": [{ "name": "STOWAWAY_TASK", "value": task.to_string() }] },
        ] } } },
    });
    ClaimUses::of(OwnRuns { jobs: &[serde_json::from_value(job).unwrap()], ..OwnRuns::default() })
}

/// The uses of a pod whose restore step of this claim has failed.
pub fn stepping(pod: &str, claim: &str) -> ClaimUses {
    let pod = json!({
        "metadata": { "name": pod },
        "spec": {
            "containers": [], "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }],
            "initContainers": [{ "name": "stowaway-restore", "args": [format!("--volume=data=pvc/{claim}")] }],
        },
        "status": { "phase": "Pending", "initContainerStatuses": [{
            "name": "stowaway-restore", "image": "", "imageID": "", "ready": false, "restartCount": 4,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        }] },
    });
    let workload = Workload { kind: "pod".into(), name: "x".into() };
    let apps = [ObservedPod { pod: serde_json::from_value(pod).unwrap(), workload }];
    ClaimUses::of(OwnRuns { apps: &apps, ..OwnRuns::default() })
}

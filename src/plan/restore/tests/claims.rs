//! Tests that a Restore into a claim never writes while an app uses the claim, and that a workload which it scaled down
//! is always scaled back.

mod held;
mod lost;
mod made;
mod runs_as;
mod uses;

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::ResourceExt;

use super::*;
use crate::{
    api::{SCALED_FINALIZER, SCALED_FROM},
    model::{SnapshotIdentity, VolumeRestore},
    plan::{
        actions::{ScaleTo, TargetMount},
        claim_uses::ClaimUses,
        fixtures::job_name,
    },
};

const SOURCE: &str = "pvc/casks";

/// A cluster with one Restore into a claim, in which the planned actions are carried out.
struct Cellar {
    world: World,
    claim: Option<PersistentVolumeClaim>,
    scale: Option<ObservedScale>,
    scaled_down_by: Option<&'static str>,
    uses: ClaimUses,
    namespace: Namespace,
    assigns_users: bool,
    storage_classes: Vec<String>,
}

fn claim(more: &serde_json::Value) -> PersistentVolumeClaim {
    let mut claim = json!({ "metadata": { "name": "casks" }, "spec": { "accessModes": ["ReadWriteOnce"] } });
    for (key, value) in more.as_object().unwrap() {
        claim[key] = value.clone();
    }
    serde_json::from_value(claim).unwrap()
}

/// A pod which mounts the claim, on a node of its own.
fn user(name: &str) -> ObservedPod {
    let pod = json!({
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "nodeName": format!("node-of-{name}"), "containers": [],
            "tolerations": [{ "key": "damp", "operator": "Exists" }],
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "casks" } }],
        },
        "status": { "phase": "Running" },
    });
    ObservedPod {
        pod: serde_json::from_value(pod).unwrap(),
        workload: Workload { kind: "pod".into(), name: name.into() },
    }
}

impl Cellar {
    fn new(to: &serde_json::Value, more: &serde_json::Value) -> Self {
        let mut spec = json!({ "from": { "source": SOURCE }, "to": { "claim": { "name": "casks" } } });
        for (key, value) in to.as_object().unwrap() {
            spec["to"]["claim"][key] = value.clone();
        }
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut world = World::new(&spec);
        world.pods.clear();
        Self {
            world,
            claim: Some(claim(&json!({}))),
            scale: None,
            scaled_down_by: None,
            uses: ClaimUses::default(),
            namespace: Namespace::default(),
            assigns_users: false,
            storage_classes: vec!["oak".into(), "elm".into()],
        }
    }

    fn step(&mut self, seconds: i64) -> Actions {
        let world = &mut self.world;
        let facts = RestoreFacts {
            repositories: &world.repositories,
            jobs: &world.jobs,
            pods: &world.pods,
            sources: &world.sources,
            pruned: &world.pruned,
            uses: &self.uses,
            claims: &[],
            claim: Some(TargetFacts {
                claim: self.claim.as_ref(),
                scale: self.scale.as_ref(),
                scaled_down_by: self.scaled_down_by,
                namespace: &self.namespace,
                assigns_users: self.assigns_users,
                cluster: "uid-of-cluster",
                storage_classes: &self.storage_classes,
            }),
        };
        let (status, actions) = plan_restore(&world.restore, facts, at(seconds));
        world.restore.status = Some(status);
        let around = &actions.restore;
        if let Some(was) = &around.hold {
            world.restore.metadata.finalizers = Some(vec![SCALED_FINALIZER.into()]);
            world.restore.annotations_mut().insert(SCALED_FROM.into(), was.clone());
        }
        if let Some(ScaleTo { replicas, .. }) = around.scale {
            self.scale.as_mut().unwrap().replicas = replicas;
        }
        if around.release {
            world.restore.metadata.finalizers = None;
        }
        actions
    }

    fn status(&self) -> &RestoreStatus {
        self.world.status()
    }

    fn failed_for(&mut self, seconds: i64) -> String {
        let actions = self.step(seconds);
        assert!(actions.start.is_empty());
        assert_eq!(self.status().outcome.verdict, Some(Verdict::Failed), "{:?}", self.status());
        self.status().outcome.reason.clone()
    }

    /// The only Job, and its task.
    fn started(&mut self, seconds: i64) -> (StartJob, VolumeRestore) {
        let mut actions = self.step(seconds);
        let start = actions.start.pop().unwrap_or_else(|| panic!("{:?}", self.status()));
        match start.task.clone() {
            TaskKind::RestoreVolume(run) => (start, run),
            task => panic!("{task:?}"),
        }
    }

    /// How that Job mounts the claim.
    fn mount(&mut self, seconds: i64) -> TargetMount {
        mount_of(self.started(seconds).0)
    }

    fn ends(&mut self, report: &RunReport) {
        let name = self.status().job.clone().unwrap();
        self.world.jobs.push(job(&name, &Scene::Ended(&report.to_termination_message())));
    }
}

fn mount_of(start: StartJob) -> TargetMount {
    match start.target {
        Some(RestoreTarget::Claim(mount)) => mount,
        target => panic!("{target:?}"),
    }
}

fn proven() -> RunReport {
    let safety_snapshots = vec!["cd".repeat(32), "ef".repeat(32)];
    RunReport { proof: Proof::Sealed, safety_snapshot: Some("ef".repeat(32)), safety_snapshots, ..success() }
}

#[test]
fn job_mounts_the_claim_and_its_task_names_what_to_restore() {
    let from = json!({ "source": SOURCE, "asOf": "2026-05-04T03:02:01Z", "paths": ["a/b"] });
    let mut cellar = Cellar::new(&json!({ "path": "old" }), &json!({ "from": from, "timeout": "90s" }));
    let (start, run) = cellar.started(0);
    let mount = mount_of(start);
    assert_eq!((mount.claim.as_str(), mount.as_root, mount.node), ("casks", true, None));
    assert_eq!((run.from.source.as_str(), run.from.host.as_deref()), (SOURCE, Some(NAMESPACE)));
    assert_eq!(run.from.as_of.unwrap().to_string(), "2026-05-04T03:02:01Z");
    assert_eq!((run.paths, run.folder.as_str(), run.overwrite), (vec!["a/b".to_owned()], "old", None));
    assert_eq!(run.timeout, Some(Duration::from_secs(90)));
    cellar.ends(&proven());
    cellar.step(1);
    assert_eq!(cellar.status().safety_snapshot, Some("ef".repeat(32)));
    assert_eq!(cellar.status().safety_snapshots, ["cd".repeat(32), "ef".repeat(32)]);
    assert!(condition_is_true(&cellar.status().conditions, COMPLETE));
}

#[test]
fn snapshots_of_another_host_are_restored_only_on_request() {
    let from = json!({ "source": SOURCE, "host": "elsewhere" });
    let (_, run) = Cellar::new(&json!({}), &json!({ "from": from })).started(0);
    assert_eq!(run.from.host.as_deref(), Some("elsewhere"));
}

#[test]
fn safety_snapshot_is_one_of_the_claim_and_never_its_newest() {
    let (_, run) = Cellar::new(&json!({ "overwrite": true }), &json!({})).started(0);
    let identity = run.overwrite.unwrap();
    assert_eq!((identity.host.as_str(), identity.path.as_str()), (NAMESPACE, "/data/casks"));
    assert_eq!(identity.tag("source"), Some(SOURCE));
    assert_eq!(identity.tag("cluster"), Some("uid-of-cluster"));
    assert!(identity.tags.iter().any(|tag| tag == SnapshotIdentity::SAFETY), "{:?}", identity.tags);
}

#[test]
fn claims_that_cannot_be_written_to_are_refused() {
    let lost = claim(&json!({ "status": { "phase": "Lost" } }));
    for (claim, reason) in [(None, "InvalidRequest"), (Some(lost), "InvalidRequest")] {
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        cellar.claim = claim;
        assert_eq!(cellar.failed_for(0), reason);
    }
    let dump = json!({ "source": MILL, "paths": ["a"] });
    assert_eq!(Cellar::new(&json!({}), &json!({ "from": dump })).failed_for(0), "InvalidRequest");
    assert_eq!(Cellar::new(&json!({ "path": "a/../../b" }), &json!({})).failed_for(0), "InvalidRequest");
}

#[test]
fn claim_that_is_being_deleted_is_waited_for() {
    let mut cellar = Cellar::new(&json!({}), &json!({}));
    cellar.claim = Some(claim(&json!({ "metadata": { "deletionTimestamp": "2026-05-04T03:02:01Z" } })));
    assert!(cellar.step(0).requeue_after.is_some());
    assert_eq!(cellar.status().outcome.verdict, None);
    assert_eq!(cellar.failed_for(301), "TargetInUse");
}

#[test]
fn claim_that_pods_work_on_is_left_alone_unless_it_may_be_overwritten() {
    let mut cellar = Cellar::new(&json!({}), &json!({}));
    cellar.world.pods = vec![user("cooper")];
    assert_eq!(cellar.failed_for(0), "TargetInUse");
    assert!(cellar.status().outcome.message.contains("cooper"));

    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    cellar.world.pods = vec![user("cooper")];
    let mount = cellar.mount(0);
    assert_eq!(mount.node.as_deref(), Some("node-of-cooper"));
    assert_eq!(mount.tolerations[0].key.as_deref(), Some("damp"));

    // A claim for many nodes can be mounted on any node, and a claim for one pod on none.
    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    cellar.world.pods = vec![user("cooper")];
    cellar.claim = Some(claim(&json!({ "spec": { "accessModes": ["ReadWriteMany"] } })));
    assert_eq!(cellar.mount(0).node, None);
    let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    cellar.world.pods = vec![user("cooper")];
    cellar.claim = Some(claim(&json!({ "spec": { "accessModes": ["ReadWriteOncePod"] } })));
    assert_eq!(cellar.failed_for(0), "TargetInUse");

    // A pod which has ended, or which mounts another claim, does not block the Restore.
    let mut cellar = Cellar::new(&json!({}), &json!({}));
    let mut ended = user("done");
    ended.pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut other = user("other");
    other.pod.spec.as_mut().unwrap().volumes = None;
    cellar.world.pods = vec![ended, other];
    assert_eq!(cellar.mount(0).node, None);
}

#[test]
fn run_is_root_unless_namespace_or_user_wants_it_otherwise() {
    let context = |context: serde_json::Value| json!({ "runnerPod": { "securityContext": context } });
    for (is_restricted, more, expected) in [
        (false, json!({}), true),
        (true, json!({}), false),
        (false, context(json!({ "runAsUser": 1000 })), false),
        (false, context(json!({ "runAsNonRoot": true })), false),
        (true, context(json!({ "runAsUser": 0 })), true),
        (false, context(json!({ "fsGroup": 7 })), true),
    ] {
        let mut cellar = Cellar::new(&json!({}), &more);
        if is_restricted {
            let label = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
            cellar.namespace.metadata.labels = Some([label].into());
        }
        assert_eq!(cellar.mount(0).as_root, expected, "{is_restricted} {more}");
    }
    let mut cellar = Cellar::new(&json!({}), &json!({}));
    cellar.assigns_users = true;
    assert!(!cellar.mount(0).as_root);
}

fn scaled_down(replicas: i32, pods: usize) -> Cellar {
    let scale_down = json!({ "scaleDown": { "kind": "StatefulSet", "name": "pump" } });
    let mut cellar = Cellar::new(&json!({}), &scale_down);
    cellar.scale = Some(ObservedScale { uid: "uid-of-pump".into(), replicas, pods, deletes_claims: Some(false) });
    cellar
}

#[test]
fn replicas_of_a_workload_are_recorded_before_it_is_scaled() {
    let mut cellar = scaled_down(3, 3);
    let first = cellar.step(0);
    assert!(first.restore.hold.is_some() && first.restore.scale.is_none() && first.start.is_empty());
    assert_eq!(cellar.status().scaled.as_ref().unwrap().replicas, 3);
    let second = cellar.step(1);
    assert_eq!(second.restore.scale.unwrap().replicas, 0);
    assert!(second.start.is_empty(), "its pods still exist");
    cellar.scale.as_mut().unwrap().pods = 1;
    assert!(cellar.step(2).start.is_empty());
    cellar.scale.as_mut().unwrap().pods = 0;
    cellar.started(3);
    // Another client scales it up while the Job runs.
    let name = cellar.status().job.clone().unwrap();
    cellar.world.jobs = vec![job(&name, &Scene::Runs)];
    cellar.scale.as_mut().unwrap().replicas = 3;
    assert_eq!(cellar.step(4).restore.scale.unwrap().replicas, 0);
}

#[test]
fn workload_comes_back_whatever_came_out() {
    for report in [proven(), failure(Reason::StoreUnavailable), failure(Reason::ResultLost)] {
        let mut cellar = scaled_down(3, 0);
        cellar.step(0);
        cellar.step(1);
        cellar.started(2);
        cellar.ends(&report);
        // In the same plan as the verdict, so that no client reads the verdict before the scale.
        let actions = cellar.step(3);
        assert_eq!(actions.restore.scale.unwrap().replicas, 3, "{:?}", report.reason);
        assert!(actions.restore.release && cellar.status().scaled.as_ref().unwrap().is_back);
        assert_eq!(cellar.status().outcome.verdict, Some(report.verdict));
        assert_eq!(cellar.step(4), Actions::default());
    }
}

#[test]
fn pods_that_do_not_end_are_not_waited_for_for_ever() {
    let mut cellar = scaled_down(2, 2);
    cellar.step(0);
    cellar.step(1);
    cellar.step(299);
    assert_eq!(cellar.status().outcome.verdict, None);
    let actions = cellar.step(300);
    assert_eq!(cellar.status().outcome.reason, "TargetInUse");
    assert_eq!(actions.restore.scale.unwrap().replicas, 2);
}

#[test]
fn deleted_restore_ends_its_job_before_the_workload_comes_back() {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.started(2);
    let name = cellar.status().job.clone().unwrap();
    cellar.world.jobs = vec![job(&name, &Scene::Runs)];
    cellar.world.restore.metadata.deletion_timestamp = Some(Time(at(3)));
    let actions = cellar.step(3);
    assert_eq!((actions.end, actions.restore.scale, actions.restore.release), (vec![name.clone()], None, false));
    assert!(actions.requeue_after.is_some());
    cellar.world.jobs = vec![job(&name, &Scene::FailedAlone("DeadlineExceeded"))];
    let actions = cellar.step(4);
    assert_eq!(actions.restore.scale.unwrap().replicas, 3);
    assert!(actions.restore.release);

    // A lost node does not keep the workload down for ever.
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.started(2);
    cellar.world.jobs = vec![job(&name, &Scene::Runs)];
    cellar.world.restore.metadata.deletion_timestamp = Some(Time(at(3)));
    cellar.step(3);
    assert_eq!(cellar.step(304).restore.scale.unwrap().replicas, 3);
}

#[test]
fn workload_that_is_gone_or_another_one_by_now_is_left_alone() {
    let mut cellar = scaled_down(3, 0);
    cellar.scale = None;
    assert_eq!(cellar.failed_for(0), "InvalidRequest");

    for other in
        [None, Some(ObservedScale { uid: "another".into(), replicas: 0, pods: 0, deletes_claims: Some(false) })]
    {
        let mut cellar = scaled_down(3, 0);
        cellar.step(0);
        cellar.step(1);
        cellar.started(2);
        cellar.ends(&proven());
        cellar.scale = other;
        let actions = cellar.step(3);
        assert!(actions.restore.scale.is_none() && actions.restore.release);
    }
}

#[test]
fn workload_that_was_down_stays_down() {
    let mut cellar = scaled_down(0, 0);
    cellar.step(0);
    cellar.started(1);
    cellar.ends(&proven());
    let actions = cellar.step(2);
    assert!(actions.restore.scale.is_none() && actions.restore.release);
}

#[test]
fn refused_job_scales_the_workload_back() {
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    let mut actions = cellar.step(2);
    let mut status = cellar.status().clone();
    let applied = refused(RunKind::Restore, "pvc/casks", Reason::PodNotStarted, "no quota");
    settle_restore(&mut status, &mut actions, &applied, at(2));
    cellar.world.restore.status = Some(status);
    assert!(cellar.world.restore.finalizers().contains(&SCALED_FINALIZER.to_owned()), "it is reconciled again");
    let actions = cellar.step(3);
    assert_eq!(actions.restore.scale.unwrap().replicas, 3);
    assert!(actions.restore.release);
}

#[test]
fn workload_that_another_client_scaled_up_at_the_end_is_not_left_down() {
    let mut cellar = scaled_down(3, 0);
    cellar.step(0);
    cellar.step(1);
    cellar.started(2);
    cellar.ends(&proven());
    cellar.scale.as_mut().unwrap().replicas = 3;
    cellar.step(3);
    assert_eq!(cellar.scale.as_ref().unwrap().replicas, 3);

    // The same if its pods did not end in time.
    let mut cellar = scaled_down(3, 3);
    cellar.step(0);
    cellar.step(1);
    cellar.scale.as_mut().unwrap().replicas = 3;
    assert_eq!(cellar.failed_for(300), "TargetInUse");
    assert_eq!(cellar.scale.as_ref().unwrap().replicas, 3);
}

#[test]
fn block_device_is_written_as_a_whole_and_only_while_no_pod_mounts_it() {
    let block = || Some(claim(&json!({ "spec": { "volumeMode": "Block", "accessModes": ["ReadWriteMany"] } })));
    let (start, run) = {
        let mut cellar = Cellar::new(&json!({}), &json!({}));
        assert!(!cellar.started(0).1.device);
        let mut cellar = Cellar::new(&json!({ "overwrite": true }), &json!({}));
        cellar.claim = block();
        cellar.started(0)
    };
    let mount = mount_of(start);
    assert!(mount.device && mount.as_root && run.device && run.overwrite.is_some());
    for (to, from) in [
        (json!({ "path": "a" }), json!({ "source": SOURCE })),
        (json!({}), json!({ "source": SOURCE, "paths": ["a"] })),
        (json!({}), json!({ "source": MILL })),
    ] {
        let mut cellar = Cellar::new(&to, &json!({ "from": from }));
        cellar.claim = block();
        assert_eq!(cellar.failed_for(0), "InvalidRequest", "{to} {from}");
    }
    let mut used = Cellar::new(&json!({ "overwrite": true }), &json!({}));
    used.claim = block();
    used.world.pods.push(user("mill-1"));
    assert_eq!(used.failed_for(0), "TargetInUse");
}

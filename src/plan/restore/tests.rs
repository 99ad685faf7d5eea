//! Tests that a Restore finds its target or reports why not, runs once, and is never repeated.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::json;

use super::*;
use crate::{
    api::{COMPLETE, STALLED, condition, condition_is_true},
    plan::{
        fixtures::{
            NAMESPACE, Scene, at, dumping, failure, job, plan_of, planned, refused, repository, restore, success,
        },
        sources::Workload,
    },
};

const MILL: &str = "deployment/mill/press";

struct World {
    restore: Restore,
    repositories: Vec<Repository>,
    sources: SourcePlan,
    pods: Vec<ObservedPod>,
    jobs: Vec<ObservedJob>,
    pruned: BTreeSet<(String, String)>,
    uses: ClaimUses,
    claims: Vec<PersistentVolumeClaim>,
}

impl World {
    fn new(spec: &serde_json::Value) -> Self {
        let container = |name: &str| Container { name: name.into(), ..Container::default() };
        let pod = |name: &str| {
            let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
            pod.metadata.name = Some(name.into());
            pod.metadata.namespace = Some(NAMESPACE.into());
            pod.metadata.uid = Some(format!("uid-of-{name}"));
            pod.spec.as_mut().unwrap().containers = vec![container("press"), container("vat")];
            ObservedPod { pod, workload: Workload { kind: "deployment".into(), name: "mill".into() } }
        };
        Self {
            restore: restore(spec),
            repositories: vec![repository("cellar", Ok(()))],
            sources: plan_of(&[planned(MILL, Some("pod-a"))]),
            pods: vec![pod("pod-a"), pod("pod-b")],
            jobs: vec![],
            pruned: BTreeSet::new(),
            uses: ClaimUses::default(),
            claims: vec![],
        }
    }

    fn step(&mut self, seconds: i64) -> Actions {
        let facts = RestoreFacts {
            repositories: &self.repositories,
            jobs: &self.jobs,
            pods: &self.pods,
            sources: &self.sources,
            claim: None,
            pruned: &self.pruned,
            uses: &self.uses,
            claims: &self.claims,
        };
        let (status, actions) = plan_restore(&self.restore, facts, at(seconds));
        assert!(
            status.outcome.verdict.is_some() || actions.requeue_after.is_some(),
            "a Restore without a verdict is requeued"
        );
        self.restore.status = Some(status);
        actions
    }

    fn status(&self) -> &RestoreStatus {
        self.restore.status.as_ref().unwrap()
    }
}

fn started(spec: &serde_json::Value) -> TargetCommand {
    let mut world = World::new(spec);
    match world.step(0).start.pop().map(|start| start.task) {
        Some(TaskKind::Restore { target, .. }) => target,
        task => panic!("{task:?}, {:?}", world.status()),
    }
}

#[test]
fn task_of_a_command_names_the_host_of_the_snapshots() {
    for (from, expected) in
        [(json!({ "source": MILL }), None), (json!({ "source": MILL, "host": "meadow" }), Some("meadow"))]
    {
        let mut world = World::new(&json!({ "from": from }));
        let task = world.step(0).start.pop().map(|start| start.task);
        let Some(TaskKind::Restore { host, .. }) = task else { panic!("{task:?}") };
        assert_eq!(host.as_deref(), expected);
    }
}

#[test]
fn target_is_what_the_source_denotes_unless_it_is_named() {
    let table = [
        (json!({ "from": { "source": MILL } }), ("pod-a", "press", None)),
        (json!({ "from": { "source": MILL }, "to": { "pod": "pod-b" } }), ("pod-b", "press", None)),
        (json!({ "from": { "source": MILL }, "to": { "container": "vat" } }), ("pod-a", "vat", None)),
        (
            json!({ "from": { "source": "deployment/gone/vat/roles" }, "to": { "pod": "pod-b", "command": ["cat"] } }),
            ("pod-b", "vat", Some("roles")),
        ),
    ];
    for (spec, (pod, container, command)) in table {
        let target = started(&spec);
        assert_eq!((target.pod.as_str(), target.container.as_str()), (pod, container));
        assert_eq!((target.pod_uid, target.command.as_deref()), (format!("uid-of-{pod}"), command));
    }
}

#[test]
fn wrong_target_is_refused_at_once_with_what_there_is() {
    let table = [
        (json!({ "from": { "source": "deployment/pump/press" } }), MILL),
        (json!({ "from": { "source": MILL }, "to": { "pod": "pod-q" } }), "pod-q"),
        (json!({ "from": { "source": MILL }, "to": { "container": "lid" } }), "press, vat"),
        (json!({ "from": { "source": "job/data" }, "to": { "pod": "pod-a" } }), "spec.to.container"),
        (
            json!({ "from": { "source": "pvc/data" }, "to": { "pod": "pod-a", "container": "press" } }),
            "stowaway.dev/restore",
        ),
    ];
    for (spec, hint) in table {
        let mut world = World::new(&spec);
        // A permanent error does not wait for the repository.
        world.repositories.clear();
        let actions = world.step(0);
        let outcome = &world.status().outcome;
        assert_eq!((outcome.verdict, outcome.reason.as_str()), (Some(Verdict::Failed), "InvalidRequest"));
        assert!(outcome.message.contains(hint), "{}", outcome.message);
        assert!(actions.start.is_empty());
    }
}

#[test]
fn unready_repository_is_waited_for_and_its_reason_copied() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.repositories = vec![repository("cellar", Err(("WrongPassword", "no key opens")))];
    world.step(0);
    world.step(299);
    assert_eq!(world.status().outcome.verdict, None);
    world.step(300);
    assert_eq!(world.status().outcome.verdict, Some(Verdict::Failed));
    assert_eq!(world.status().outcome.reason, "WrongPassword");
}

#[test]
fn prune_that_runs_is_waited_for_however_long_it_takes() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.pruned = [(NAMESPACE.into(), "cellar".into())].into();
    for seconds in [0, 299, 300, 30_000] {
        assert!(world.step(seconds).start.is_empty());
        let waiting = condition(&world.status().conditions, COMPLETE).unwrap();
        assert!(waiting.reason == "Waiting" && waiting.message.contains("prune"), "{waiting:?}");
    }
    world.pruned = [("elsewhere".into(), "cellar".into()), (NAMESPACE.into(), "another".into())].into();
    assert_eq!(world.step(30_001).start.len(), 1);
}

#[test]
fn verdict_is_the_runners_and_nothing_is_ever_repeated() {
    for (scene, reason, green) in [
        (success().to_termination_message(), "Completed", true),
        (failure(Reason::StreamCut).to_termination_message(), "StreamCut", false),
        (String::new(), "ResultLost", false),
    ] {
        let mut world = World::new(&json!({ "from": { "source": MILL } }));
        world.step(0);
        let name = world.status().job.clone().unwrap();
        world.jobs = vec![job(&name, &Scene::Ended(&scene))];
        assert_eq!(world.step(1).revoke, [name]);
        let status = world.status();
        assert_eq!((status.outcome.reason.as_str(), status.completion_time.is_some()), (reason, true));
        assert_eq!(condition_is_true(&status.conditions, COMPLETE), green);
        assert_eq!(condition_is_true(&status.conditions, STALLED), !green);
        for seconds in [2, 1000] {
            assert_eq!(world.step(seconds), Actions::default());
        }
    }
}

#[test]
fn restore_into_a_command_beside_an_unfilled_claim_is_carried_out_and_names_what_the_backups_need() {
    let command = "kubectl annotate persistentvolumeclaim casks stowaway.dev/restore-unfinished-";
    for (mark, report, is_named) in [
        ("stowaway.dev/restore-unfinished", success(), true),
        ("stowaway.dev/restore-unfinished", failure(Reason::CommandFailed), false),
        ("note", success(), false),
    ] {
        let mut world = World::new(&json!({ "from": { "source": MILL } }));
        let spec = json!({
            "containers": [{ "name": "press" }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "casks" } }],
        });
        world.pods[0].pod.spec = serde_json::from_value(spec).unwrap();
        let claim = json!({ "metadata": { "name": "casks", "annotations": { mark: "redo" } } });
        world.claims = vec![serde_json::from_value(claim).unwrap()];
        assert_eq!(world.step(0).start.len(), 1);
        let name = world.status().job.clone().unwrap();
        world.jobs = vec![job(&name, &Scene::Ended(&report.to_termination_message()))];
        world.step(1);
        let outcome = &world.status().outcome;
        assert_eq!(outcome.verdict, Some(report.verdict));
        assert_eq!(outcome.message.contains(command), is_named, "{}", outcome.message);
        assert_eq!(outcome.message.contains("no Backup stores claim casks, or a dump of pod pod-a"), is_named);
    }
}

#[test]
fn deleted_job_is_a_lost_result_and_no_second_restore() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.step(0);
    assert!(world.step(1).start.is_empty());
    assert_eq!(world.status().outcome.reason, "ResultLost");
    assert!(world.status().outcome.message.contains("may have taken effect"));
}

mod archives;
mod claims;
mod once;

#[test]
fn restore_into_a_command_waits_for_a_backup_of_it_and_names_it() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.uses = dumping(MILL, "pod-a");
    for seconds in [0, 24 * 3600] {
        assert!(world.step(seconds).start.is_empty());
        let condition = condition(&world.status().conditions, COMPLETE).unwrap();
        assert_eq!(condition.reason, "Waiting");
        assert!(condition.message.contains("Backup evening"), "{}", condition.message);
    }
    world.step(25 * 3600);
    assert_eq!(world.status().outcome.reason, "TargetInUse");
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    world.uses = dumping("deployment/well/press", "pod-b");
    assert_eq!(world.step(0).start.len(), 1);
}

#[test]
fn dump_is_read_from_the_repository_that_the_pod_of_its_source_names() {
    let mut world = World::new(&json!({ "from": { "source": MILL } }));
    let mut default = repository("cellar", Ok(()));
    default.metadata.annotations = Some([(crate::api::IS_DEFAULT.to_owned(), "true".to_owned())].into());
    world.repositories = vec![default, repository("attic", Ok(()))];
    world.sources.sources[0].repository = Some("attic".into());
    assert_eq!(world.step(0).start[0].repository, "attic");
    let name = world.status().job.clone().unwrap();
    world.jobs = vec![job(&name, &Scene::Ended(&success().to_termination_message()))];
    world.step(1);
    let outcome = &world.status().outcome;
    assert!(
        outcome.message.contains("exited 0") && outcome.message.contains("Repository attic"),
        "{}",
        outcome.message
    );
    assert_eq!(world.status().repository_ref.as_ref().unwrap().name, "attic");

    world = World { restore: restore(&json!({ "from": { "source": MILL } })), jobs: vec![], ..world };
    world.repositories.truncate(1);
    world.step(0);
    let waiting = condition(&world.status().conditions, COMPLETE).unwrap();
    for part in ["no Repository attic", "stowaway.dev/repository", "spec.repositoryRef"] {
        assert!(waiting.message.contains(part), "{}", waiting.message);
    }

    // The spec takes precedence, and so does the default Repository for a pod which names none.
    for (named, of_pod, expected) in [(Some("cellar"), Some("attic"), "cellar"), (None, None, "cellar")] {
        let mut spec = json!({ "from": { "source": MILL } });
        if let Some(name) = named {
            spec["repositoryRef"] = json!({ "name": name });
        }
        let (repositories, mut world) = (world.repositories.clone(), World::new(&spec));
        world.repositories = repositories;
        world.sources.sources[0].repository = of_pod.map(str::to_owned);
        assert_eq!(world.step(0).start[0].repository, expected);
    }
}

//! Tests that warnings about annotations name the object to correct, once for each workload.

use k8s_openapi::{
    api::core::v1::{Namespace, PersistentVolumeClaim, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Scene {
    pods: Vec<ObservedPod>,
    workloads: Vec<ObservedWorkload>,
    claims: Vec<PersistentVolumeClaim>,
    selector: Option<LabelSelector>,
}

impl Scene {
    fn plan(&self) -> SourcePlan {
        let namespace = Namespace::default();
        plan_sources(SourceFacts {
            namespace: "shop",
            pods: &self.pods,
            claims: Some(ClaimFacts {
                namespace: &namespace,
                claims: &self.claims,
                repositories: &[],
                snapshots: SnapshotFacts { classes: None, volumes: &[], storage_classes: &[] },
            }),
            selector: self.selector.as_ref(),
            cluster: "cluster-1",
            backup_uid: "backup-1",
            expected: Some(Expected { workloads: Some(&self.workloads), before: &[] }),
        })
    }

    /// Object and key of the mistakes.
    fn mistakes(&self) -> Vec<(String, String)> {
        let warnings = self.plan().warnings.into_iter().filter(|one| one.warning.is_mistake);
        warnings.map(|PlanWarning { object, warning }| (object, warning.key)).collect()
    }
}

fn mistake(object: &str, key: &str) -> (String, String) {
    (object.to_owned(), key.to_owned())
}

/// A pod with these annotations alone.
fn annotated(kind: &str, workload: &str, name: &str, annotations: Value) -> ObservedPod {
    let mut observed = pod(kind, workload, name, &json!({ "metadata": { "annotations": null } }));
    observed.pod.metadata.annotations = serde_json::from_value(annotations).unwrap();
    observed
}

fn workload(kind: &str, name: &str, annotations: &Value) -> ObservedWorkload {
    let template: PodTemplateSpec =
        serde_json::from_value(json!({ "metadata": { "annotations": annotations } })).unwrap();
    let workload = Workload { kind: kind.into(), name: name.into() };
    ObservedWorkload { workload, template, ..ObservedWorkload::default() }
}

#[test]
fn misspelt_annotation_is_named_once_for_all_pods_of_a_workload() {
    for key in ["stowaway.dev/backup-comand", "stowaway.io/backupcommand", "k8up.io/backupcomand"] {
        let wrong = json!({ key: "dump" });
        let set = |number: u8| annotated("statefulset", "db", &format!("db-{number}"), wrong.clone());
        let mut scene = Scene { pods: vec![set(1), set(0), set(2)], ..Scene::default() };
        assert_eq!(scene.mistakes(), [mistake("pod db-0", key)], "without the right to list workloads");
        scene.workloads = vec![workload("statefulset", "db", &wrong)];
        assert_eq!(scene.mistakes(), [mistake("statefulset db", key)]);
        assert!(scene.plan().problems.is_empty() && scene.plan().skipped.is_empty());
    }
}

#[test]
fn mistakes_in_the_template_of_a_workload_without_pods_are_named() {
    let key = "stowaway.dev/timeout";
    let scene = Scene {
        workloads: vec![
            workload("deployment", "mill", &json!({ "stowawy.dev/backupcommand": "dump" })),
            workload("cronjob", "press", &json!({ COMMAND: "dump", key: "soon" })),
        ],
        ..Scene::default()
    };
    let expected = [mistake("cronjob press", key), mistake("deployment mill", "stowawy.dev/backupcommand")];
    assert_eq!(scene.mistakes(), expected);
}

#[test]
fn mistake_that_requests_nothing_fails_and_skips_nothing() {
    let wrong = json!({ "k8up.io/backupcomand": "dump" });
    let mut without_node = annotated("daemonset", "agent", "agent-1", wrong.clone());
    without_node.pod.spec = None;
    let mut pending = annotated("job", "import", "import-1", wrong);
    pending.pod.status = None;
    let plan = Scene { pods: vec![without_node, pending], ..Scene::default() }.plan();
    assert!(plan.problems.is_empty() && plan.skipped.is_empty(), "{plan:?}");
}

#[test]
fn pod_with_a_misspelt_key_does_not_displace_a_pod_that_requests_a_backup() {
    for (is_ready, target) in [("True", Some("mill-a")), ("False", None)] {
        let state = json!({ "status": { "conditions": [{ "type": "Ready", "status": is_ready }] } });
        let good = pod("deployment", "mill", "mill-a", &state);
        // The pod of a changed template is newer and Ready.
        let mut misspelt = annotated("deployment", "mill", "mill-b", json!({ "stowaway.dev/backupcomand": "dump" }));
        misspelt.pod.metadata.creation_timestamp = Some(Time("2026-01-02T00:00:00Z".parse().unwrap()));
        for pods in [vec![good.clone(), misspelt.clone()], vec![misspelt.clone(), good.clone()]] {
            let scene = Scene { pods, ..Scene::default() };
            let plan = scene.plan();
            let [source] = &plan.sources[..] else { panic!("{plan:?}") };
            assert_eq!(source.name.as_str(), "deployment/mill/main");
            assert_eq!(source.target.as_ref().map(Target::pod), target);
            assert_eq!(scene.mistakes(), [mistake("pod mill-b", "stowaway.dev/backupcomand")]);
        }
    }
}

#[test]
fn setting_that_the_label_of_the_namespace_can_give_an_effect_is_no_mistake_of_a_backup() {
    let settings = json!({ "stowaway.dev/timeout": "1h", "stowaway.dev/secrets": "login" });
    let scene = Scene {
        pods: vec![annotated("deployment", "mill", "mill-a", settings.clone())],
        workloads: vec![workload("deployment", "mill", &settings)],
        ..Scene::default()
    };
    assert_eq!((scene.mistakes(), scene.plan().warnings.len()), (vec![], 2));
    assert!(scene.plan().problems.is_empty());
}

#[test]
fn claims_which_the_selector_does_not_match_are_not_named() {
    let claim = |name: &str| -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "app": name, "stowaway.dev/backup": "flase" } },
            "spec": { "accessModes": ["ReadWriteOnce"] },
            "status": { "phase": "Bound", "accessModes": ["ReadWriteOnce"] },
        }))
        .unwrap()
    };
    let mut scene = Scene { claims: vec![claim("cask"), claim("keg")], ..Scene::default() };
    let of = |name: &str| mistake(&format!("PersistentVolumeClaim {name}"), "stowaway.dev/backup");
    assert_eq!(scene.mistakes(), [of("cask"), of("keg")]);
    assert_eq!(scene.plan().sources.len(), 2, "an unclear opt-out excludes nothing");
    scene.selector = serde_json::from_value(json!({ "matchLabels": { "app": "keg" } })).unwrap();
    assert_eq!(scene.mistakes(), [of("keg")]);
}

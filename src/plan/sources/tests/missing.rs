//! Tests that missing sources are named: workloads without pods, sources of the last Backup, pods which end, and data
//! outside of claims.

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{MissingReason, Repository, SkipReason},
    plan::{fixtures, labels},
};

/// An annotated workload, changed by a JSON merge patch.
fn workload(kind: &str, name: &str, wanted: i32, change: &Value) -> ObservedWorkload {
    let mut template = json!({
        "metadata": { "labels": { "app": name }, "annotations": { COMMAND: "dump" } },
        "spec": { "containers": [{ "name": "main" }] },
    });
    merge(&mut template, change);
    ObservedWorkload {
        workload: Workload { kind: kind.into(), name: name.into() },
        template: serde_json::from_value(template).unwrap(),
        wanted,
        ..ObservedWorkload::default()
    }
}

#[derive(Default)]
struct Scene {
    pods: Vec<ObservedPod>,
    workloads: Option<Vec<ObservedWorkload>>,
    before: Vec<EarlierSource>,
    claims: Vec<PersistentVolumeClaim>,
    repositories: Vec<Repository>,
    selector: Option<LabelSelector>,
}

impl Scene {
    fn with(workloads: &[ObservedWorkload]) -> Self {
        Self { workloads: Some(workloads.to_vec()), ..Self::default() }
    }

    fn before(mut self, names: &[&str]) -> Self {
        let earlier = |name: &&str| EarlierSource { name: name.parse().unwrap(), may_be_missing: false };
        self.before = names.iter().map(earlier).collect();
        self
    }

    fn plan(&self) -> SourcePlan {
        let namespace = Namespace::default();
        plan_sources(SourceFacts {
            namespace: "shop",
            pods: &self.pods,
            claims: Some(ClaimFacts {
                namespace: &namespace,
                claims: &self.claims,
                repositories: &self.repositories,
                snapshots: SnapshotFacts { classes: None, volumes: &[], storage_classes: &[] },
            }),
            selector: self.selector.as_ref(),
            cluster: "cluster-1",
            backup_uid: "backup-1",
            expected: Some(Expected { workloads: self.workloads.as_deref(), before: &self.before }),
        })
    }

    fn missing(&self) -> Vec<(String, MissingReason)> {
        self.plan().missing.into_iter().map(|one| (one.name.to_string(), one.reason)).collect()
    }

    fn skipped(&self) -> Vec<(String, SkipReason)> {
        self.plan().skipped.into_iter().map(|one| (one.name, one.reason)).collect()
    }
}

fn named(pairs: &[(&str, MissingReason)]) -> Vec<(String, MissingReason)> {
    pairs.iter().map(|(name, reason)| ((*name).to_owned(), *reason)).collect()
}

fn claim(name: &str, change: &Value) -> PersistentVolumeClaim {
    let mut claim = json!({ "metadata": { "name": name }, "status": { "phase": "Bound" } });
    merge(&mut claim, change);
    serde_json::from_value(claim).unwrap()
}

#[test]
fn annotated_workload_that_is_scaled_to_zero_is_missing_without_any_history() {
    let workloads = [workload("deployment", "mill", 0, &json!({})), workload("statefulset", "ledger", 0, &json!({}))];
    let scene = Scene::with(&workloads);
    let expected = [("deployment/mill/main", MissingReason::NoPod), ("statefulset/ledger/main", MissingReason::NoPod)];
    assert_eq!(scene.missing(), named(&expected));
    let message = &scene.plan().missing[0].message;
    assert!(message.contains("scale it up") && message.contains("stowaway.dev/allow-missing"), "{message}");
    assert!(MissingReason::NoPod.is_loss());
}

#[test]
fn workload_without_pods_may_be_opted_out_on_itself_or_its_template() {
    let on_template = workload(
        "deployment",
        "mill",
        0,
        &json!({ "metadata": { "annotations": { "stowaway.dev/allow-missing": "true" } } }),
    );
    let mut on_itself = workload("deployment", "mill", 0, &json!({}));
    on_itself.metadata.annotations = Some([("stowaway.dev/allow-missing".to_owned(), "true".to_owned())].into());
    for one in [on_template, on_itself] {
        let scene = Scene::with(&[one]).before(&["deployment/mill/main"]);
        assert_eq!(scene.missing(), []);
        assert_eq!(scene.skipped(), [("deployment/mill".to_owned(), SkipReason::OptedOut)]);
        assert!(scene.plan().warnings.is_empty(), "{:?}", scene.plan().warnings);
    }
}

#[test]
fn workload_that_is_to_have_pods_and_has_none_is_waited_for() {
    let mut scene =
        Scene::with(&[workload("deployment", "mill", 1, &json!({})), workload("statefulset", "ledger", 3, &json!({}))]);
    scene.pods = vec![pod("statefulset", "ledger", "ledger-1", &json!({}))];
    let plan = scene.plan();
    let sources: Vec<(&str, bool)> =
        plan.sources.iter().map(|source| (source.name.as_str(), source.target.is_some())).collect();
    let expected = [
        ("deployment/mill/main", false),
        ("pod/ledger-0/main", false),
        ("pod/ledger-1/main", true),
        ("pod/ledger-2/main", false),
    ];
    assert_eq!(sources, expected);
    assert_eq!(plan.missing, []);
}

#[test]
fn pod_of_a_stateful_set_that_was_scaled_down_is_missing_until_it_is_there_or_opted_out() {
    let mut scene = Scene::with(&[workload("statefulset", "ledger", 2, &json!({}))])
        .before(&["pod/ledger-1/main", "pod/ledger-2/main"]);
    scene.pods = ["ledger-0", "ledger-1"].map(|name| pod("statefulset", "ledger", name, &json!({}))).into();
    assert_eq!(scene.missing(), named(&[("pod/ledger-2/main", MissingReason::NoPod)]));
    scene.workloads = Some(vec![workload("statefulset", "ledger", 0, &json!({}))]);
    scene.pods.clear();
    let expected = [("pod/ledger-1/main", MissingReason::NoPod), ("pod/ledger-2/main", MissingReason::NoPod)];
    assert_eq!(scene.missing(), named(&expected), "not again by the name of the StatefulSet");
}

#[test]
fn deleted_workloads_and_annotations_are_reported_and_no_loss() {
    let mut scene = Scene::with(&[
        workload("deployment", "quiet", 1, &json!({ "metadata": { "annotations": null } })),
        workload("daemonset", "agents", 0, &json!({})),
    ]);
    scene.pods = vec![pod("deployment", "quiet", "quiet-1", &json!({ "metadata": { "annotations": null } }))];
    let scene = scene.before(&[
        "deployment/gone/main",
        "deployment/quiet/main",
        "pod/bare/main",
        "daemonset/agents_node-1/main",
        "job/import/main",
        "cronjob/nightly/main",
        "pvc/gone",
    ]);
    let expected = [
        ("daemonset/agents_node-1/main", MissingReason::Gone),
        ("deployment/gone/main", MissingReason::Gone),
        ("deployment/quiet/main", MissingReason::NotRequested),
        ("pod/bare/main", MissingReason::Gone),
        ("pvc/gone", MissingReason::Gone),
    ];
    assert_eq!(scene.missing(), named(&expected));
    assert!(!MissingReason::Gone.is_loss() && !MissingReason::NotRequested.is_loss());
}

#[test]
fn workload_of_a_kind_that_is_not_listed_is_never_called_deleted() {
    let names = ["replicaset/rack/main", "rollout/mill/main"];
    let scene = Scene::with(&[]).before(&names);
    assert_eq!(scene.missing(), named(&names.map(|name| (name, MissingReason::Unknown))));
    assert!(MissingReason::Unknown.is_loss());
    let message = &scene.plan().missing[0].message;
    for part in ["replicaset rack has no pod", "does not list", "start it", "stowaway.dev/allow-missing", "this Backup"]
    {
        assert!(message.contains(part), "{message}");
    }
    let mut allowed = scene;
    allowed.before[0].may_be_missing = true;
    assert_eq!(allowed.missing(), named(&[("rollout/mill/main", MissingReason::Unknown)]));
    assert_eq!(allowed.skipped(), [("replicaset/rack".to_owned(), SkipReason::OptedOut)]);
    allowed.pods = vec![pod("rollout", "mill", "mill-1", &json!({}))];
    assert_eq!(allowed.missing(), [], "its pods are back");
}

#[test]
fn nothing_is_called_deleted_that_the_controller_may_not_list() {
    let names = ["daemonset/agents_node-1/main", "deployment/mill/main", "pod/ledger-0/main"];
    let mut scene = Scene::default().before(&[&names[..], &["pvc/casks"]].concat());
    let mut expected = named(&names.map(|name| (name, MissingReason::Unknown)));
    expected.push(("pvc/casks".to_owned(), MissingReason::Gone));
    assert_eq!(scene.missing(), expected);
    assert!(scene.plan().missing[0].message.contains("no right to list workloads"));
    // Bare pods are listed, so a missing one was deleted.
    scene.workloads = Some(Vec::new());
    assert_eq!(
        scene.missing(),
        named(&[names[0], names[1], names[2], "pvc/casks"].map(|name| (name, MissingReason::Gone)))
    );
}

#[test]
fn claim_that_was_stored_and_is_left_out_now_is_missing_unless_it_is_opted_out() {
    let mut held = fixtures::repository("cellar", Ok(()));
    held.spec.volume = serde_json::from_value(json!({ "persistentVolumeClaim": { "claimName": "held" } })).unwrap();
    let opted_out = json!({ "metadata": { "annotations": { "stowaway.dev/backup": "false" } } });
    for (name, change, selector, reason) in [
        ("held", json!({}), None, MissingReason::HoldsRepository),
        ("unbound", json!({ "status": { "phase": "Pending" } }), None, MissingReason::NotBound),
        (
            "leaving",
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
            None,
            MissingReason::Terminating,
        ),
        ("other", json!({}), Some(json!({ "matchLabels": { "app": "mill" } })), MissingReason::NotSelected),
    ] {
        let selector = selector.map(|selector: Value| serde_json::from_value(selector).unwrap());
        let source = format!("pvc/{name}");
        let scene = |change: &Value| Scene {
            workloads: Some(Vec::new()),
            claims: vec![claim(name, change)],
            repositories: vec![held.clone()],
            selector: selector.clone(),
            ..Scene::default()
        };
        let left_out = scene(&change).before(&[&source]);
        assert_eq!(left_out.missing(), named(&[(&source, reason)]));
        assert!(reason.is_loss());
        assert!(left_out.plan().missing[0].message.contains("stowaway.dev/backup"));
        assert_eq!(scene(&change).missing(), [], "it was never stored");
        let mut change = change;
        merge(&mut change, &opted_out);
        assert_eq!(scene(&change).before(&[&source]).missing(), [], "{name} is left out on purpose");
    }
}

#[test]
fn repository_that_was_never_opened_takes_no_claim_out_of_the_backups() {
    let on_claim = |mut repository: Repository| {
        repository.spec.volume =
            serde_json::from_value(json!({ "persistentVolumeClaim": { "claimName": "data" } })).unwrap();
        let claims = vec![claim("data", &json!({}))];
        let scene = Scene { claims, repositories: vec![repository], ..Scene::default() };
        let plan = scene.plan();
        (plan.sources.len(), plan.undecided.is_some())
    };
    let failed = fixtures::repository("oops", Err(("WrongPassword", "x")));
    assert_eq!(on_claim(failed.clone()), (1, false));
    let mut retried = fixtures::repository("oops", Err(("Opening", "x")));
    retried.status.as_mut().unwrap().attempt = 2;
    assert_eq!(on_claim(retried), (1, false));
    // A Repository which was opened once keeps its claim, even if it cannot be opened now.
    let mut was_open = failed;
    was_open.status.as_mut().unwrap().repository_id = Some("ab".into());
    assert_eq!(on_claim(was_open), (0, false));
    assert_eq!(on_claim(fixtures::repository("cellar", Ok(()))), (0, false));
    // The Backup waits for a new Repository, because it may store a repository in the claim soon.
    assert_eq!(on_claim(fixtures::new_repository("new")), (1, true));
    assert_eq!(on_claim(fixtures::repository("new", Err(("Opening", "x")))), (1, true));
}

#[test]
fn pod_that_hides_behind_the_label_of_runs_is_an_ordinary_pod() {
    let label = json!({ "metadata": { "labels": { "stowaway.dev/kind": "backup" } } });
    assert!(!labels::is_run_pod(&pod("deployment", "mill", "mill-1", &label).pod));
    let mut of_run = json!({
        "metadata": { "ownerReferences": [
            { "apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": "x", "controller": true },
        ] },
        "spec": { "serviceAccountName": "default" },
    });
    merge(&mut of_run, &label);
    assert!(!labels::is_run_pod(&pod("job", "x", "x-1", &of_run).pod), "any Job can carry the label");
    of_run["spec"]["serviceAccountName"] = "stowaway-run-x".into();
    assert!(labels::is_run_pod(&pod("job", "x", "x-1", &of_run).pod));
    of_run["metadata"]["ownerReferences"] = json!([]);
    assert!(!labels::is_run_pod(&pod("job", "x", "x-1", &of_run).pod));
    let answer = json!({
        "metadata": {
            "labels": { "stowaway.dev/kind": "answer" },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "x", "uid": "x", "controller": true }],
        },
    });
    assert!(labels::is_run_pod(&pod("job", "x", "x-1", &answer).pod));
}

#[test]
fn pods_that_end_are_named_and_never_waited_for() {
    let pending = json!({ "status": { "phase": "Pending", "conditions": [] } });
    let mut scene = Scene::with(&[workload("cronjob", "nightly", 0, &json!({}))]);
    scene.pods = vec![
        pod("job", "import", "import-1", &pending),
        pod("job", "ready", "ready-1", &json!({})),
        pod("cronjob", "hourly", "hourly-1", &pending),
        pod("cronjob", "hourly", "hourly-2", &json!({})),
    ];
    let plan = scene.plan();
    let names: Vec<&str> = plan.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["cronjob/hourly/main", "job/ready/main"], "one that is Ready is stored, as K8up does");
    assert!(plan.sources.iter().all(|source| source.target.is_some()));
    let ends = |name: &str| (name.to_owned(), SkipReason::RunsToCompletion);
    assert_eq!(scene.skipped(), [ends("cronjob/nightly"), ends("job/import")]);
}

#[test]
fn claim_that_belongs_to_a_pod_is_no_source_unless_it_opts_in() {
    let owner = json!({ "metadata": { "ownerReferences": [
        { "apiVersion": "v1", "kind": "Pod", "name": "mill-1", "uid": "x", "controller": true },
    ] } });
    let mut opted_in = owner.clone();
    merge(&mut opted_in, &json!({ "metadata": { "annotations": { "stowaway.dev/backup": "true" } } }));
    let scene = |change: &Value| Scene { claims: vec![claim("mill-1-scratch", change)], ..Scene::default() };
    assert_eq!(scene(&owner).skipped(), [("mill-1-scratch".to_owned(), SkipReason::EphemeralVolume)]);
    assert_eq!(scene(&owner).before(&["pvc/mill-1-scratch"]).missing(), []);
    assert_eq!(scene(&opted_in).plan().sources.len(), 1);
}

#[test]
fn data_outside_of_claims_is_named_once_per_annotated_workload() {
    let mounts = |read_only: bool| {
        json!({ "spec": {
        "volumes": [
            { "name": "host", "hostPath": { "path": "/srv" } },
            { "name": "share", "nfs": { "server": "x", "path": "/" } },
            { "name": "secrets", "csi": { "driver": "secrets-store.csi.k8s.io", "readOnly": true } },
            { "name": "settings", "configMap": { "name": "x" } },
            { "name": "unused", "hostPath": { "path": "/dev" } },
        ],
        "containers": [{ "name": "main", "volumeMounts": [
            { "name": "host", "mountPath": "/a", "readOnly": read_only },
            { "name": "share", "mountPath": "/b" },
            { "name": "secrets", "mountPath": "/c" },
            { "name": "settings", "mountPath": "/d" },
        ] }],
    } })
    };
    let mut unannotated = mounts(false);
    unannotated["metadata"] = json!({ "annotations": null });
    let mut scene = Scene::with(&[]);
    scene.pods = vec![
        pod("statefulset", "ledger", "ledger-0", &mounts(false)),
        pod("statefulset", "ledger", "ledger-1", &mounts(false)),
        pod("deployment", "reader", "reader-1", &mounts(true)),
        pod("deployment", "quiet", "quiet-1", &unannotated),
    ];
    let outside = |name: &str| (name.to_owned(), SkipReason::OutsideClaims);
    assert_eq!(scene.skipped(), [outside("deployment/reader"), outside("statefulset/ledger")]);
    let skipped = scene.plan().skipped;
    assert!(skipped[0].message.ends_with("stored: share (nfs)"), "{}", skipped[0].message);
    assert!(skipped[1].message.ends_with("stored: host (hostPath), share (nfs)"), "{}", skipped[1].message);
}

#[test]
fn annotations_on_the_workload_itself_are_a_warning() {
    let mut wrong = workload("deployment", "mill", 1, &json!({ "metadata": { "annotations": null } }));
    wrong.metadata.annotations = Some([(COMMAND.to_owned(), "dump".to_owned())].into());
    let plan = Scene::with(&[wrong]).plan();
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("deployment mill") && warnings[0].contains("pod template"), "{}", warnings[0]);
}

#[test]
fn plan_is_not_complete_if_workloads_cannot_be_listed() {
    let scene = Scene { workloads: None, ..Scene::default() }.before(&["deployment/mill/main"]);
    assert!(!scene.plan().is_complete && Scene::with(&[]).plan().is_complete);
    assert_eq!(scene.missing(), named(&[("deployment/mill/main", MissingReason::Unknown)]));
}

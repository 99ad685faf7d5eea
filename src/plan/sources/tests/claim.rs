//! Tests of the decisions about a namespace's claims: first which are left out, then which cannot be a source, then how
//! a Job mounts a claim.

use k8s_openapi::{
    api::core::v1::{Namespace, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde_json::{Value, json};

use super::{
    COMMAND, ClaimFacts, ClaimMount, ObservedPod, PlanProblem, SnapshotFacts, SourcePlan, Target, merge,
    plan_with_claims, pod,
};
use crate::{
    api::{Repository, SkipReason},
    model::Reason,
};

/// A bound `ReadWriteOnce` claim, changed by a JSON merge patch.
fn claim(name: &str, change: &Value) -> PersistentVolumeClaim {
    let mut claim = json!({
        "metadata": { "name": name, "labels": { "app": "mill" } },
        "spec": { "accessModes": ["ReadWriteOnce"] },
        "status": { "phase": "Bound", "accessModes": ["ReadWriteOnce"] },
    });
    merge(&mut claim, change);
    serde_json::from_value(claim).unwrap()
}

fn annotated(key: &str, value: &str) -> Value {
    json!({ "metadata": { "annotations": { key: value } } })
}

fn modes(mode: &str) -> Value {
    json!({ "status": { "accessModes": [mode] } })
}

/// A pod which has the claim as its volume `data` and requests nothing, changed by a JSON merge patch.
fn user(claim: &str, name: &str, change: &Value) -> ObservedPod {
    let mut observed = pod(
        "deployment",
        "mill",
        name,
        &json!({
            "metadata": { "annotations": null },
            "spec": {
                "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }],
                "containers": [
                    { "name": "other" },
                    { "name": "main", "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }
                ],
            },
        }),
    );
    let mut whole = serde_json::to_value(&observed.pod).unwrap();
    merge(&mut whole, change);
    observed.pod = serde_json::from_value(whole).unwrap();
    observed
}

/// A pod which requests a backup of its volume `data` by a sidecar, and has the sidecar.
fn sidecar_user(claim: &str, ready: bool) -> ObservedPod {
    let status = if ready { "True" } else { "False" };
    user(
        claim,
        "mill-1",
        &json!({
            "metadata": { "annotations": { "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data" } },
            "spec": { "initContainers": [{
                "name": "stowaway-sidecar", "restartPolicy": "Always", "args": ["sidecar", format!("--volume=data=pvc/{claim}")]
            }] },
            "status": { "conditions": [{ "type": "Ready", "status": status }] },
        }),
    )
}

struct Scene {
    pods: Vec<ObservedPod>,
    claims: Vec<PersistentVolumeClaim>,
    namespace: Value,
    repositories: Vec<Repository>,
    selector: Option<LabelSelector>,
}

fn scene(claims: &[PersistentVolumeClaim], pods: &[ObservedPod]) -> Scene {
    Scene { pods: pods.to_vec(), claims: claims.to_vec(), namespace: json!({}), repositories: vec![], selector: None }
}

impl Scene {
    fn plan(&self) -> SourcePlan {
        let namespace: Namespace = serde_json::from_value(self.namespace.clone()).unwrap();
        let facts = ClaimFacts {
            namespace: &namespace,
            claims: &self.claims,
            repositories: &self.repositories,
            snapshots: SnapshotFacts::default(),
        };
        plan_with_claims(&self.pods, Some(facts), self.selector.as_ref())
    }

    fn skipped(&self) -> Vec<(String, SkipReason)> {
        let plan = self.plan();
        assert_eq!(plan.problems, []);
        plan.skipped.into_iter().map(|claim| (claim.name, claim.reason)).collect()
    }

    /// The mount of the only source.
    fn mount(&self) -> ClaimMount {
        let plan = self.plan();
        match &plan.sources[..] {
            [source] => match source.target.clone() {
                Some(Target::Claim(mount)) => mount,
                other => panic!("{other:?}"),
            },
            _ => panic!("{plan:?}"),
        }
    }

    fn problem(&self) -> PlanProblem {
        let plan = self.plan();
        let [problem] = &plan.problems[..] else { panic!("{plan:?}") };
        assert!(plan.sources.is_empty(), "{plan:?}");
        problem.clone()
    }
}

fn names(plan: &SourcePlan) -> Vec<&str> {
    plan.sources.iter().map(|source| source.name.as_str()).collect()
}

#[test]
fn every_claim_that_is_left_out_is_listed_with_its_reason() {
    let labelled = json!({ "metadata": { "labels": { "stowaway.dev/backup": "false" } } });
    for (change, reason) in [
        (annotated("stowaway.dev/backup", "false"), SkipReason::OptedOut),
        (labelled, SkipReason::OptedOut),
        (annotated("k8up.io/backup", "false"), SkipReason::OptedOut),
        (annotated("k8up.syn.tools/backup", "no"), SkipReason::OptedOut),
        (annotated("appuio.ch/backup", "false"), SkipReason::OptedOut),
        (json!({ "status": { "phase": "Pending" } }), SkipReason::NotBound),
        (json!({ "status": null }), SkipReason::NotBound),
        (json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }), SkipReason::Terminating),
    ] {
        let scene = scene(&[claim("cask", &change), claim("press", &json!({}))], &[]);
        assert_eq!(scene.skipped(), [("cask".to_owned(), reason)], "{change}");
        assert_eq!(names(&scene.plan()), ["pvc/press"]);
    }
}

#[test]
fn selector_leaves_out_claims_with_other_labels() {
    let mut scene = scene(
        &[claim("cask", &json!({ "metadata": { "labels": { "app": "other" } } })), claim("press", &json!({}))],
        &[],
    );
    scene.selector = Some(serde_json::from_value(json!({ "matchLabels": { "app": "mill" } })).unwrap());
    assert_eq!(scene.skipped(), [("cask".to_owned(), SkipReason::NotSelected)]);
}

#[test]
fn namespace_that_opts_out_leaves_only_those_that_opt_in() {
    for namespace in [
        json!({ "metadata": { "labels": { "stowaway.dev/backup": "false" } } }),
        annotated("stowaway.dev/backup", "false"),
    ] {
        let mut scene =
            scene(&[claim("cask", &json!({})), claim("press", &annotated("stowaway.dev/backup", "true"))], &[]);
        scene.namespace = namespace;
        assert_eq!(scene.skipped(), [("cask".to_owned(), SkipReason::OptedOut)]);
        assert_eq!(names(&scene.plan()), ["pvc/press"]);
    }
}

#[test]
fn claim_that_a_repository_is_on_is_never_stored_in_it() {
    let mut scene = scene(&[claim("cellar", &json!({}))], &[]);
    scene.repositories = vec![crate::plan::fixtures::repository("cellar-books", Ok(()))];
    assert_eq!(scene.skipped(), [("cellar".to_owned(), SkipReason::HoldsRepository)]);
    scene.pods = vec![sidecar_user("cellar", true)];
    assert!(scene.problem().to_string().contains("Repository cellar-books is on it"), "{}", scene.problem());
}

#[test]
fn volume_that_a_pod_requests_by_name_is_backed_up_although_it_is_opted_out() {
    let scene = scene(&[claim("cask", &annotated("stowaway.dev/backup", "false"))], &[sidecar_user("cask", true)]);
    let plan = scene.plan();
    assert_eq!((names(&plan), &plan.skipped, &plan.problems), (vec!["pvc/cask"], &vec![], &vec![]));
}

#[test]
fn unclear_values_are_reported_and_the_claim_is_backed_up() {
    let plan = scene(&[claim("cask", &annotated("stowaway.dev/backup", "nope"))], &[]).plan();
    assert_eq!(names(&plan), ["pvc/cask"]);
    let [warning] = &plan.warnings[..] else { panic!("{plan:?}") };
    assert!(
        warning.to_string().starts_with("PersistentVolumeClaim cask: annotation stowaway.dev/backup:"),
        "{warning}"
    );
}

#[test]
fn claims_that_cannot_be_read_are_problems_and_never_passed_over() {
    let with_patterns = json!({
        "spec": { "volumeMode": "Block" }, "metadata": { "annotations": { "stowaway.dev/exclude": "x" } },
    });
    for (change, text) in [(with_patterns, "has no files"), (json!({ "status": { "phase": "Lost" } }), "lost")] {
        let problem = scene(&[claim("cask", &change)], &[]).problem();
        assert_eq!(problem.reason(), Reason::InvalidRequest);
        assert!(problem.to_string().starts_with("pvc/cask: ") && problem.to_string().contains(text), "{problem}");
    }
}

#[test]
fn claim_of_a_single_pod_is_read_by_that_pods_sidecar_alone() {
    let one = claim("cask", &modes("ReadWriteOncePod"));
    let problem = scene(std::slice::from_ref(&one), &[user("cask", "mill-1", &json!({}))]).problem();
    assert_eq!(problem.reason(), Reason::NotInjected);
    assert!(problem.to_string().contains("ReadWriteOncePod"), "{problem}");
    let plan = scene(std::slice::from_ref(&one), &[sidecar_user("cask", true)]).plan();
    assert!(matches!(plan.sources[0].target, Some(Target::Volume(_))), "{plan:?}");
    // The Backup waits for it.
    let plan = scene(std::slice::from_ref(&one), &[sidecar_user("cask", false)]).plan();
    assert_eq!((names(&plan), &plan.sources[0].target), (vec!["pvc/cask"], &None));
    assert_eq!(scene(&[one], &[]).mount().node, None);
}

#[test]
fn sidecar_reads_where_it_can_and_a_job_where_it_cannot() {
    let claims = [claim("cask", &json!({}))];
    let plan = scene(&claims, &[sidecar_user("cask", true)]).plan();
    assert!(matches!(&plan.sources[0].target, Some(Target::Volume(target)) if target.pod == "mill-1"), "{plan:?}");
    // An app which does not start has data, too.
    assert_eq!(scene(&claims, &[sidecar_user("cask", false)]).mount().pod, "mill-1");
    let bare = user(
        "cask",
        "mill-1",
        &json!({ "metadata": { "annotations": {
            "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data", "stowaway.dev/repository": "loft"
        } } }),
    );
    let plan = scene(&claims, &[bare]).plan();
    assert_eq!((plan.problems, plan.sources[0].repository.as_deref()), (vec![], Some("loft")));
    assert!(matches!(plan.sources[0].target, Some(Target::Claim(_))));
}

#[test]
fn volume_of_one_node_is_mounted_there_and_others_anywhere() {
    let tolerations = json!([{ "key": "press", "operator": "Exists" }]);
    let placed = user("cask", "mill-1", &json!({ "spec": { "nodeName": "cellar-7", "tolerations": tolerations } }));
    let mount = scene(&[claim("cask", &json!({}))], std::slice::from_ref(&placed)).mount();
    assert_eq!((mount.node.as_deref(), mount.tolerations.len(), mount.pod.as_str()), (Some("cellar-7"), 1, "mill-1"));
    for mode in ["ReadWriteMany", "ReadOnlyMany"] {
        let mount = scene(&[claim("cask", &modes(mode))], std::slice::from_ref(&placed)).mount();
        assert_eq!((mount.node, mount.tolerations), (None, vec![]), "{mode}");
    }
    let ended = user("cask", "mill-1", &json!({ "status": { "phase": "Succeeded" } }));
    let elsewhere = user("vat", "mill-2", &json!({ "spec": { "nodeName": "cellar-9" } }));
    for pods in [vec![], vec![ended], vec![elsewhere]] {
        let mount = scene(&[claim("cask", &json!({}))], &pods).mount();
        assert_eq!((mount.node, mount.pod.as_str()), (None, ""));
    }
}

#[test]
fn job_runs_as_the_owner_of_the_files() {
    let claims = [claim("cask", &json!({}))];
    let of = |spec: &Value| scene(&claims, &[user("cask", "mill-1", &json!({ "spec": spec }))]).mount();
    let mount = of(&json!({ "securityContext": {
        "runAsUser": 70, "runAsGroup": 71, "fsGroup": 72, "supplementalGroups": [73]
    } }));
    assert_eq!((mount.user, mount.groups), ((70, Some(71)), vec![73, 72]));
    // A container which does not mount the claim does not count.
    let mount = of(&json!({ "containers": [
        { "name": "other", "securityContext": { "runAsUser": 1 } },
        { "name": "main", "volumeMounts": [{ "name": "data", "mountPath": "/d" }], "securityContext": { "runAsUser": 2 } }
    ] }));
    assert_eq!(mount.user, (2, None));
    assert_eq!(of(&json!({})).user, (0, None));
    assert_eq!(scene(&claims, &[]).mount().user, (0, None));
}

#[test]
fn job_has_the_selinux_label_that_the_apps_pod_sets() {
    let claims = [claim("cask", &json!({}))];
    let of = |spec: &Value| scene(&claims, &[user("cask", "mill-1", &json!({ "spec": spec }))]).mount().se_linux;
    assert_eq!(of(&json!({})), None);
    let level = |options: Option<k8s_openapi::api::core::v1::SELinuxOptions>| options.and_then(|options| options.level);
    let pods = json!({ "seLinuxOptions": { "level": "s0:c1,c2" } });
    assert_eq!(level(of(&json!({ "securityContext": pods }))).as_deref(), Some("s0:c1,c2"));
    let own = json!({ "seLinuxOptions": { "level": "s0:c3,c4" } });
    let container =
        json!({ "name": "main", "securityContext": own, "volumeMounts": [{ "name": "data", "mountPath": "/d" }] });
    let both = json!({ "securityContext": pods, "containers": [container] });
    assert_eq!(level(of(&both)).as_deref(), Some("s0:c3,c4"), "the label of the container which mounts the claim");
}

#[test]
fn job_is_no_root_where_the_namespace_lets_none_in() {
    let mut scene = scene(&[claim("cask", &json!({}))], &[]);
    scene.namespace = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    assert_eq!(scene.mount().user, (65_532, Some(65_532)));
    scene.namespace = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "baseline" } } });
    assert_eq!(scene.mount().user, (0, None));
}

#[test]
fn claims_are_labelled_as_k8up_labels_them() {
    let plan = scene(&[claim("cask", &json!({}))], &[user("cask", "mill-1", &json!({}))]).plan();
    let identity = &plan.sources[0].identity;
    assert_eq!((identity.host.as_str(), identity.path.as_str()), ("shop", "/data/cask"));
    assert_eq!(
        identity.tags,
        [
            "source=pvc/cask",
            "run=backup-1/pvc/cask",
            "cluster=cluster-1",
            "pod=mill-1",
            "claim-access-modes=ReadWriteOnce"
        ]
    );
    let plan = scene(&[claim("cask", &json!({}))], &[]).plan();
    assert_eq!(plan.sources[0].identity.tag("pod"), None);
}

#[test]
fn patterns_of_a_claim_or_else_of_its_namespace_hold_for_every_reader() {
    let patterned = |value: &str| claim("cask", &annotated("stowaway.dev/exclude", value));
    let exclude = |scene: &Scene| {
        let plan = scene.plan();
        assert_eq!((plan.problems, plan.sources.len()), (vec![], 1));
        plan.sources[0].exclude.clone()
    };
    assert_eq!(exclude(&scene(&[claim("cask", &json!({}))], &[])), Vec::<String>::new());
    assert_eq!(exclude(&scene(&[patterned("*.log\n/cache")], &[])), ["*.log", "/cache"]);
    assert_eq!(exclude(&scene(&[patterned("*.log")], &[sidecar_user("cask", true)])), ["*.log"]);
    let alone = claim(
        "cask",
        &json!({ "status": { "accessModes": ["ReadWriteOncePod"] }, "metadata": { "annotations": { "stowaway.dev/exclude": "x" } } }),
    );
    assert_eq!(exclude(&scene(&[alone], &[sidecar_user("cask", true)])), ["x"]);
    let mut scene = scene(&[claim("cask", &json!({}))], &[]);
    scene.namespace = annotated("stowaway.dev/exclude", "/tmp");
    assert_eq!(exclude(&scene), ["/tmp"]);
    scene.claims = vec![patterned("[]")];
    assert_eq!(exclude(&scene), Vec::<String>::new());
}

#[test]
fn claim_accepts_its_own_loss_alone_and_clearly() {
    let consent = |value: &str, pods: &[ObservedPod]| {
        let plan = scene(&[claim("cask", &annotated("stowaway.dev/accept-shrunken", value))], pods).plan();
        (plan.sources[0].accept_shrunken, plan.warnings.len())
    };
    assert_eq!(consent("true", &[]), (true, 0));
    assert_eq!(consent("true", &[sidecar_user("cask", true)]), (true, 0), "also with a sidecar");
    assert_eq!(consent("false", &[]), (false, 0));
    assert_eq!(consent("yes", &[]), (false, 1));
    let mut beside = scene(&[claim("cask", &json!({}))], &[]);
    beside.namespace = annotated("stowaway.dev/accept-shrunken", "true");
    assert!(!beside.plan().sources[0].accept_shrunken, "a namespace cannot accept it for all");
    let block = json!({
        "spec": { "volumeMode": "Block" }, "metadata": { "annotations": { "stowaway.dev/accept-shrunken": "true" } },
    });
    assert!(scene(&[claim("cask", &block)], &[]).plan().sources[0].accept_shrunken);
}

#[test]
fn claim_that_no_restore_has_filled_is_known_by_its_mark_in_any_reading() {
    let mark = annotated("stowaway.dev/restore-unfinished", "undo");
    let mut block = json!({ "spec": { "volumeMode": "Block" } });
    merge(&mut block, &mark);
    for (claim, pods) in [
        (claim("cask", &mark), vec![]),
        (claim("cask", &mark), vec![sidecar_user("cask", true)]),
        (claim("cask", &block), vec![]),
    ] {
        let plan = scene(&[claim], &pods).plan();
        let unfilled = plan.sources[0].unfilled.as_ref().map(|one| (one.name.as_str(), one.restore.as_str()));
        assert_eq!((unfilled, plan.warnings.len()), (Some(("cask", "undo")), 0));
    }
    assert_eq!(scene(&[claim("cask", &json!({}))], &[]).plan().sources[0].unfilled, None);
}

#[test]
fn command_of_a_pod_that_mounts_an_unfilled_claim_in_any_manner_is_known_by_the_mark() {
    let mark = annotated("stowaway.dev/restore-unfinished", "undo");
    let marked = |more: &Value| {
        let mut change = mark.clone();
        merge(&mut change, more);
        claim("cask", &change)
    };
    let dumping = |more: &Value| {
        let mut change = annotated(COMMAND, "dump");
        merge(&mut change, more);
        user("cask", "mill-1", &change)
    };
    let unfilled = |claims: &[PersistentVolumeClaim], pod: ObservedPod| {
        let mut scene = scene(claims, &[pod]);
        scene.selector = Some(serde_json::from_value(json!({ "matchLabels": { "app": "mill" } })).unwrap());
        let plan = scene.plan();
        let command = plan.sources.iter().find(|source| source.name.as_str().starts_with("deployment/")).unwrap();
        command.unfilled.as_ref().map(|one| (one.name.clone(), one.restore.clone()))
    };
    let found = Some(("cask".to_owned(), "undo".to_owned()));
    let read_only = json!({ "name": "data", "mountPath": "/data", "readOnly": true });
    for pod in [
        json!({}),
        // Another container is dumped.
        annotated("stowaway.dev/backupcommand-container", "other"),
        json!({ "spec": { "containers": [{ "name": "main", "volumeMounts": [read_only] }] } }),
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
    ] {
        assert_eq!(unfilled(&[marked(&json!({}))], dumping(&pod)), found, "{pod}");
    }
    // A Backup which does not store the claim itself.
    for more in [annotated("stowaway.dev/backup", "false"), json!({ "metadata": { "labels": { "app": "well" } } })] {
        assert_eq!(unfilled(&[marked(&more)], dumping(&json!({}))), found, "{more}");
    }
    let repository = json!({ "spec": { "volumes": [
        { "name": "stowaway-repository", "persistentVolumeClaim": { "claimName": "cask" } },
    ] } });
    for (claims, pod) in [
        (vec![claim("cask", &json!({}))], json!({})),
        (vec![claim("cask", &json!({})), claim("vat", &mark)], json!({})),
        (vec![marked(&json!({}))], repository),
        (vec![], json!({})),
    ] {
        assert_eq!(unfilled(&claims, dumping(&pod)), None, "{pod}");
    }
}

#[test]
fn patterns_that_cannot_be_carried_out_fail_the_claim_and_no_other() {
    let mut scene = scene(
        &[claim("cask", &annotated("stowaway.dev/exclude", "!keep")), claim("press", &json!({}))],
        &[sidecar_user("cask", true)],
    );
    let plan = scene.plan();
    assert_eq!(names(&plan), ["pvc/press"]);
    let [problem] = &plan.problems[..] else { panic!("{plan:?}") };
    assert_eq!(problem.reason(), Reason::InvalidRequest);
    assert!(problem.to_string().contains("stowaway.dev/exclude"), "{problem}");
    // Invalid patterns of a claim which is opted out are ignored.
    scene.pods = vec![];
    scene.claims[0].metadata.labels = Some([("stowaway.dev/backup".to_owned(), "false".to_owned())].into());
    assert_eq!(scene.plan().problems, []);
}

#[test]
fn block_device_is_read_by_root_in_a_job_beside_its_pod_and_never_by_a_sidecar() {
    let block = |more: &Value| {
        let mut change = json!({ "spec": { "volumeMode": "Block" } });
        merge(&mut change, more);
        claim("cask", &change)
    };
    assert!(!scene(&[claim("cask", &json!({ "spec": { "volumeMode": "Filesystem" } }))], &[]).mount().device);
    let app = json!({ "spec": { "nodeName": "cellar-7", "securityContext": { "runAsUser": 70, "fsGroup": 71 } } });
    let mut beside = scene(&[block(&json!({}))], &[user("cask", "mill-1", &app), sidecar_user("cask", true)]);
    // The namespace's patterns do not apply to block devices.
    beside.namespace = annotated("stowaway.dev/exclude", "*.log");
    assert!(beside.mount().device);
    assert_eq!(beside.plan().sources[0].exclude, Vec::<String>::new());
    let mut alone = scene(&[block(&json!({}))], &[user("cask", "mill-1", &app)]);
    let mount = alone.mount();
    assert_eq!((mount.node.as_deref(), mount.user, mount.groups), (Some("cellar-7"), (0, None), vec![]));
    alone.namespace = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
    assert_ne!(alone.mount().user.0, 0);
    let problem = scene(&[block(&modes("ReadWriteOncePod"))], &[sidecar_user("cask", true)]).problem().to_string();
    assert!(problem.contains("block device") && problem.contains("ReadWriteOncePod"), "{problem}");
    assert!(scene(&[block(&modes("ReadWriteOncePod"))], &[]).mount().device);
}

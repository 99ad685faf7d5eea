//! Tests of the sources of pods: first which pods are no source, then names, targets, paths and tags.

mod claim;
mod missing;
mod notes;
mod property;
mod snapshot;
mod volume;
mod warnings;

use serde_json::{Value, json};

use super::*;

const COMMAND: &str = "stowaway.dev/backupcommand";

/// A running, Ready pod with container `main`, changed by a JSON merge patch.
fn pod(kind: &str, workload: &str, name: &str, change: &Value) -> ObservedPod {
    let mut pod = json!({
        "metadata": {
            "name": name,
            "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": workload },
            "annotations": { COMMAND: "dump" },
        },
        "spec": { "containers": [{ "name": "main" }], "nodeName": "node-1" },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    merge(&mut pod, change);
    ObservedPod {
        pod: serde_json::from_value(pod).unwrap(),
        workload: Workload { kind: kind.into(), name: workload.into() },
    }
}

/// Applies a JSON merge patch (RFC 7396).
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn unready() -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } })
}

fn created(time: &str) -> Value {
    json!({ "metadata": { "creationTimestamp": format!("2026-01-01T{time}:00Z") } })
}

fn annotated(annotations: &Value) -> Value {
    json!({ "metadata": { "annotations": annotations } })
}

fn containers(names: &[&str]) -> Value {
    json!({ "spec": { "containers": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() } })
}

/// Combines two merge patches. Unlike `merge`, it keeps `null`, which removes a field.
fn both(one: Value, other: &Value) -> Value {
    match (one, other) {
        (Value::Object(mut one), Value::Object(other)) => {
            for (key, value) in other {
                let before = one.remove(key).unwrap_or_default();
                one.insert(key.clone(), both(before, value));
            }
            Value::Object(one)
        }
        (_, other) => other.clone(),
    }
}

fn selected(pods: &[ObservedPod], selector: Option<&LabelSelector>) -> SourcePlan {
    plan_with_claims(pods, None, selector)
}

fn plan_with_claims(
    pods: &[ObservedPod],
    claims: Option<ClaimFacts<'_>>,
    selector: Option<&LabelSelector>,
) -> SourcePlan {
    plan_sources(SourceFacts {
        namespace: "shop",
        pods,
        claims,
        selector,
        cluster: "cluster-1",
        backup_uid: "backup-1",
        expected: None,
    })
}

fn plan(pods: &[ObservedPod]) -> SourcePlan {
    selected(pods, None)
}

/// `name -> pod`, or `name -> -` without a target.
fn summary(plan: &SourcePlan) -> Vec<String> {
    let pod = |source: &PlannedSource| source.target.as_ref().map_or("-".to_owned(), |target| target.pod().to_owned());
    plan.sources.iter().map(|source| format!("{} -> {}", source.name, pod(source))).collect()
}

fn command_of(source: &PlannedSource) -> &TargetCommand {
    match &source.target {
        Some(Target::Command(target)) => target,
        other => panic!("{other:?}"),
    }
}

fn paths(plan: &SourcePlan) -> Vec<&str> {
    plan.sources.iter().map(|source| source.identity.path.as_str()).collect()
}

#[test]
fn malformed_annotations_are_a_problem_of_that_pod_alone() {
    let wrong = annotated(&json!({ COMMAND: "", "stowaway.dev/timeout": "soon", "stowaway.dev/backupcomand": "x" }));
    let plan = plan(&[pod("deployment", "bad", "bad-1", &wrong), pod("deployment", "good", "good-1", &json!({}))]);
    assert_eq!(summary(&plan), ["deployment/good/main -> good-1"]);
    let [PlanProblem::Annotations { pod, problems }] = &plan.problems[..] else { panic!("{plan:?}") };
    assert_eq!((pod.as_str(), problems.problems.len()), ("bad-1", 2));
    // A misspelled annotation is reported at the same time.
    let [PlanWarning { object, warning }] = &plan.warnings[..] else { panic!("{plan:?}") };
    assert_eq!((object.as_str(), warning.key.as_str()), ("pod bad-1", "stowaway.dev/backupcomand"));
}

#[test]
fn malformed_annotations_of_many_replicas_are_reported_once() {
    let wrong = annotated(&json!({ COMMAND: "" }));
    let plan = plan(&[1, 2, 3].map(|number| pod("deployment", "bad", &format!("bad-{number}"), &wrong)));
    assert_eq!(plan.problems.len(), 1);
}

#[test]
fn unknown_container_is_a_problem_that_names_the_others() {
    let default = json!({ COMMAND: "x", DEFAULT_CONTAINER: "gone" });
    for (annotations, key) in [
        (
            json!({ COMMAND: "x", "stowaway.dev/backupcommand-container": "gone" }),
            "stowaway.dev/backupcommand-container",
        ),
        (json!({ COMMAND: "x", "k8up.io/backupcommand-container": "gone" }), "k8up.io/backupcommand-container"),
        (
            json!({ COMMAND: null, "stowaway.dev/backupcommand.a": "x", "stowaway.dev/backupcommand-container.a": "gone" }),
            "stowaway.dev/backupcommand-container.a",
        ),
        (default, DEFAULT_CONTAINER),
    ] {
        let change = both(annotated(&annotations), &containers(&["db", "web"]));
        let plan = plan(&[pod("deployment", "app", "app-1", &change)]);
        assert!(plan.sources.is_empty());
        let expected = PlanProblem::UnknownContainer {
            pod: "app-1".into(),
            key: key.into(),
            container: "gone".into(),
            existing: vec!["db".into(), "web".into()],
        };
        assert_eq!(plan.problems, [expected]);
        assert!(plan.problems[0].to_string().ends_with("it has db, web"), "{}", plan.problems[0]);
    }
}

#[test]
fn one_unknown_container_of_two_commands_fails_alone() {
    let annotations = json!({ "stowaway.dev/backupcommand.a": "x", "stowaway.dev/backupcommand-container.a": "gone" });
    let plan = plan(&[pod("deployment", "app", "app-1", &annotated(&annotations))]);
    assert_eq!(summary(&plan), ["deployment/app/main -> app-1"]);
    assert_eq!(plan.problems.len(), 1);
}

#[test]
fn workload_without_a_ready_pod_is_a_source_without_a_target() {
    for (what, change) in [
        ("not ready", unready()),
        ("pending", json!({ "status": { "phase": "Pending", "conditions": null } })),
        ("failed", json!({ "status": { "phase": "Failed" } })),
        ("terminating", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } })),
        ("no status", json!({ "status": null })),
    ] {
        let plan = plan(&[pod("deployment", "app", "app-1", &change)]);
        assert_eq!(summary(&plan), ["deployment/app/main -> -"], "{what}");
        assert_eq!(plan.sources[0].pod, "app-1");
        assert_eq!(plan.sources[0].identity.tag(SnapshotIdentity::POD), None);
        assert!(plan.problems.is_empty());
    }
}

#[test]
fn pods_whose_work_is_done_are_no_sources() {
    let phase = |phase: &str| json!({ "status": { "phase": phase } });
    let plan = plan(&[
        pod("job", "import", "import-1", &phase("Failed")),
        pod("job", "import", "import-2", &phase("Succeeded")),
        pod("cronjob", "nightly", "nightly-1", &phase("Failed")),
        pod("pod", "once", "once", &phase("Succeeded")),
        pod("job", "running", "running-1", &json!({})),
    ]);
    assert_eq!(summary(&plan), ["job/running/main -> running-1"]);
    assert!(plan.problems.is_empty());
}

#[test]
fn daemon_set_pod_without_a_node_is_a_problem() {
    let plan = plan(&[pod("daemonset", "agent", "agent-x", &json!({ "spec": { "nodeName": null } }))]);
    assert!(plan.sources.is_empty());
    assert!(plan.problems[0].to_string().contains("DaemonSet agent has no node"), "{}", plan.problems[0]);
}

#[test]
fn names_that_cannot_be_are_problems() {
    let plan = plan(&[pod("Deployment", "a b", "x", &json!({}))]);
    assert!(matches!(&plan.problems[..], [PlanProblem::Unnamable { .. }]), "{plan:?}");
}

#[test]
fn selector_that_is_none_selects_nothing_and_is_a_problem() {
    for expression in [
        json!({ "key": "app", "operator": "Is", "values": ["a"] }),
        json!({ "key": "app", "operator": "In" }),
        json!({ "key": "app", "operator": "NotIn", "values": [] }),
        json!({ "key": "app", "operator": "Exists", "values": ["a"] }),
        json!({ "key": "app", "operator": "DoesNotExist", "values": ["a"] }),
    ] {
        let selector = serde_json::from_value(json!({ "matchExpressions": [expression] })).unwrap();
        let plan = selected(&[pod("deployment", "a", "a-1", &json!({}))], Some(&selector));
        assert!(plan.sources.is_empty());
        assert!(matches!(&plan.problems[..], [PlanProblem::Selector { .. }]), "{plan:?}");
    }
}

#[test]
fn selectors_are_those_of_kubernetes() {
    let labelled = |name: &str, labels: Value| pod("pod", name, name, &json!({ "metadata": { "labels": labels } }));
    let pods = [
        labelled("a", json!({ "app": "a", "tier": "data" })),
        labelled("b", json!({ "app": "b", "tier": "data" })),
        labelled("c", json!({ "app": "c", "tier": "" })),
        labelled("none", json!({ "app": null })),
    ];
    for (selector, expected) in [
        (json!({}), "a b c none"),
        (json!({ "matchLabels": { "app": "a" } }), "a"),
        (json!({ "matchLabels": { "app": "a", "tier": "web" } }), ""),
        (json!({ "matchLabels": { "tier": "" } }), "c"),
        (json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["a", "c"] }] }), "a c"),
        (json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["a"] }] }), "b c none"),
        (json!({ "matchExpressions": [{ "key": "tier", "operator": "Exists" }] }), "a b c"),
        (json!({ "matchExpressions": [{ "key": "tier", "operator": "DoesNotExist", "values": [] }] }), "none"),
        (
            json!({ "matchLabels": { "tier": "data" }, "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["a"] }] }),
            "b",
        ),
    ] {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        let plan = selected(&pods, Some(&selector));
        assert_eq!(
            plan.sources.iter().map(|source| source.pod.as_str()).collect::<Vec<_>>().join(" "),
            expected,
            "{selector:?}"
        );
    }
}

#[test]
fn newest_ready_pod_represents_its_workload() {
    let leaving = json!({ "metadata": { "creationTimestamp": "2026-01-01T09:00:00Z", "deletionTimestamp": "2026-01-01T10:00:00Z" } });
    let plan = plan(&[
        pod("deployment", "app", "old", &created("01:00")),
        pod("deployment", "app", "new", &created("02:00")),
        pod("deployment", "app", "newer-but-not-ready", &both(created("03:00"), &unready())),
        pod("deployment", "app", "newer-but-leaving", &leaving),
        pod(
            "deployment",
            "app",
            "newer-without-annotation",
            &both(created("04:00"), &annotated(&json!({ COMMAND: null }))),
        ),
    ]);
    assert_eq!(summary(&plan), ["deployment/app/main -> new"]);
    assert_eq!(command_of(&plan.sources[0]).pod_uid, "uid-new");
}

#[test]
fn pods_with_data_of_their_own_are_sources_of_their_own() {
    let on = |node: &str| json!({ "spec": { "nodeName": node } });
    let plan = plan(&[
        pod("statefulset", "db", "db-0", &json!({})),
        pod("statefulset", "db", "db-1", &unready()),
        pod("pod", "bare", "bare", &json!({})),
        pod("daemonset", "agent", "agent-x", &on("node-a")),
        pod("daemonset", "agent", "agent-y", &on("node-b")),
        pod("daemonset", "agent", "agent-z", &both(on("node-b"), &created("05:00"))),
    ]);
    assert_eq!(
        summary(&plan),
        [
            "daemonset/agent_node-a/main -> agent-x",
            "daemonset/agent_node-b/main -> agent-z",
            "pod/bare/main -> bare",
            "pod/db-0/main -> db-0",
            "pod/db-1/main -> -",
        ]
    );
}

#[test]
fn container_is_the_annotated_or_the_default_or_the_first_one() {
    let sidecar =
        json!({ "spec": { "initContainers": [{ "name": "setup" }, { "name": "proxy", "restartPolicy": "Always" }] } });
    let base = both(containers(&["web", "db"]), &sidecar);
    for (annotations, expected) in [
        (json!({}), "web"),
        (json!({ DEFAULT_CONTAINER: "db" }), "db"),
        (json!({ DEFAULT_CONTAINER: "db", "stowaway.dev/backupcommand-container": "web" }), "web"),
        (json!({ "stowaway.dev/backupcommand-container": "proxy" }), "proxy"),
        (json!({ COMMAND: null, "k8up.io/backupcommand": "x", DEFAULT_CONTAINER: "db" }), "web"),
        (json!({ COMMAND: null, "k8up.io/backupcommand": "x", "k8up.io/backupcommand-container": "db" }), "db"),
        (json!({ COMMAND: null, "k8up.syn.tools/backupcommand": "x", DEFAULT_CONTAINER: "db" }), "web"),
    ] {
        let plan = plan(&[pod("deployment", "app", "app-1", &both(base.clone(), &annotated(&annotations)))]);
        assert_eq!(command_of(&plan.sources[0]).container, expected, "{annotations}");
    }
    let setup = annotated(&json!({ "stowaway.dev/backupcommand-container": "setup" }));
    assert_eq!(plan(&[pod("deployment", "app", "app-1", &both(base, &setup))]).problems.len(), 1);
}

#[test]
fn snapshots_are_labelled() {
    let annotations = json!({
        COMMAND: "mysqldump -phush", "stowaway.dev/file-extension": ".sql", "stowaway.dev/backupcommand.roles": "x -phush",
        "stowaway.dev/repository": "offsite", "stowaway.dev/timeout": "1h", "stowaway.dev/idle-timeout": "1m",
        "stowaway.dev/allow-empty": "true", "stowaway.dev/accept-unproven": "true", "stowaway.dev/typo": "x",
    });
    let plan = plan(&[pod("deployment", "app", "app-1", &annotated(&annotations))]);
    let [first, second] = &plan.sources[..] else { panic!("{plan:?}") };
    assert_eq!(first.name.as_str(), "deployment/app/main");
    assert_eq!(second.name.as_str(), "deployment/app/main/roles");
    assert_eq!(
        first.identity,
        SnapshotIdentity {
            host: "shop".into(),
            path: "/shop-main.sql".into(),
            tags: ["source=deployment/app/main", "run=backup-1/deployment/app/main", "cluster=cluster-1", "pod=app-1"]
                .map(str::to_owned)
                .into(),
        }
    );
    assert_eq!(first.alternative_path, "/shop-app-main.sql");
    assert_eq!(
        (second.identity.path.as_str(), second.alternative_path.as_str()),
        ("/shop-main-roles", "/shop-app-main-roles")
    );
    assert_eq!(command_of(second).command.as_deref(), Some("roles"));
    for source in [first, second] {
        assert_eq!(source.repository.as_deref(), Some("offsite"));
        assert_eq!(
            (source.timeout, source.idle_timeout),
            (Some(Duration::from_hours(1)), Some(Duration::from_mins(1)))
        );
        assert!(source.allow_empty && source.accept_unproven);
    }
    assert_eq!(plan.warnings.len(), 1);
    assert!(!format!("{plan:?}").contains("hush"));
}

#[test]
fn paths_of_other_tools_keys_are_the_tools_own() {
    for (prefix, extension) in
        [("k8up.io", "k8up.io"), ("k8up.syn.tools", "k8up.syn.tools"), ("appuio.ch", "backup.appuio.ch")]
    {
        let annotations = json!({ COMMAND: null, format!("{prefix}/backupcommand"): "x", format!("{extension}/file-extension"): "-x.tar.gz" });
        let plan = plan(&[pod("deployment", "app", "app-1", &annotated(&annotations))]);
        assert_eq!(paths(&plan), ["/shop-main-x.tar.gz"]);
        assert_eq!(plan.sources[0].identity.host, "shop");
    }
}

#[test]
fn further_claimants_of_a_path_get_another() {
    let plan = plan(&[
        pod("statefulset", "db", "db-0", &json!({})),
        pod("deployment", "b", "b-1", &json!({})),
        pod("deployment", "a", "a-1", &json!({})),
    ]);
    assert_eq!(paths(&plan), ["/shop-main", "/shop-b-main", "/shop-db-0-main"]);
    assert_eq!(plan.sources[0].alternative_path, "/shop-a-main");
}

#[test]
fn second_choice_yields_to_a_first_one() {
    // The second choice of `b`, /shop-x-main, is the first choice of container `x-main` of `c`.
    let plan = plan(&[
        pod("deployment", "a", "a-1", &json!({})),
        pod("deployment", "x", "x-1", &json!({})),
        pod("deployment", "y", "y-1", &containers(&["x-main"])),
    ]);
    let [_, x, y] = &plan.sources[..] else { panic!("{plan:?}") };
    assert_eq!(y.identity.path, "/shop-x-main");
    assert!(x.identity.path.starts_with("/shop_"), "{}", x.identity.path);
}

#[test]
fn path_is_never_longer_than_a_file_name() {
    let long = |letter: &str| letter.repeat(253);
    let plan = plan(&[
        pod("pod", &long("a"), &long("a"), &containers(&["c"])),
        pod("pod", &long("b"), &long("b"), &containers(&["c"])),
    ]);
    assert_eq!(plan.sources.len(), 2);
    for source in &plan.sources {
        assert!(source.identity.path.len() <= 256 && source.alternative_path.len() <= 256);
        assert!(source.alternative_path.starts_with("/shop_"));
    }
}

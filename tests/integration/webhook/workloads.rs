//! Mistakes in a workload's annotations are reported to the user who makes them, all at once, and block no one else.

use serde_json::{Value, json};

use super::{Webhook, creation, review, yaml};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: mill }
spec:
  replicas: 1
  template:
    metadata: { annotations: {} }
    spec:
      containers: [{ name: press, image: press:1 }]
      volumes: [{ name: barrels, emptyDir: {} }, { name: login, secret: { secretName: a } }]
";

/// The Deployment with these annotations. A key without a slash is one of Stowaway.
fn deployment(annotations: &[(&str, &str)]) -> Value {
    let mut object = yaml(DEPLOYMENT);
    object["spec"]["template"]["metadata"]["annotations"] = all(annotations);
    object
}

fn all(annotations: &[(&str, &str)]) -> Value {
    let key = |key: &str| if key.contains('/') { key.to_owned() } else { format!("stowaway.dev/{key}") };
    annotations.iter().map(|(name, value)| (key(name), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

/// The fields which an answer blames.
fn blamed(answer: &Value) -> Vec<String> {
    let causes = answer["status"]["details"]["causes"].as_array().into_iter().flatten();
    causes.map(|cause| cause["field"].as_str().unwrap_or_default().to_owned()).collect()
}

fn warnings(answer: &Value) -> String {
    answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn all_problems_are_reported_at_once_each_with_key_value_and_reason() {
    let wrong = deployment(&[
        ("backupcommand", ""),
        ("timeout", "soon"),
        ("idle-timeout", "-5s"),
        ("secrets", "kube-system/admin"),
        ("inject", "everything"),
        ("file-extension", "a/b"),
    ]);
    let answer = Webhook::new().admit("/workloads", &creation(&wrong)).await;
    let status = &answer["status"];
    assert_eq!(
        (&answer["allowed"], &status["code"], &status["reason"]),
        (&json!(false), &json!(422), &json!("Invalid"))
    );
    assert_eq!((&status["details"]["kind"], &status["details"]["name"]), (&json!("Deployment"), &json!("mill")));
    assert_eq!(blamed(&answer).len(), 6);
    for (key, value, reason) in [
        ("backupcommand", "0 bytes", "is empty"),
        ("timeout", "\"soon\"", "is not a duration"),
        ("idle-timeout", "\"-5s\"", "is negative"),
        ("secrets", "\"kube-system/admin\"", "another namespace"),
        ("inject", "\"everything\"", "neither"),
        ("file-extension", "\"a/b\"", "slash"),
    ] {
        let field = format!("spec.template.metadata.annotations[stowaway.dev/{key}]");
        let causes = status["details"]["causes"].as_array().unwrap();
        let cause = causes.iter().find(|cause| cause["field"] == field).unwrap_or_else(|| panic!("{field}: {answer}"));
        let message = cause["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("stowaway.dev/{key}")) && message.contains(value) && message.contains(reason),
            "{message}"
        );
        assert!(status["message"].as_str().unwrap().contains(message));
    }
    assert_eq!(answer["auditAnnotations"]["cause"], "Invalid");
}

#[tokio::test]
async fn every_kind_of_workload_is_looked_at_and_no_other() {
    let template = json!({
        "metadata": { "annotations": { "stowaway.dev/backupcommand": "dump", "stowaway.dev/backupcommand-container": "no-such" } },
        "spec": { "containers": [{ "name": "press" }] },
    });
    let webhook = Webhook::new();
    for (version, kind, pointer, blame) in [
        ("apps/v1", "Deployment", "/spec/template", "spec.template.metadata"),
        ("apps/v1", "StatefulSet", "/spec/template", "spec.template.metadata"),
        ("apps/v1", "DaemonSet", "/spec/template", "spec.template.metadata"),
        ("batch/v1", "Job", "/spec/template", "spec.template.metadata"),
        ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template", "spec.jobTemplate.spec.template.metadata"),
        ("v1", "Pod", "", "metadata"),
        ("apps/v1", "ReplicaSet", "/spec/template", ""),
        ("v1", "ReplicationController", "/spec/template", ""),
        ("other.example/v1", "Deployment", "/spec/template", ""),
        ("v1", "ConfigMap", "/spec/template", ""),
    ] {
        let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "mill" } });
        let mut target = &mut object;
        for name in pointer.split('/').filter(|name| !name.is_empty()) {
            target = &mut target[name];
        }
        if pointer.is_empty() {
            object["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
            object["spec"] = template["spec"].clone();
        } else {
            *target = template.clone();
        }
        let answer = webhook.admit("/workloads", &creation(&object)).await;
        if blame.is_empty() {
            assert_eq!(
                (&answer["allowed"], &answer["auditAnnotations"]["cause"]),
                (&json!(true), &json!("NotConcerned"))
            );
            continue;
        }
        let field = format!("{blame}.annotations[stowaway.dev/backupcommand-container]");
        assert_eq!(blamed(&answer), [field], "{kind}: {answer}");
        assert!(answer["status"]["message"].as_str().unwrap().contains("it has press"));
    }
}

/// An update is refused for what it changes, and not for what was invalid before.
#[tokio::test]
async fn an_old_mistake_does_not_block_an_update_that_does_not_touch_it() {
    type Change = fn(&mut Value);
    fn annotate(object: &mut Value, key: &str, value: Option<&str>) {
        let annotations = object["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap();
        match value {
            Some(value) => annotations.insert(format!("stowaway.dev/{key}"), value.into()),
            None => annotations.remove(&format!("stowaway.dev/{key}")),
        };
    }
    let image: Change = |object| object["spec"]["template"]["spec"]["containers"][0]["image"] = "press:2".into();
    let replicas: Change = |object| object["spec"]["replicas"] = 3.into();
    let rename: Change = |object| object["spec"]["template"]["spec"]["containers"][0]["name"] = "presser".into();
    let volume: Change = |object| object["spec"]["template"]["spec"]["volumes"][0]["name"] = "casks".into();
    let login: Change = |object| object["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"] = "b".into();
    let sound: Change = |object| annotate(object, "timeout", Some("5m"));
    let further: Change = |object| annotate(object, "idle-timeout", Some("never"));
    let unknown: Change = |object| annotate(object, "shedule", Some("@daily"));
    let old = |annotations: &'static [(&'static str, &'static str)]| annotations;
    let long = [("timeout", "x".repeat(200))];
    let cases = [
        ("another image", old(&[("backupcommand", "")]), image, 0),
        ("scaling", old(&[("backupcommand", ""), ("inject", "all")]), replicas, 0),
        ("a sound annotation beside it", old(&[("backupcommand", "dump"), ("inject", "all")]), sound, 0),
        ("a further mistake", old(&[("backupcommand", "dump"), ("inject", "all")]), further, 1),
        ("an unknown key", old(&[("backupcommand", "dump"), ("inject", "all")]), unknown, 0),
        ("the wrong value, differently wrong", old(&[("backupcommand", "dump"), ("idle-timeout", "x")]), further, 1),
        (
            "an unknown container, untouched",
            old(&[("backupcommand", "dump"), ("backupcommand-container", "x")]),
            image,
            0,
        ),
        (
            "an unknown container, others renamed",
            old(&[("backupcommand", "dump"), ("backupcommand-container", "x")]),
            rename,
            1,
        ),
        ("an unknown volume, containers renamed", old(&[("inject", "sidecar"), ("volumes", "x")]), rename, 0),
        ("an unknown volume, others renamed", old(&[("inject", "sidecar"), ("volumes", "x")]), volume, 1),
        ("a volume without files", old(&[("inject", "sidecar"), ("volumes", "login")]), image, 0),
        ("a volume without files, another one", old(&[("inject", "sidecar"), ("volumes", "login")]), login, 1),
        (
            "what was right, made wrong by the template",
            old(&[("inject", "sidecar"), ("volumes", "barrels")]),
            volume,
            1,
        ),
        ("an orphan that was one", old(&[("file-extension", ".sql")]), image, 0),
        (
            "an orphan that is made one",
            old(&[("backupcommand", "dump"), ("file-extension", ".sql")]),
            |object| annotate(object, "backupcommand", None),
            1,
        ),
        (
            "a command of the same length",
            old(&[("backupcommand", "[1]")]),
            |object| annotate(object, "backupcommand", Some("[2]")),
            1,
        ),
        ("mended", old(&[("backupcommand", "")]), |object| annotate(object, "backupcommand", Some("dump")), 0),
    ];
    let webhook = Webhook::new();
    for (name, annotations, change, refused) in cases {
        let before = deployment(annotations);
        let mut after = before.clone();
        change(&mut after);
        let answer = webhook.admit("/workloads", &review("UPDATE", &after, &before)).await;
        assert_eq!(blamed(&answer).len(), refused, "{name}: {answer}");
        assert_eq!(answer["allowed"], refused == 0, "{name}");
        if refused == 0 && name.contains("untouched") {
            assert_eq!(answer["auditAnnotations"]["cause"], "KnownMistakes");
            assert!(warnings(&answer).contains("no container \"x\""), "{answer}");
        }
        // The creation of the same object is refused.
        let created = webhook.admit("/workloads", &creation(&before)).await;
        let was_wrong = created["allowed"] == false;
        assert!(was_wrong || name.contains("right") || name.contains("made one"), "{name}");
    }
    // Values are compared in full, although messages show only a part.
    let before = deployment(&[("backupcommand", "dump"), (long[0].0, &long[0].1)]);
    let mut after = before.clone();
    annotate(&mut after, "timeout", Some(&format!("{}y", &long[0].1)));
    assert_eq!(webhook.admit("/workloads", &review("UPDATE", &after, &before)).await["allowed"], false);
}

#[tokio::test]
async fn object_that_a_controller_creates_or_that_is_being_deleted_is_never_refused() {
    let webhook = Webhook::new();
    let wrong = deployment(&[("backupcommand", "")]);
    let mut made = wrong.clone();
    made["metadata"]["ownerReferences"] = json!([{ "kind": "Database", "name": "x", "controller": true }]);
    let mut leaving = wrong.clone();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    for question in [creation(&made), review("UPDATE", &leaving, &deployment(&[]))] {
        let answer = webhook.admit("/workloads", &question).await;
        assert_eq!((&answer["allowed"], &answer["auditAnnotations"]["cause"]), (&json!(true), &json!("NotByHand")));
        assert!(warnings(&answer).contains("stowaway.dev/backupcommand"));
    }
    // An object with an owner which is not a controller is treated as the user's.
    let mut owned = wrong;
    owned["metadata"]["ownerReferences"] = json!([{ "kind": "App", "name": "x" }]);
    assert_eq!(webhook.admit("/workloads", &creation(&owned)).await["allowed"], false);
}

#[tokio::test]
async fn unknown_stowaway_keys_are_warned_of_with_the_nearest_one() {
    // Also together with an invalid value, so that the user learns both at once.
    for (annotations, allowed) in
        [(&[("backupcomand", "dump")][..], true), (&[("backupcomand", "dump"), ("timeout", "soon")], false)]
    {
        let deployment = deployment(annotations);
        let mut pod = deployment["spec"]["template"].clone();
        (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
        for (path, object) in [("/workloads", &deployment), ("/pods", &pod)] {
            let answer = Webhook::new().admit(path, &creation(object)).await;
            assert_eq!(answer["allowed"], allowed);
            assert!(warnings(&answer).contains("the nearest known one is stowaway.dev/backupcommand"), "{answer}");
        }
    }
}

#[tokio::test]
async fn commands_whose_failure_would_be_green_are_warned_of() {
    for (key, command, expected) in [
        ("backupcommand", "sh -c 'pg_dump a; pg_dump b'", "begin the script with `set -e;`"),
        ("k8up.io/backupcommand", "sh -c 'pg_dump a; pg_dump b'", "begin the script with `set -e;`"),
        ("backupcommand", "pg_dump a | gzip", "`|` is passed to pg_dump as text"),
        ("k8up.io/backupcommand", "echo $HOME", "`$NAME` is passed to echo as text"),
        ("backupcommand", "sh -c 'set -e; pg_dump a; pg_dump b'", ""),
        ("k8up.io/backupcommand", "pg_dump 'a|b' '$c'", ""),
    ] {
        let deployment = deployment(&[(key, command)]);
        let mut pod = deployment["spec"]["template"].clone();
        (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
        for (path, object) in [("/workloads", &deployment), ("/pods", &pod)] {
            let answer = Webhook::new().admit(path, &creation(object)).await;
            assert_eq!(answer["allowed"], true, "{answer}");
            let warned = warnings(&answer);
            assert!(warned.contains(expected) && warned.is_empty() == expected.is_empty(), "{command}: {answer}");
        }
    }
}

#[tokio::test]
async fn keys_with_a_similar_prefix_are_warned_of_with_the_right_spelling() {
    for (key, meant) in [
        ("stowaway.io/backupcommand", "stowaway.dev/backupcommand"),
        ("stowawy.dev/backup-comand", "stowaway.dev/backupcommand"),
        ("k8up.io/backupcomand", "k8up.io/backupcommand"),
    ] {
        let in_template = deployment(&[(key, "dump")]);
        let mut on_itself = deployment(&[]);
        on_itself["metadata"]["annotations"] = all(&[(key, "dump")]);
        let mut pod = in_template["spec"]["template"].clone();
        (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
        for object in [&in_template, &on_itself, &pod] {
            let answer = Webhook::new().admit("/workloads", &creation(object)).await;
            assert_eq!(answer["allowed"], true, "{answer}");
            assert!(warnings(&answer).contains(&format!("the nearest known one is {meant}")), "{answer}");
        }
    }
    let of_others = [
        ("velero.io/backup", "x"),
        ("k8up.io/backup", "false"),
        ("stowaway.com/team", "orchard"),
        ("mystowaway.example.org/x", "y"),
    ];
    let sound = deployment(&of_others);
    assert_eq!(warnings(&Webhook::new().admit("/workloads", &creation(&sound)).await), "");
}

#[tokio::test]
async fn settings_that_the_label_of_the_namespace_can_give_an_effect_are_admitted_with_a_remark() {
    for (setting, has_label) in [
        (("timeout", "1h"), true),
        (("idle-timeout", "90s"), true),
        (("secrets", "login"), true),
        (("sidecar-resources", r#"{"limits":{"cpu":"1"}}"#), true),
        (("allow-empty", "true"), false),
    ] {
        let deployment = deployment(&[setting]);
        let mut pod = deployment["spec"]["template"].clone();
        (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
        for (path, object) in [("/workloads", &deployment), ("/pods", &pod)] {
            let answer = Webhook::new().admit(path, &creation(object)).await;
            assert_eq!(answer["allowed"], true, "{answer}");
            let warned = warnings(&answer);
            assert_eq!(warned.lines().count(), 1, "{answer}");
            assert!(warned.contains(&format!("stowaway.dev/{}: has no effect", setting.0)), "{warned}");
            let remark = "unless the label of the Namespace requests the injection";
            assert_eq!(warned.contains(remark), has_label, "{warned}");
        }
    }
}

#[tokio::test]
async fn keys_of_others_are_only_warned_of() {
    let webhook = Webhook::new();
    for annotations in [
        &[("k8up.io/backupcommand", "")][..],
        &[("k8up.io/backupcommand", "dump"), ("k8up.io/backupcommand-container", "no-such")],
        &[("k8up.io/backupcommand", "dump"), ("k8up.io/file-extension", "a/b")],
        &[("backupcommand", "dump"), ("kubectl.kubernetes.io/default-container", "no-such")],
    ] {
        let answer = webhook.admit("/workloads", &creation(&deployment(annotations))).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        assert!(!warnings(&answer).is_empty(), "{annotations:?}");
    }
}

#[tokio::test]
async fn claims_of_a_stateful_set_are_known() {
    let set = yaml(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: well }
spec:
  template:
    metadata: { annotations: { stowaway.dev/restore: on-empty } }
    spec: { containers: [{ name: pump, volumeMounts: [{ name: water, mountPath: /w }] }] }
  volumeClaimTemplates: [{ metadata: { name: water } }]
",
    );
    let webhook = Webhook::new();
    assert_eq!(webhook.admit("/workloads", &creation(&set)).await["allowed"], true);
    let mut without = set;
    without["spec"].as_object_mut().unwrap().remove("volumeClaimTemplates");
    let answer = webhook.admit("/workloads", &creation(&without)).await;
    assert_eq!(blamed(&answer), ["spec.template.metadata.annotations[stowaway.dev/restore]"]);
}

#[tokio::test]
async fn live_files_of_a_database_without_a_dump_are_warned_of_with_what_to_do() {
    let set = |image: &str, more: &[(&str, &str)]| {
        let mut set = yaml(
            "
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: well }
spec:
  template:
    metadata: { annotations: {} }
    spec: { containers: [{ name: pump, volumeMounts: [{ name: water, mountPath: /w }] }] }
  volumeClaimTemplates: [{ metadata: { name: water } }]
",
        );
        set["spec"]["template"]["metadata"]["annotations"] = all(&[&[("restore", "on-empty")], more].concat());
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        set
    };
    let warned = async |set: &Value| {
        let answer = Webhook::new().admit("/workloads", &creation(set)).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        warnings(&answer)
    };
    let text = warned(&set("timescale/timescaledb:2-pg16", &[])).await;
    for part in [
        "volume water",
        "PostgreSQL",
        "stowaway.dev/backupcommand (pg_dump)",
        "stowaway.dev/volume-snapshot-class on the claim",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!warned(&set("press:1", &[])).await.contains("live files"));
    assert!(!warned(&set("postgres:16", &[("backupcommand", "pg_dump shop")])).await.contains("live files"));
}

#[tokio::test]
async fn annotations_on_the_workload_itself_are_warned_of_and_refuse_nothing() {
    let mut wrong = deployment(&[]);
    wrong["metadata"]["annotations"] =
        all(&[("backupcommand", "dump"), ("k8up.io/backupcommand", "dump"), ("allow-missing", "true")]);
    let answer = Webhook::new().admit("/workloads", &creation(&wrong)).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    let warned = warnings(&answer);
    assert_eq!(warned.lines().count(), 2, "{warned}");
    assert!(warned.contains("Deployment mill") && warned.contains("stowaway.dev/backupcommand"), "{warned}");
    assert!(warned.contains("pod template"), "{warned}");
}

#[tokio::test]
async fn claims_and_namespaces_are_warned_of_typos_and_never_refused() {
    let object = |kind: &str, annotations: &[(&str, &str)], labels: &[(&str, &str)]| {
        json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": { "name": "mill", "annotations": all(annotations), "labels": all(labels) },
        })
    };
    for (object, expected) in [
        (object("PersistentVolumeClaim", &[("excludes", "*.log")], &[]), "stowaway.dev/exclude"),
        (
            object("PersistentVolumeClaim", &[("volumesnapshot-class", "fast")], &[]),
            "stowaway.dev/volume-snapshot-class",
        ),
        (object("PersistentVolumeClaim", &[("backupcommand", "dump")], &[]), "read on Pod"),
        (object("PersistentVolumeClaim", &[], &[("k8up.io/backup", "false")]), "k8up.io/backup"),
        (object("Namespace", &[("k8up.io/backup", "false")], &[]), "on a Namespace"),
        (object("Namespace", &[], &[("inject", "side-car")]), "side-car"),
        (object("Namespace", &[], &[("stowaway.io/backup", "false")]), "stowaway.dev/backup (it is a label)"),
        (object("PersistentVolumeClaim", &[("stowawy.dev/exclude", "*.log")], &[]), "stowaway.dev/exclude"),
        (object("PersistentVolumeClaim", &[], &[("backup", "flase")]), "\"flase\""),
        (object("PersistentVolumeClaim", &[("k8up.io/backupcommand", "dump")], &[]), "read on Pod"),
    ] {
        for review in [creation(&object), review("UPDATE", &object, &object)] {
            let answer = Webhook::new().admit("/annotations", &review).await;
            assert_eq!(answer["allowed"], true, "{answer}");
            assert_eq!(answer["warnings"].as_array().map_or(0, Vec::len), 1, "{answer}");
            assert!(warnings(&answer).contains(expected), "{answer}");
        }
    }
    let sound = object("PersistentVolumeClaim", &[("backup", "false"), ("k8up.io/backup", "false")], &[]);
    assert_eq!(warnings(&Webhook::new().admit("/annotations", &creation(&sound)).await), "");
}

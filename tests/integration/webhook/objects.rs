//! Repositories, Backups and Restores which the schema allows, but which could only fail.

use serde_json::{Value, json};
use stowaway::api::Repository;

use super::{Webhook, creation, review};

fn repository(spec: &Value) -> Value {
    json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository", "metadata": { "name": "main", "namespace": "orchard" }, "spec": spec })
}

fn s3(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = repository(&json!({
        "s3": {
            "endpoint": "https://s3.example.org",
            "bucket": "barrels",
            "credentials": {
                "accessKeyIdSecretRef": { "name": "s3", "key": "id" },
                "secretAccessKeySecretRef": { "name": "s3", "key": "secret" },
            },
        },
        "passwordSecretRef": { "name": "password" },
    }));
    change(&mut object["spec"]);
    object
}

fn volume(volume: &Value) -> Value {
    repository(&json!({ "volume": volume, "passwordSecretRef": { "name": "password" } }))
}

fn run(kind: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": kind, "metadata": { "name": "first" }, "spec": spec })
}

fn restore(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({ "from": { "source": "deployment/mill/press" } });
    change(&mut spec);
    run("Restore", &spec)
}

fn blamed(answer: &Value) -> Vec<&str> {
    let causes = answer["status"]["details"]["causes"].as_array().into_iter().flatten();
    causes.map(|cause| cause["field"].as_str().unwrap()).collect()
}

/// Objects, and the fields which are invalid in them.
type Cases = Vec<(Value, &'static [&'static str])>;

fn repositories() -> Cases {
    vec![
        (s3(|_| ()), &[]),
        (s3(|spec| spec["s3"]["endpoint"] = "http://minio.backup:9000/".into()), &[]),
        (s3(|spec| spec["s3"]["endpoint"] = "https://[fd00::1]:9000".into()), &[]),
        (s3(|spec| spec["s3"]["endpoint"] = "https://s3.example.org:99999".into()), &["spec.s3.endpoint"]),
        (s3(|spec| spec["s3"]["endpoint"] = "https://s3.example.org:".into()), &["spec.s3.endpoint"]),
        (s3(|spec| spec["s3"]["endpoint"] = "https://:9000".into()), &["spec.s3.endpoint"]),
        (s3(|spec| spec["s3"]["endpoint"] = "https://user:hush@s3.example.org".into()), &["spec.s3.endpoint"]),
        (s3(|spec| spec["s3"]["bucket"] = "a..b".into()), &["spec.s3.bucket"]),
        (
            s3(|spec| {
                spec["s3"]["pathStyle"] = false.into();
                spec["s3"]["bucket"] = "Bar_rels".into();
                spec["s3"]["endpoint"] = "http://10.0.0.1:9000".into();
            }),
            &["spec.s3.pathStyle", "spec.s3.bucket"],
        ),
        (
            s3(|spec| {
                spec["s3"]["credentials"]["accessKeyIdSecretRef"] = json!({ "name": "other/s3", "key": "a b" });
                spec["s3"]["credentials"]["sessionTokenSecretRef"] = json!({ "name": "S3", "key": ".." });
                spec["passwordSecretRef"]["name"] = "../x".into();
            }),
            &[
                "spec.s3.credentials.accessKeyIdSecretRef.name",
                "spec.s3.credentials.accessKeyIdSecretRef.key",
                "spec.s3.credentials.sessionTokenSecretRef.name",
                "spec.s3.credentials.sessionTokenSecretRef.key",
                "spec.passwordSecretRef.name",
            ],
        ),
        (volume(&json!({ "persistentVolumeClaim": { "claimName": "x" } })), &[]),
        (
            volume(&json!({ "persistentVolumeClaim": { "claimName": "X", "readOnly": true } })),
            &["spec.volume.persistentVolumeClaim.claimName", "spec.volume.persistentVolumeClaim.readOnly"],
        ),
        (volume(&json!({ "nfs": { "server": "", "path": "a" } })), &["spec.volume.nfs.server", "spec.volume.nfs.path"]),
        (
            volume(&json!({ "hostPath": { "path": "/a/../etc", "type": "File" } })),
            &["spec.volume.hostPath.path", "spec.volume.hostPath.type"],
        ),
        (volume(&json!({ "hostPath": { "path": "/var/lib/kubelet/pods" } })), &["spec.volume.hostPath.path"]),
        (volume(&json!({ "hostPath": { "path": "/srv/barrels", "type": "DirectoryOrCreate" } })), &[]),
        (repository(&json!({ "passwordSecretRef": { "name": "x" } })), &["spec"]),
        (
            repository(&json!({
                "rest": { "url": "https://:8000/x" },
                "sftp": {
                    "host": "h", "user": "u", "path": "p", "hostKeysSecretRef": { "name": "A", "key": "b" },
                    "credentials": { "privateKeySecretRef": { "name": "a", "key": "b c" } },
                },
                "tls": { "caConfigMapRef": { "name": "C", "key": "ca.crt" } },
                "passwordSecretRef": { "name": "x" },
            })),
            &[
                "spec",
                "spec.rest.url",
                "spec.sftp.credentials.privateKeySecretRef.key",
                "spec.sftp.hostKeysSecretRef.name",
                "spec.tls.caConfigMapRef.name",
            ],
        ),
        (
            repository(&json!({
                "azure": {
                    "account": "orchard", "container": "barrels", "endpoint": "https://blobs.example.org:99999",
                    "credentials": { "sasTokenSecretRef": { "name": "/", "key": "token" } },
                },
                "passwordSecretRef": { "name": "x" },
            })),
            &["spec.azure.endpoint", "spec.azure.credentials.sasTokenSecretRef.name"],
        ),
        (
            repository(&json!({
                "gcs": {
                    "bucket": "barrels", "endpoint": "https://",
                    "credentials": { "serviceAccountSecretRef": { "name": "google", "key": "a/b" } },
                },
                "passwordSecretRef": { "name": "x" },
            })),
            &["spec.gcs.endpoint", "spec.gcs.credentials.serviceAccountSecretRef.key"],
        ),
        (
            s3(|spec| {
                spec["timeZone"] = "Europe/Berlin".into();
                spec["retention"] = json!({ "keepDaily": 7 });
                spec["prune"] = json!({ "schedule": " @daily-random " });
                spec["check"] = json!({ "schedule": "30 3 * * MON", "readAllWithin": "30d" });
            }),
            &[],
        ),
        (
            s3(|spec| {
                spec["timeZone"] = "Berlin".into();
                spec["prune"] = json!({ "schedule": "@sometimes" });
                spec["check"] = json!({ "schedule": "0 0 30 2 *" });
            }),
            &["spec.timeZone", "spec.prune.schedule", "spec.check.schedule"],
        ),
    ]
}

fn runner_pods() -> Cases {
    let resources = json!({ "limits": { "memory": "1GB" }, "requests": { "cpu": "half" } });
    vec![
        (
            run(
                "Backup",
                &json!({ "repositoryRef": { "name": "other/main" }, "runnerPod": {
                "labels": { "a b": "c", "d": "e f" },
                "annotations": { "/x": "any text at all" },
                "nodeSelector": { "disk": "-ssd" },
                "tolerations": [{ "operator": "Equal" }, { "key": "a", "operator": "Exists", "value": "b", "effect": "Never" }],
                "imagePullSecrets": [{ "name": "a/b" }],
                "resources": resources,
                "securityContext": { "runAsUser": 0, "runAsNonRoot": true },
                "env": [
                    { "name": "STOWAWAY_TASK", "value": "x" },
                    { "name": "A", "valueFrom": { "secretKeyRef": { "name": "a/b", "key": "k" } } },
                ],
                "priorityClassName": "a/b",
            } }),
            ),
            &[
                "spec.repositoryRef.name",
                "spec.runnerPod.nodeSelector.disk",
                "spec.runnerPod.labels.a b",
                "spec.runnerPod.labels.d",
                "spec.runnerPod.annotations./x",
                "spec.runnerPod.imagePullSecrets.0.name",
                "spec.runnerPod.tolerations.0.operator",
                "spec.runnerPod.tolerations.1.value",
                "spec.runnerPod.tolerations.1.effect",
                "spec.runnerPod.resources.limits.memory",
                "spec.runnerPod.resources.requests.cpu",
                "spec.runnerPod.securityContext.runAsUser",
                "spec.runnerPod.env.0.name",
                "spec.runnerPod.env.1.valueFrom.secretKeyRef.name",
                "spec.runnerPod.priorityClassName",
            ],
        ),
        (
            run(
                "Backup",
                &json!({ "runnerPod": { "resources": {
                    "limits": { "cpu": "1", "memory": "1Gi", "ephemeral-storage": "1G", "example.com/gpu": "2" },
                    "requests": { "cpu": "1001m", "memory": "1024Mi", "ephemeral-storage": "1Gi", "example.com/gpu": "3" },
                } } }),
            ),
            &[
                "spec.runnerPod.resources.requests.cpu",
                "spec.runnerPod.resources.requests.ephemeral-storage",
                "spec.runnerPod.resources.requests.example.com/gpu",
            ],
        ),
        // A limit alone implies a request of the same amount, and a request alone implies no limit.
        (
            s3(|spec| {
                spec["runnerPod"] =
                    json!({ "resources": { "limits": { "cpu": "1" }, "requests": { "memory": "9Ti" } } });
            }),
            &[],
        ),
        (
            s3(|spec| {
                spec["runnerPod"] =
                    json!({ "resources": { "limits": { "cpu": "-1" }, "requests": { "cpu": "1", "memory": "--1" } } });
            }),
            &["spec.runnerPod.resources.limits.cpu", "spec.runnerPod.resources.requests.memory"],
        ),
    ]
}

fn runs() -> Cases {
    vec![
        (run("Backup", &json!({})), &[]),
        (run("Backup", &json!({ "timeout": "1h-5m", "idleTimeout": "" })), &["spec.timeout", "spec.idleTimeout"]),
        (
            run(
                "Backup",
                &json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Is", "values": ["b"] }] } }),
            ),
            &["spec.selector"],
        ),
        // All problems are reported at once, whichever field is parsed first.
        (
            run(
                "Backup",
                &json!({ "timeout": "soon", "repositoryRef": { "name": "/" }, "runnerPod": { "labels": { "a b": "" } } }),
            ),
            &["spec.timeout", "spec.repositoryRef.name", "spec.runnerPod.labels.a b"],
        ),
        (
            restore(|spec| {
                spec["idleTimeout"] = "1e9999h".into();
                spec["to"] = json!({ "pod": "a/b" });
            }),
            &["spec.idleTimeout", "spec.to.pod"],
        ),
        (
            s3(|spec| {
                spec["s3"]["endpoint"] = "https://:9000".into();
                spec["s3"]["bucket"] = "A..b".into();
            }),
            &["spec.s3.endpoint", "spec.s3.bucket"],
        ),
        (restore(|_| ()), &[]),
        (restore(|spec| spec["from"]["source"] = "statefulset/well/pump".into()), &["spec.from.source"]),
        (restore(|spec| spec["timeout"] = "0s".into()), &["spec.timeout"]),
        (
            restore(|spec| spec["to"] = json!({ "pod": "a/b", "container": "C", "command": [""] })),
            &["spec.to.pod", "spec.to.container", "spec.to.command"],
        ),
        (
            restore(|spec| spec["runnerPod"] = json!({ "env": [{ "name": "LD_PRELOAD" }] })),
            &["spec.runnerPod.env.0.name"],
        ),
        (restore(|spec| spec["idleTimeout"] = "5m".into()), &[]),
        (
            restore(|spec| {
                spec["idleTimeout"] = "5m".into();
                spec["to"] = json!({ "claim": { "name": "cask" } });
            }),
            &["spec.idleTimeout"],
        ),
        (archive(|_| ()), &[]),
        (
            archive(|to| {
                to["name"] = "data/config".into();
                to["s3"]["endpoint"] = "https://:9000".into();
                to["s3"]["credentials"]["accessKeyIdSecretRef"]["name"] = "a/b".into();
            }),
            &[
                "spec.to.archive.s3.endpoint",
                "spec.to.archive.s3.credentials.accessKeyIdSecretRef.name",
                "spec.to.archive.name",
            ],
        ),
    ]
}

/// A Restore into a command.
fn command(command: &[&str]) -> Value {
    restore(|spec| spec["to"] = json!({ "command": command }))
}

/// A Restore to an archive in a bucket.
fn archive(change: impl FnOnce(&mut Value)) -> Value {
    let mut to = s3(|_| ())["spec"].clone();
    to.as_object_mut().unwrap().retain(|field, _| field == "s3");
    let key = json!({ "name": "keys", "key": "id" });
    to["s3"]["credentials"] = json!({ "accessKeyIdSecretRef": key, "secretAccessKeySecretRef": key });
    change(&mut to);
    restore(|spec| spec["to"] = json!({ "archive": to }))
}

#[tokio::test]
async fn object_that_could_only_fail_is_refused_with_the_field() {
    let webhook = Webhook::new();
    for (object, fields) in [repositories(), runner_pods(), runs()].concat() {
        let answer = webhook.admit("/objects", &creation(&object)).await;
        let mut fields = fields.to_vec();
        let mut found = blamed(&answer);
        fields.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, fields, "{object}: {answer}");
        assert_eq!(answer["allowed"], fields.is_empty());
        if !fields.is_empty() {
            assert_eq!((&answer["status"]["code"], &answer["status"]["reason"]), (&json!(422), &json!("Invalid")));
        }
        assert!(!answer.to_string().contains("hush"));
    }
}

#[tokio::test]
async fn volume_that_nothing_can_be_written_to_is_refused_for_repositories_and_archives() {
    let webhook = Webhook::new();
    let sources = [
        ("nfs", json!({ "server": "nas", "path": "/a" })),
        ("csi", json!({ "driver": "d" })),
        ("azureFile", json!({ "secretName": "s", "shareName": "a" })),
        ("persistentVolumeClaim", json!({ "claimName": "x" })),
    ];
    for (kind, mut source) in sources {
        for read_only in [false, true] {
            source["readOnly"] = read_only.into();
            let store_volume = json!({ kind: source });
            let into = restore(|spec| spec["to"] = json!({ "archive": { "volume": store_volume } }));
            for (object, base) in [(volume(&store_volume), "spec"), (into, "spec.to.archive")] {
                let answer = webhook.admit("/objects", &creation(&object)).await;
                let field = format!("{base}.volume.{kind}.readOnly");
                assert_eq!(blamed(&answer), if read_only { vec![field.as_str()] } else { vec![] }, "{answer}");
                assert_eq!(answer.to_string().contains("leave readOnly out"), read_only, "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn retention_that_nothing_carries_out_is_warned_of_with_what_follows_and_what_to_set() {
    let webhook = Webhook::new();
    let warnings = async |prune: bool| {
        let object = s3(|spec| {
            spec["retention"] = json!({ "keepDaily": 7 });
            if prune {
                spec["prune"] = json!({ "schedule": "@daily-random" });
            }
        });
        let answer = webhook.admit("/objects", &creation(&object)).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        answer["warnings"].as_array().cloned().unwrap_or_default()
    };
    let [warning] = &warnings(false).await[..] else { panic!("no warning, or several") };
    let warning = warning.as_str().unwrap();
    for part in
        ["spec.retention", "no snapshot is ever removed", "StoreFull", "spec.prune.schedule", "leave retention out"]
    {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(warnings(true).await.is_empty());
}

#[tokio::test]
async fn an_old_mistake_does_not_block_an_update_that_does_not_touch_it() {
    let webhook = Webhook::new();
    let before = s3(|spec| spec["s3"]["bucket"] = "a..b".into());
    let mut untouched = before.clone();
    untouched["spec"]["s3"]["region"] = "eu-central-1".into();
    untouched["metadata"]["labels"] = json!({ "a": "b" });
    let answer = webhook.admit("/objects", &review("UPDATE", &untouched, &before)).await;
    assert_eq!((&answer["allowed"], &answer["auditAnnotations"]["cause"]), (&json!(true), &json!("KnownMistakes")));
    assert!(answer["warnings"][0].as_str().unwrap().contains("spec.s3.bucket"));
    for (value, allowed) in [("a.b", true), ("b..c", false)] {
        let mut touched = before.clone();
        touched["spec"]["s3"]["bucket"] = value.into();
        assert_eq!(
            webhook.admit("/objects", &review("UPDATE", &touched, &before)).await["allowed"],
            allowed,
            "{value}"
        );
    }
    // The finalizer of an object must be removable, even if the object is invalid.
    let mut leaving = before;
    leaving["spec"]["passwordSecretRef"]["name"] = "/".into();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(webhook.admit("/objects", &review("UPDATE", &leaving, &s3(|_| ()))).await["allowed"], true);
}

#[tokio::test]
async fn webhook_names_the_default_that_runs_choose_of_two_repositories_of_one_second() {
    let of = |name: &str, created: &str| {
        let mut object = s3(|_| ());
        object["metadata"]["name"] = name.into();
        object["metadata"]["creationTimestamp"] = created.into();
        object
    };
    let (first, second) = ("2026-05-04T03:02:01Z", "2026-05-04T03:02:02Z");
    for (known, new, expected) in [
        (
            of("b", first),
            of("c", first),
            "Repository b remains the default, because both were created in the same second",
        ),
        (of("b", first), of("a", first), "this Repository becomes the default instead of Repository b"),
        (of("b", first), of("a", second), "Repository b remains the default, because it is older"),
    ] {
        let both: Vec<Repository> = [&known, &new].map(|object| serde_json::from_value(object.clone()).unwrap()).into();
        let answer = Webhook::knowing(&both[..1]).await.admit("/objects", &creation(&new)).await;
        let warning = answer["warnings"][0].as_str().unwrap_or_default();
        assert!(warning.contains(expected), "{answer}");
        let chosen = stowaway::plan::choose_repository(&both, None).unwrap();
        let is_new = chosen.metadata.name.as_deref() == new["metadata"]["name"].as_str();
        assert_eq!(is_new, warning.contains("becomes the default"), "{answer}");
    }
}

#[tokio::test]
async fn object_that_may_still_work_is_admitted_with_a_warning() {
    let known: Repository = serde_json::from_value({
        let mut other = s3(|_| ());
        other["metadata"]["name"] = "other".into();
        other["metadata"]["annotations"] = json!({ "stowaway.dev/is-default": "true" });
        other
    })
    .unwrap();
    let webhook = Webhook::knowing(&[known]).await;
    let mut second = s3(|_| ());
    second["metadata"]["annotations"] = json!({ "stowaway.dev/is-default": "true", "stowaway.dev/isdefault": "true" });
    let mut maybe = s3(|_| ());
    maybe["metadata"]["annotations"] = json!({ "stowaway.dev/is-default": "yes" });
    let mut stricter = s3(|_| ());
    stricter["spec"]["retention"] = json!({ "keepLast": 1 });
    stricter["spec"]["prune"] = json!({ "schedule": "@daily-random" });
    for (object, expected) in [
        (second, vec!["other is the default, too", "is not known on a Repository"]),
        (maybe, vec!["only \"true\""]),
        (stricter, vec!["differs from that of Repository other, which is the same repository"]),
        (run("Backup", &json!({ "repositoryRef": { "name": "later" } })), vec!["no Repository later"]),
        (run("Backup", &json!({ "repositoryRef": { "name": "other" } })), vec![]),
        (run("Backup", &json!({ "timeout": "5m", "idleTimeout": "5m" })), vec!["has no effect"]),
        // Commands that would be green although nothing, or only a part, was restored.
        (command(&["sh", "-c", "psql; psql"]), vec!["spec.to.command: only the last command of the script"]),
        (command(&["sh", "-c", "gunzip | psql"]), vec!["spec.to.command: has a pipe"]),
        (command(&["cat", "|", "psql"]), vec!["spec.to.command: `|` is passed to cat as text"]),
        (command(&["psql", "$(DATABASE)"]), vec!["Kubernetes does not replace"]),
        (command(&["sh", "-c", "set -e; psql; psql"]), vec![]),
    ] {
        let answer = webhook.admit("/objects", &creation(&object)).await;
        assert_eq!(answer["allowed"], true, "{answer}");
        let warnings = answer.get("warnings").map(Value::to_string).unwrap_or_default().replace("\\\"", "\"");
        assert_eq!(answer["warnings"].as_array().map_or(0, Vec::len), expected.len(), "{answer}");
        assert!(expected.iter().all(|expected| warnings.contains(expected)), "{answer}");
    }
}

//! Invalid objects and annotations are rejected or reported at once, with all problems together.

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use stowaway::{
    api::{self, Backup, Repository},
    model::Verdict,
};
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, in_namespace, process,
    runs::{ended, ensure_contains, source},
    workload::COMMAND,
};

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Checks that the API server rejects the object with this text in its message.
async fn is_refused(namespace: &Namespace, object: Value, text: &str) -> Result<()> {
    let what = object["metadata"]["name"].to_string();
    match namespace.apply_object(object).await {
        Ok(()) => bail!("{what} was accepted"),
        Err(error) => ensure_contains(&what, &format!("{error:#}"), &[text]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_objects_are_refused_by_the_api_server() -> Result<()> {
    in_namespace("refused", async |namespace: &Namespace| {
        let password = json!({ "name": "password" });
        let reference = json!({ "name": "store", "key": "id" });
        let s3 = json!({
            "endpoint": "http://s3:9000", "bucket": "backups",
            "credentials": { "accessKeyIdSecretRef": reference, "secretAccessKeySecretRef": reference },
        });
        let volume = json!({ "hostPath": { "path": "/srv" } });
        let refused = [
            (
                "two-backends",
                json!({ "s3": s3, "volume": volume, "passwordSecretRef": password }),
                "exactly one backend",
            ),
            ("no-backend", json!({ "passwordSecretRef": password }), "exactly one backend"),
            (
                "no-volume",
                json!({ "volume": { "path": "x" }, "passwordSecretRef": password }),
                "exactly one volume source",
            ),
            ("no-password", json!({ "volume": volume }), "passwordSecretRef"),
        ];
        for (name, spec, text) in refused {
            is_refused(namespace, object("Repository", name, &spec), text).await?;
        }
        for (name, spec, text) in [
            ("soon", json!({ "timeout": "soon" }), "spec.timeout"),
            ("never", json!({ "idleTimeout": "0s" }), "longer than 0s"),
            ("often", json!({ "retryLimit": 11 }), "spec.retryLimit"),
        ] {
            is_refused(namespace, object("Backup", name, &spec), text).await?;
        }
        for (name, from, text) in [
            ("anything", json!({}), "spec.from.source"),
            ("latest", json!({ "source": "latest" }), "spec.from.source"),
            ("short", json!({ "source": "pod/a/b", "snapshot": "12" }), "spec.from.snapshot"),
        ] {
            is_refused(namespace, object("Restore", name, &json!({ "from": from })), text).await?;
        }
        // The spec of a Backup is immutable.
        namespace.apply_object(object("Backup", "fixed", &json!({ "timeout": "90s" }))).await?;
        is_refused(namespace, object("Backup", "fixed", &json!({ "timeout": "91s" })), "cannot be changed").await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_annotations_are_reported_all_together_and_the_good_pod_is_backed_up() -> Result<()> {
    let good = Sequence::new(Kind::Every, 0, 3000);
    in_namespace("annotations", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        let idle = |name: &str| Workload::new(namespace, name, "shell-less");
        let long = format!("emit --kind text {}", "x".repeat(16 * 1024));
        Workload::dumping(namespace, "good", &good).start(namespace).await?;
        let bad = [
            (idle("empty").annotate(COMMAND, " "), &["stowaway.dev/backupcommand", "is empty"][..]),
            (idle("long").annotate(COMMAND, &long), &["stowaway.dev/backupcommand", "16384"]),
            (
                idle("stranger")
                    .annotate(COMMAND, "emit --bytes 1")
                    .annotate("stowaway.dev/backupcommand-container", "sidecar"),
                &["sidecar", "main"],
            ),
            (idle("broken").annotate(COMMAND, r#"["emit", "--bytes""#), &["stowaway.dev/backupcommand", "JSON"]),
            (
                idle("several")
                    .annotate(COMMAND, "emit --bytes 1")
                    .annotate("stowaway.dev/timeout", "soon")
                    .annotate("stowaway.dev/idle-timeout", "-5s")
                    .annotate("stowaway.dev/allow-empty", "perhaps"),
                &[
                    "stowaway.dev/timeout",
                    "soon",
                    "stowaway.dev/idle-timeout",
                    "-5s",
                    "stowaway.dev/allow-empty",
                    "perhaps",
                ],
            ),
        ];
        // A user who creates such a pod or a Deployment of it gets an error at once.
        for (workload, texts) in &bad {
            for refused in [workload.apply(namespace).await, workload.deploy(namespace).await.map(|_| ())] {
                let refused = refused.err().context("a pod with invalid annotations was accepted")?;
                ensure_contains("the API server", &format!("{refused:#}"), texts)?;
            }
        }
        // A pod that a controller creates is admitted, and the Backup reports the problems.
        let mut admitted = Vec::new();
        for (workload, texts) in &bad {
            admitted.push((workload.replicate(namespace).await?.name_any(), texts));
        }
        let backup = namespace.back_up("all", json!({ "retryLimit": 0 })).await?;
        ended("good", &source(&backup, "pod/good/main")?.outcome, Verdict::Succeeded, &["Completed"])?;
        for (name, texts) in admitted {
            let outcome = &source(&backup, &format!("pod/{name}"))?.outcome;
            ended(&name, outcome, Verdict::Failed, &["InvalidRequest"])?;
            ensure_contains(&name, &outcome.message, texts)?;
        }
        let verdict = backup.status.as_ref().and_then(|status| status.verdict);
        ensure!(verdict == Some(Verdict::Incomplete), "{verdict:?}");
        let selector = json!({ "selector": { "matchLabels": { "app": "missing" } } });
        let none = namespace.back_up("none", selector).await?;
        let status = none.status.unwrap_or_default();
        ensure!(
            status.verdict == Some(Verdict::Failed),
            "no pod was selected, but the verdict is {:?}",
            status.verdict
        );
        let condition = api::condition(&status.conditions, api::COMPLETE).map_or("", |condition| &condition.message);
        ensure_contains("the Backup without pods", condition, &["requests a backup"])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn misspelt_annotations_are_named_by_the_admission_and_by_a_green_backup_and_its_cli() -> Result<()> {
    let good = Sequence::new(Kind::Every, 0, 3000);
    in_namespace("misspelt", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        Workload::dumping(namespace, "good", &good).start(namespace).await?;
        let keys = ["k8up.io/backupcomand", "stowaway.dev/backup-comand", "stowaway.io/backupcommand"];
        for (index, key) in keys.into_iter().enumerate() {
            let misspelt =
                Workload::new(namespace, &format!("misspelt-{index}"), "shell-less").annotate(key, "emit --bytes 1");
            misspelt.start(namespace).await?;
        }
        let annotated =
            process::output(&mut namespace.kubectl(&["annotate", "pod", "good", "stowawy.dev/timeout=1h"]))?;
        ensure_contains("kubectl", &String::from_utf8_lossy(&annotated.stderr), &["stowaway.dev/timeout"])?;

        let waited = process::output(&mut namespace.stowaway(&["backup", "--name", "all", "--wait"])?)?;
        let printed = String::from_utf8_lossy(&waited.stderr).into_owned();
        ensure!(waited.status.success(), "{}: {printed}", waited.status);
        ensure_contains("the CLI", &printed, &keys)?;
        ensure_contains("the CLI", &printed, &["pod good: stowawy.dev/timeout: is not known"])?;
        let status = namespace.backup_ended("all").await?.status.unwrap_or_default();
        ensure!(status.verdict == Some(Verdict::Succeeded), "{:?}", status.verdict);
        let mut named: Vec<&str> = status.annotation_warnings.iter().map(|warning| warning.key.as_str()).collect();
        named.sort_unstable();
        ensure!(named == [&keys[..], &["stowawy.dev/timeout"]].concat(), "{named:?}");
        let condition = api::condition(&status.conditions, api::COMPLETE).map_or("", |condition| &condition.message);
        ensure_contains("the message", condition, &["4 annotations or labels probably have a mistake", "and 1 more"])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_default_repositories_are_refused_by_name_until_one_is_left() -> Result<()> {
    let good = Sequence::new(Kind::Every, 0, 3000);
    in_namespace("defaults", async |namespace: &Namespace| {
        let server = S3::shared(namespace).await?;
        server.repository(namespace).await?;
        namespace.apply_object(server.repository_object("other", "password", true)).await?;
        namespace.wait_until_repository_ready("other").await?;
        Workload::dumping(namespace, "box", &good).start(namespace).await?;
        namespace.start_backup("undecided", json!({})).await?;
        let waits = |backup: Option<&Backup>| {
            let source = backup.and_then(|backup| backup.status.as_ref()?.sources.first());
            source.is_some_and(|source| source.outcome.message.contains("main, other"))
        };
        let backup = namespace.wait_for("undecided", "waiting for one default", waits).await?;
        ended_not_yet(&backup)?;
        namespace.apply_object(server.repository_object("other", "password", false)).await?;
        namespace.wait_for("other", "no default", |repository: Option<&Repository>| repository.is_some()).await?;
        let backup = namespace.backup_ended("undecided").await?;
        ended("undecided", &source(&backup, "pod/box/main")?.outcome, Verdict::Succeeded, &["Completed"])
    })
    .await
}

fn ended_not_yet(backup: &Backup) -> Result<()> {
    let verdict = backup.status.as_ref().and_then(|status| status.verdict);
    ensure!(verdict.is_none(), "the Backup has a verdict already: {verdict:?}");
    Ok(())
}

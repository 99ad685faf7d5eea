//! Backups of the claims of a namespace by Jobs that mount them, without annotations on any pod.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use stowaway::{
    api::{Backup, SkipReason},
    model::Verdict,
};
use stowaway_e2e::{
    Namespace, S3, Workload, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    store::{PASSWORD, secret},
    volume,
};

async fn claim(namespace: &Namespace, name: &str, metadata: Value) -> Result<()> {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
        "spec": volume::claim(namespace, "ReadWriteOnce"),
    });
    claim["metadata"]["name"] = json!(name);
    namespace.apply_object(claim).await
}

/// A pod without annotations that mounts the claim at `/data`.
fn user(namespace: &Namespace, claim: &str) -> Workload {
    Workload::new(namespace, claim, "toolbox")
        .set("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))
        .set_in_pod("volumes", json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]))
}

fn skipped(backup: &Backup) -> Vec<(&str, SkipReason)> {
    let status = backup.status.iter();
    status.flat_map(|status| &status.skipped).map(|claim| (claim.name.as_str(), claim.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_backed_up_whole_without_an_annotation_and_those_that_opt_out_are_listed() -> Result<()> {
    in_namespace("claims", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 3).await?;
        claim(namespace, "used", json!({})).await?;
        claim(namespace, "idle", json!({})).await?;
        claim(namespace, "cache", json!({ "labels": { "stowaway.dev/backup": "false" } })).await?;
        user(namespace, "used").start(namespace).await?;
        let script = "mkdir -p /data/deep/er && seq 200000 >/data/deep/numbers && ln /data/deep/numbers /data/link && \
                      ln -s deep/er /data/symlink && printf x >'/data/deep/er/a name' && chmod 4700 /data/deep/er/* && \
                      chown 1234:4321 /data/deep/numbers && truncate -s 50M /data/sparse && sync";
        namespace.shell("used", script)?;
        let sums = "cd /data && find . -type f -exec sha256sum {} + | sort && find . -printf '%p %M %U %G %s %T@ %l\\n' | sort";
        let expected = namespace.shell("used", sums)?;
        // This pod is deleted before the backup, so that no pod mounts its volume.
        user(namespace, "idle").start(namespace).await?;
        namespace.shell("idle", "echo still >/data/life && sync")?;
        process::run(&mut namespace.kubectl(&["delete", "pod", "idle", "--wait"]))?;

        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        ensure!(skipped(&backup) == [("cache", SkipReason::OptedOut)], "{:?}", skipped(&backup));
        ensure!(source(&backup, "pvc/used")?.pod == "used" && source(&backup, "pvc/idle")?.pod.is_empty());
        restic.check("restic", true)?;
        let snapshots = restic.snapshots()?;
        ensure!(snapshots.len() == 2, "{snapshots:?}");
        for (name, path) in [("used", "/data/used"), ("idle", "/data/idle")] {
            let tag = format!("pvc/{name}");
            let snapshot = snapshots.iter().find(|snapshot| snapshot.tag("source") == Some(&tag)).context(tag)?;
            ensure!(snapshot.path() == path, "{snapshot:?}");
        }
        // The claim can be deleted although the finished pod of the run refers to it.
        process::run(&mut namespace.kubectl(&["delete", "pvc", "idle", "--wait", "--timeout=180s"]))?;
        let id = source(&backup, "pvc/used")?.outcome.snapshot.clone().unwrap_or_default();
        let target = tempfile::tempdir()?;
        let path = target.path().display().to_string();
        process::run(restic.restic("restic", &["restore"]).args(["--target", &path, &id]))?;
        let restored =
            process::run(Command::new("sh").arg("-c").arg(sums.replace("/data", &format!("{path}/data/used"))))?;
        ensure!(String::from_utf8_lossy(&restored).trim_end() == expected, "restic restores something else");
        // A second backup without changes.
        all_green(&namespace.back_up("two", json!({ "retryLimit": 0 })).await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn job_reads_with_the_apps_user_and_names_files_that_the_user_cannot_read() -> Result<()> {
    in_namespace("owner", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 1).await?;
        claim(namespace, "cask", json!({})).await?;
        let root = json!([{
            "name": "root", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo a >/data/own; chown 12345 /data/own; chmod 600 /data/own"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }]);
        let non_root = json!({ "runAsUser": 12345, "runAsNonRoot": true });
        let app = user(namespace, "cask").set("securityContext", non_root).set_in_pod("initContainers", root);
        app.start(namespace).await?;
        all_green(&namespace.back_up("own", json!({ "retryLimit": 0 })).await?)?;

        process::run(&mut namespace.kubectl(&["delete", "pod", "cask", "--wait"]))?;
        user(namespace, "cask").start(namespace).await?;
        namespace.shell("cask", "echo b >/data/closed; chmod 600 /data/closed; chown 0 /data/closed")?;
        process::run(&mut namespace.kubectl(&["delete", "pod", "cask", "--wait"]))?;
        app.start(namespace).await?;
        let backup = namespace.back_up("closed", json!({ "retryLimit": 0 })).await?;
        let outcome = &source(&backup, "pvc/cask")?.outcome;
        ended("pvc/cask", outcome, Verdict::Incomplete, &["SourceUnreadable"])?;
        ensure_contains("the message", &outcome.message, &["closed"])?;
        // With `runAsUser: 0` in the Backup, its run reads all files.
        let as_root = json!({ "retryLimit": 0, "runnerPod": { "securityContext": { "runAsUser": 0 } } });
        all_green(&namespace.back_up("root", as_root).await?)?;
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_on_a_volume_is_shared_by_runs_of_different_users_and_not_stored_in_itself() -> Result<()> {
    in_namespace("cellar", async |namespace: &Namespace| {
        volume::provide(namespace, 3).await?;
        for name in ["cellar", "first", "second"] {
            claim(namespace, name, json!({})).await?;
        }
        let open = json!([{
            "name": "open", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "chown 65532:65532 /data && chmod 2775 /data"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }]);
        user(namespace, "cellar").set_in_pod("initContainers", open).start(namespace).await?;
        for (name, number) in [("first", 70), ("second", 999)] {
            let own = json!([{
                "name": "own", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", format!("seq {number}00 >/data/numbers; chown -R {number} /data; chmod -R go= /data")],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }]);
            let non_root = json!({ "runAsUser": number, "runAsNonRoot": true });
            user(namespace, name).set("securityContext", non_root).set_in_pod("initContainers", own).start(namespace).await?;
        }
        namespace.apply_object(secret("password", &json!({ "password": PASSWORD }))).await?;
        namespace
            .apply_object(json!({
                "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository", "metadata": { "name": "cellar" },
                "spec": {
                    "volume": { "persistentVolumeClaim": { "claimName": "cellar" }, "path": "books" },
                    "passwordSecretRef": { "name": "password" },
                },
            }))
            .await?;
        namespace.wait_until_repository_ready("cellar").await?;
        for name in ["one", "two"] {
            let backup = namespace.back_up(name, json!({ "retryLimit": 0 })).await?;
            all_green(&backup)?;
            ensure!(skipped(&backup) == [("cellar", SkipReason::HoldsRepository)], "{:?}", skipped(&backup));
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_that_lets_no_root_in_is_backed_up_as_far_as_the_runs_user_can_read() -> Result<()> {
    in_namespace("restricted", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 1).await?;
        claim(namespace, "cask", json!({})).await?;
        user(namespace, "cask").start(namespace).await?;
        namespace.shell("cask", "echo open >/data/open && sync")?;
        process::run(&mut namespace.kubectl(&["delete", "pod", "cask", "--wait"]))?;
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(namespace.cluster.client.clone());
        let restricted = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "restricted" } } });
        namespaces.patch(&namespace.name, &PatchParams::default(), &Patch::Merge(&restricted)).await?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_claims_patterns_name_are_left_out_and_a_pattern_that_is_none_fails_its_claim_alone() -> Result<()>
{
    in_namespace("patterns", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        let patterns = |value: &str| json!({ "annotations": { "stowaway.dev/exclude": value } });
        claim(namespace, "cask", patterns("/cache\n*.log")).await?;
        claim(namespace, "vat", patterns("!keep")).await?;
        for name in ["cask", "vat"] {
            user(namespace, name).start(namespace).await?;
        }
        let script =
            "cd /data && mkdir -p cache/deep a/cache && touch cache/deep/x a/cache/kept a/b.log c.log kept && sync";
        namespace.shell("cask", script)?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        let outcome = &source(&backup, "pvc/cask")?.outcome;
        ended("pvc/cask", outcome, Verdict::Succeeded, &["Completed"])?;
        ensure_contains("the message", &outcome.message, &["3 entries are left out"])?;
        let status = backup.status.as_ref().context("no status")?;
        ensure_contains("the Backup", &serde_json::to_string(status)?, &["pvc/vat", "!keep"])?;
        ensure!(status.verdict.is_some_and(|verdict| !verdict.is_green()), "{status:?}");
        let id = outcome.snapshot.clone().unwrap_or_default();
        let listed = String::from_utf8(process::run(&mut restic.restic("restic", &["ls", &id]))?)?;
        for (path, is_there) in [("/a/cache/kept", true), ("/kept", true), ("/cache/deep", false), (".log", false)] {
            let found = listed.lines().any(|line| line.starts_with("/data/cask/") && line.ends_with(path));
            ensure!(found == is_there, "{path}: {listed}");
        }
        Ok(())
    })
    .await
}

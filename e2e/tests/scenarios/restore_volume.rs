//! Restores of volumes into claims: with owners and modes, in part, as of a time, over existing data, and with the
//! workload scaled down meanwhile and scaled up again whatever the result.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use stowaway::{
    api::{Restore, RestoreStatus},
    model::Verdict,
};
use stowaway_e2e::{
    Namespace, S3, in_namespace, process,
    runs::{all_green, ended, ensure_contains, source},
    volume,
};

const CLAIM: &str = "data-db-0";
const SOURCE: &str = "pvc/data-db-0";
/// A script that prints owner, mode, links and content of all files in the volume.
const LIST_FILES: &str = "cd /data && find . ! -name lost+found -exec stat -c '%n %u:%g %a %h %F %Y' {} + | sort && find . -type f -exec sha256sum {} + | sort";

/// Starts a `StatefulSet` of one pod with one volume, which its sidecar backs up.
async fn start(namespace: &Namespace) -> Result<()> {
    volume::provide(namespace, 2).await?;
    let labels = json!({ "app": "db" });
    namespace
        .apply_object(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
            "spec": {
                "replicas": 1, "serviceName": "db", "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels, "annotations": { "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data" } },
                    "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
                        "name": "main", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }] },
                },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": volume::claim(namespace, "ReadWriteOnce") }],
            },
        }))
        .await?;
    namespace.wait_until_ready("db-0").await.map(drop)
}

async fn scale(namespace: &Namespace, replicas: u32) -> Result<()> {
    process::run(&mut namespace.kubectl(&["scale", "statefulset/db", &format!("--replicas={replicas}")]))?;
    let pods: Api<Pod> = namespace.api();
    if replicas == 0 {
        let is_deleted = async || Ok(pods.get_opt("db-0").await?.is_none().then_some(()));
        return namespace.wait_until("the pod is deleted", is_deleted).await;
    }
    namespace.wait_until_ready("db-0").await.map(drop)
}

/// Backs the volume up, and returns the time after that.
async fn back_up(namespace: &Namespace, name: &str) -> Result<String> {
    let backup = namespace.back_up(name, json!({ "retryLimit": 0 })).await?;
    all_green(&backup)?;
    source(&backup, SOURCE)?.outcome.snapshot.clone().context("no snapshot")?;
    Ok(jiff::Timestamp::now().to_string())
}

async fn restore(namespace: &Namespace, name: &str, from: Value, to: Value, more: Value) -> Result<RestoreStatus> {
    let mut spec = json!({ "from": { "source": SOURCE }, "to": { "claim": { "name": CLAIM } } });
    for (pointer, values) in [("/from", from), ("/to/claim", to), ("", more)] {
        let target = spec.pointer_mut(pointer).and_then(Value::as_object_mut).context("no object")?;
        target.extend(values.as_object().cloned().unwrap_or_default());
    }
    namespace.restore(name, spec).await?.status.context("no status")
}

fn green(name: &str, status: &RestoreStatus) -> Result<()> {
    ended(name, &status.outcome, Verdict::Succeeded, &["Completed"])
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_that_was_deleted_is_created_again_with_all_its_data() -> Result<()> {
    in_namespace("claim-lost", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        start(namespace).await?;
        namespace.shell(
            "db-0",
            "cd /data && mkdir -p deep/er && echo one >deep/file && ln deep/file deep/er/linked && chown -R 1234:5678 deep \
             && ln -s ../nowhere deep/link && chmod 2770 deep/er && chmod 600 deep/file && head -c 300000 /dev/urandom >root && sync",
        )?;
        let before = namespace.shell("db-0", LIST_FILES)?;
        back_up(namespace, "one").await?;
        scale(namespace, 0).await?;
        let claims: Api<PersistentVolumeClaim> = namespace.api();
        claims.delete(CLAIM, &DeleteParams::default()).await?;
        let is_deleted = async || Ok(claims.get_opt(CLAIM).await?.is_none().then_some(()));
        namespace.wait_until("the claim is deleted", is_deleted).await?;

        let missing = restore(namespace, "missing", json!({}), json!({}), json!({})).await?;
        ended("missing", &missing.outcome, Verdict::Failed, &["InvalidRequest"])?;
        ensure_contains("missing", &missing.outcome.message, &[CLAIM, "create"])?;
        let mut new = json!({ "size": "1Gi" });
        if namespace.cluster.is_built_in() {
            new["storageClassName"] = json!(namespace.name);
        }
        let status = restore(namespace, "created", json!({}), json!({ "create": new }), json!({})).await?;
        green("created", &status)?;
        let created = claims.get(CLAIM).await?;
        ensure!(created.metadata.owner_references.is_none(), "the claim has an owner: {:?}", created.metadata);

        scale(namespace, 1).await?;
        let after = namespace.shell("db-0", LIST_FILES)?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_in_use_or_with_data_is_overwritten_only_on_request_and_saved_first() -> Result<()> {
    in_namespace("claim-full", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        start(namespace).await?;
        namespace.shell("db-0", "mkdir /data/a && echo monday >/data/a/file && echo monday >/data/other && sync")?;
        let monday = back_up(namespace, "one").await?;
        namespace.shell("db-0", "echo tuesday >/data/a/file && echo tuesday >/data/other && sync")?;
        back_up(namespace, "two").await?;
        namespace.shell("db-0", "echo today >/data/a/file && echo today >/data/new && rm /data/other && sync")?;

        let used = restore(namespace, "used", json!({}), json!({}), json!({})).await?;
        ended("used", &used.outcome, Verdict::Failed, &["TargetInUse"])?;
        ensure_contains("used", &used.outcome.message, &["db-0"])?;
        scale(namespace, 0).await?;
        let full = restore(namespace, "full", json!({}), json!({}), json!({})).await?;
        ended("full", &full.outcome, Verdict::Failed, &["TargetNotEmpty"])?;
        let missing = json!({ "paths": ["a/nothing"] });
        let missing = restore(namespace, "missing", missing, json!({ "overwrite": true }), json!({})).await?;
        ended("missing", &missing.outcome, Verdict::Failed, &["SnapshotNotFound"])?;

        // Restores one path as of Monday, and later the whole newest snapshot.
        let some = json!({ "paths": ["a/file"], "asOf": monday });
        let some = restore(namespace, "some", some, json!({ "overwrite": true }), json!({})).await?;
        green("some", &some)?;
        let safety = some.safety_snapshot.context("no safety snapshot")?;
        scale(namespace, 1).await?;
        let found = namespace.shell("db-0", "cd /data && cat a/file new && ls -A | sort | tr '\\n' ' '")?;
        ensure!(found.replace("lost+found ", "") == "monday\ntoday\na new", "{found:?}");

        // The pod runs, which `overwrite` permits. The newest snapshot is Tuesday's, because safety snapshots do not
        // count.
        let whole = restore(namespace, "whole", json!({}), json!({ "overwrite": true }), json!({})).await?;
        green("whole", &whole)?;
        let found = namespace.shell("db-0", "cd /data && cat a/file other new")?;
        ensure!(found == "tuesday\ntuesday\ntoday", "{found:?}");
        // The data from before the first restore is in the safety snapshot.
        scale(namespace, 0).await?;
        let back = json!({ "snapshot": safety, "paths": ["a/file"] });
        green("back", &restore(namespace, "back", back, json!({ "overwrite": true }), json!({})).await?)?;
        scale(namespace, 1).await?;
        let found = namespace.shell("db-0", "cat /data/a/file")?;
        ensure!(found == "today", "{found:?}");
        restic.check("restic", true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_is_down_while_its_volume_is_restored_and_up_again_whatever_the_result() -> Result<()> {
    in_namespace("claim-scaled", async |namespace: &Namespace| {
        S3::shared(namespace).await?.repository(namespace).await?;
        start(namespace).await?;
        namespace.shell("db-0", "echo stored >/data/file && sync")?;
        back_up(namespace, "one").await?;
        namespace.shell("db-0", "echo changed >/data/file && sync")?;
        let down = json!({ "scaleDown": { "kind": "StatefulSet", "name": "db" } });
        let over = json!({ "overwrite": true });
        let sets: Api<StatefulSet> = namespace.api();
        let pods: Api<Pod> = namespace.api();
        let uid = async || anyhow::Ok(pods.get("db-0").await?.metadata.uid);
        let is_up = async || {
            let set = sets.get("db").await?;
            ensure!(set.spec.and_then(|spec| spec.replicas) == Some(1), "not scaled up before the verdict");
            namespace.wait_until_ready("db-0").await
        };

        let first = uid().await?;
        let status = restore(namespace, "over", json!({}), over.clone(), down.clone()).await?;
        green("over", &status)?;
        is_up().await?;
        ensure!(uid().await? != first, "the pod was not replaced");
        let found = namespace.shell("db-0", "cat /data/file")?;
        ensure!(found == "stored", "{found:?}");

        let failed = json!({ "snapshot": "00000000" });
        let failed = restore(namespace, "failed", failed, over.clone(), down.clone()).await?;
        ended("failed", &failed.outcome, Verdict::Failed, &["SnapshotNotFound"])?;
        is_up().await?;

        // Deletes the Restore while the workload is down.
        let restores: Api<Restore> = namespace.api();
        let spec = json!({ "from": { "source": SOURCE }, "to": { "claim": { "name": CLAIM, "overwrite": true } },
            "scaleDown": { "kind": "StatefulSet", "name": "db" } });
        namespace
            .apply_object(json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "gone" }, "spec": spec }))
            .await?;
        let scaled = |restore: Option<&Restore>| {
            restore.and_then(|restore| restore.status.as_ref()?.scaled.as_ref()).is_some()
        };
        namespace.wait_for("gone", "scaling", scaled).await?;
        restores.delete("gone", &DeleteParams::default()).await?;
        let is_deleted = async || Ok(restores.get_opt("gone").await?.is_none().then_some(()));
        namespace.wait_until("the Restore is deleted", is_deleted).await?;
        is_up().await.map(drop)
    })
    .await
}

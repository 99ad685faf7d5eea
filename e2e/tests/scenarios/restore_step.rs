//! The annotation `restore: on-empty` restores an empty volume before the app starts, and the app never starts on
//! incomplete data.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};
use stowaway::model::injected::RESTORE_CONTAINER;
use stowaway_e2e::{
    Namespace, S3, in_namespace, process,
    runs::{all_green, source},
    store::{self, PASSWORD},
    volume,
};

/// A `StatefulSet` with one claim, which the sidecar backs up and the restore step fills.
fn stateful_set(namespace: &Namespace, image: &str, mount: &str, container: Value) -> Value {
    let labels = json!({ "app": "db" });
    let mut main = json!({
        "name": "main", "image": namespace.cluster.image(image), "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{ "name": "data", "mountPath": mount }],
    });
    if let (Some(main), Value::Object(more)) = (main.as_object_mut(), container) {
        main.extend(more);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
        "spec": {
            "replicas": 1, "serviceName": "db", "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels, "annotations": {
                    "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data", "stowaway.dev/restore": "on-empty",
                } },
                "spec": { "terminationGracePeriodSeconds": 10, "containers": [main] },
            },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": volume::claim(namespace, "ReadWriteOnce") }],
        },
    })
}

fn scale(namespace: &Namespace, replicas: u32) -> Result<()> {
    process::run(&mut namespace.kubectl(&["scale", "statefulset/db", &format!("--replicas={replicas}")]))?;
    Ok(())
}

/// Deletes pod and claim, as in an accident, so that the next pod gets an empty volume.
async fn lose_the_volume(namespace: &Namespace) -> Result<()> {
    scale(namespace, 0)?;
    let pods: Api<Pod> = namespace.api();
    namespace
        .wait_until("the pod is deleted", async || Ok(pods.get_opt("db-0").await?.is_none().then_some(())))
        .await?;
    let claims: Api<PersistentVolumeClaim> = namespace.api();
    claims.delete("data-db-0", &DeleteParams::default()).await?;
    namespace
        .wait_until("the claim is deleted", async || Ok(claims.get_opt("data-db-0").await?.is_none().then_some(())))
        .await
}

/// Waits until the restore step has failed with this text in its message, and checks that the app has not started.
async fn wait_until_held_back(namespace: &Namespace, text: &str) -> Result<String> {
    let pods: Api<Pod> = namespace.api();
    namespace
        .wait_until(&format!("the restore step reports {text:?}"), async || {
            let Some(pod) = pods.get_opt("db-0").await? else { return Ok(None) };
            let status = pod.status.unwrap_or_default();
            let step = status
                .init_container_statuses
                .into_iter()
                .flatten()
                .find(|container| container.name == RESTORE_CONTAINER);
            let ended = step.and_then(|step| {
                step.last_state
                    .and_then(|state| state.terminated)
                    .or_else(|| step.state.and_then(|state| state.terminated))
            });
            let message = ended.filter(|ended| ended.exit_code != 0).and_then(|ended| ended.message);
            let started =
                status.container_statuses.into_iter().flatten().any(|container| container.started == Some(true));
            ensure!(!started, "the app started although nothing was restored");
            Ok(message.filter(|message| message.contains(text)))
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_volume_is_deleted_comes_back_by_itself() -> Result<()> {
    in_namespace("emptied", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        let container = json!({
            "env": [{ "name": "POSTGRES_PASSWORD", "value": "demo" }, { "name": "PGDATA", "value": "/var/lib/postgresql/data/db" }],
            "readinessProbe": { "exec": { "command": ["pg_isready", "-U", "postgres"] }, "periodSeconds": 1 },
        });
        namespace.apply_object(stateful_set(namespace, "postgres", "/var/lib/postgresql/data", container)).await?;
        // At the first start the repository has no snapshot, so the app starts with an empty volume.
        namespace.wait_until_ready("db-0").await?;
        let sql = |query: &str| {
            process::run(&mut namespace.kubectl(&["exec", "db-0", "-c", "main", "--", "psql", "-U", "postgres", "-AtXc", query]))
        };
        sql("create table ships as select n as id from generate_series(1, 100000) n")?;
        sql("checkpoint")?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        ensure!(source(&backup, "pvc/data-db-0")?.outcome.snapshot.is_some(), "no snapshot");
        restic.check("restic", true)?;

        lose_the_volume(namespace).await?;
        scale(namespace, 1)?;
        namespace.wait_until_ready("db-0").await?;
        let count = String::from_utf8(sql("select count(*) from ships")?)?;
        ensure!(count.trim() == "100000", "{count} rows were restored");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_and_a_wrong_password_hold_the_pod_back_and_then_its_data_is_there() -> Result<()> {
    in_namespace("heldback", async |namespace: &Namespace| {
        let server = S3::own(namespace).await?;
        let _restic = server.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        namespace.apply_object(stateful_set(namespace, "toolbox", "/data", json!({}))).await?;
        namespace.wait_until_ready("db-0").await?;
        namespace.shell("db-0", "echo precious >/data/file && ln /data/file /data/link && sync")?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;

        lose_the_volume(namespace).await?;
        namespace.apply_object(store::secret("password", &json!({ "password": "another" }))).await?;
        scale(namespace, 1)?;
        wait_until_held_back(namespace, "WrongPassword").await?;
        scale(namespace, 0)?;
        let pods: Api<Pod> = namespace.api();
        namespace
            .wait_until("the pod is deleted", async || Ok(pods.get_opt("db-0").await?.is_none().then_some(())))
            .await?;
        namespace.apply_object(store::secret("password", &json!({ "password": PASSWORD }))).await?;
        // Removes the label that the Service selects, so that the store is unreachable.
        process::run(&mut namespace.kubectl(&["label", "pod", "s3", "app-", "--overwrite"]))?;
        scale(namespace, 1)?;
        wait_until_held_back(namespace, "StoreUnavailable").await?;
        process::run(&mut namespace.kubectl(&["label", "pod", "s3", "app=s3", "--overwrite"]))?;

        namespace.wait_until_ready("db-0").await?;
        let found =
            namespace.shell("db-0", "cat /data/link && stat -c %h /data/file && ls -A /data | sort | tr '\\n' ' '")?;
        ensure!(found == "precious\n2\nfile link", "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_that_share_an_empty_volume_both_see_all_of_it() -> Result<()> {
    in_namespace("shared", async |namespace: &Namespace| {
        let _restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "shared" },
            "spec": volume::claim(namespace, "ReadWriteMany") });
        namespace.apply_object(claim.clone()).await?;
        let deployment = |replicas: u32| {
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
                "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": {
                    "metadata": { "labels": { "app": "web" }, "annotations": {
                        "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data", "stowaway.dev/restore": "on-empty",
                    } },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "shared" } }],
                        // The app counts the files at its start.
                        "containers": [{ "name": "main", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
                            "command": ["sh", "-c", "find /data -type f | wc -l >/tmp/count; exec sleep 3600"],
                            "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
                    },
                } },
            })
        };
        namespace.apply_object(deployment(1)).await?;
        let first = namespace.wait_until_pods_ready("app=web", 1).await?.remove(0);
        namespace.shell(&first.name_any(), "for n in $(seq 300); do head -c 20000 /dev/urandom >/data/$n; done; sync")?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;

        process::run(&mut namespace.kubectl(&["delete", "deployment", "web", "--wait", "--cascade=foreground"]))?;
        process::run(&mut namespace.kubectl(&["delete", "pvc", "shared", "--wait"]))?;
        namespace.apply_object(claim).await?;
        namespace.apply_object(deployment(2)).await?;
        for pod in namespace.wait_until_pods_ready("app=web", 2).await? {
            let count = namespace.shell(&pod.name_any(), "cat /tmp/count").context("no count")?;
            ensure!(count == "300", "{} started with {count} of 300 files", pod.name_any());
        }
        Ok(())
    })
    .await
}

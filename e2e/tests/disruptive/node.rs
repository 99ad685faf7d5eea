//! A power failure and restart of the whole node, including the control plane.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use stowaway::model::injected::RESTORE_CONTAINER;
use stowaway_e2e::{
    Kind, Namespace, S3, Sequence, Workload, creates::injected_again, in_namespace, process, runs::all_green, skipped,
    volume,
};

use super::{alone, has_init};

const STREAM: Sequence = Sequence::new(Kind::Text, 31, 1_000_001);

#[tokio::test(flavor = "multi_thread")]
async fn everything_recovers_by_itself_from_a_restart_of_the_whole_node() -> Result<()> {
    let _alone = alone().await;
    in_namespace("power", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("only the node of the built-in cluster is restarted (KUBECONFIG is set)");
            return Ok(());
        }
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        volume::provide(namespace, 2).await?;
        let labels = json!({ "app": "db" });
        namespace
            .apply_object(json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "db" },
                "spec": {
                    "replicas": 1, "serviceName": "db", "selector": { "matchLabels": labels },
                    "template": {
                        "metadata": { "labels": labels, "annotations": {
                            "stowaway.dev/inject": "sidecar", "stowaway.dev/volumes": "data", "stowaway.dev/restore": "on-empty",
                        } },
                        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
                            "name": "main", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
                            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                        }] },
                    },
                    "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": volume::claim(namespace, "ReadWriteOnce") }],
                },
            }))
            .await?;
        Workload::dumping(namespace, "before", &STREAM).deploy(namespace).await?;
        namespace.wait_until_ready("db-0").await?;
        namespace.shell("db-0", "seq 1000 >/data/numbers && sync")?;
        all_green(&namespace.back_up("one", json!({ "retryLimit": 0 })).await?)?;
        let scale = |replicas: &str| process::run(&mut namespace.kubectl(&["scale", "statefulset/db", replicas]));
        scale("--replicas=0")?;
        let (pods, claims): (Api<Pod>, Api<PersistentVolumeClaim>) = (namespace.api(), namespace.api());
        namespace
            .wait_until("the pod is deleted", async || Ok(pods.get_opt("db-0").await?.is_none().then_some(())))
            .await?;
        claims.delete("data-db-0", &DeleteParams::default()).await?;
        namespace
            .wait_until("the claim is deleted", async || Ok(claims.get_opt("data-db-0").await?.is_none().then_some(())))
            .await?;

        process::run(&mut std::process::Command::new(process::clone_folder("e2e/cluster/restart-node")))?;
        // The pod has a restore step, so it is never created without the webhook, even if the webhook is not back yet.
        scale("--replicas=1")?;
        injected_again(namespace).await?;
        let db = namespace.wait_until_ready("db-0").await?;
        ensure!(has_init(&db, RESTORE_CONTAINER), "the pod was started without its restore step");
        let lines = namespace.shell("db-0", "wc -l </data/numbers")?;
        ensure!(lines == "1000", "{lines} lines were restored");
        Workload::dumping(namespace, "after", &STREAM).start(namespace).await?;
        namespace.wait_until_pods_ready("app=before", 1).await?;
        // The pod `before` was injected before the restart; its containers were created again since.
        let backup = namespace.back_up("two", json!({})).await?;
        all_green(&backup)?;
        ensure!(backup.status.is_some_and(|status| status.sources.len() == 3), "a source is missing");
        restic.check("restic", true)
    })
    .await
}

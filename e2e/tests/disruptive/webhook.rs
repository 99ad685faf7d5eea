//! Tests of a rolling update of the webhook while pods are created, and of a cluster without a running webhook.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{Event, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use stowaway::model::injected::{HELPER_VOLUME, RESTORE_CONTAINER};
use stowaway_e2e::{
    Namespace, S3, Workload,
    creates::Creates,
    in_namespace, process,
    system::{SYSTEM, WEBHOOK},
};

use super::{alone, has_init};

fn kubectl(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    process::run(&mut namespace.system().kubectl(arguments))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_of_the_webhook_fails_no_pod_and_leaves_none_without_injection() -> Result<()> {
    let _alone = alone().await;
    in_namespace("rolled", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        creates.wait_for_more().await;
        kubectl(namespace, &["rollout", "restart", &format!("deployment/{WEBHOOK}")])?;
        namespace.rolled_out(WEBHOOK)?;
        creates.stop_without_failures().await
    })
    .await
}

fn stateful_set(namespace: &Namespace, name: &str) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": 1, "serviceName": name, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels, "annotations": { "stowaway.dev/restore": "on-empty", "stowaway.dev/volumes": "data" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "volumes": [{ "name": "data", "hostPath": { "path": format!("/tmp/stowaway-test-{}", namespace.name), "type": "DirectoryOrCreate" } }],
                    "containers": [{ "name": "main", "image": namespace.cluster.image("toolbox"),
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
                },
            },
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_webhook_plain_pods_start_unchanged_restores_wait_and_the_watchdog_reports() -> Result<()> {
    let _alone = alone().await;
    in_namespace("away", async |namespace: &Namespace| {
        let _restic = S3::shared(namespace).await?.repository(namespace).await?;
        let deployments: Api<Deployment> = Api::namespaced(namespace.cluster.client.clone(), SYSTEM);
        let replicas = deployments.get(WEBHOOK).await?.spec.and_then(|spec| spec.replicas).context("no replicas")?;
        kubectl(namespace, &["scale", &format!("deployment/{WEBHOOK}"), "--replicas=0"])?;
        namespace
            .wait_until("no pod of the webhook exists", async || {
                Ok(namespace.pods_of("webhook").await?.is_empty().then_some(()))
            })
            .await?;

        let result = async {
            let plain = Workload::new(namespace, "plain", "toolbox").start(namespace).await?;
            ensure!(
                plain.spec.as_ref().is_some_and(|spec| spec.init_containers.is_none()),
                "the plain pod was changed"
            );
            let annotated = Workload::toolbox(namespace, "annotated", "true").deploy(namespace).await?;
            ensure!(!has_init(&annotated, HELPER_VOLUME), "the pod was injected without a webhook");
            namespace.apply_object(stateful_set(namespace, "waits")).await?;
            let sets: Api<StatefulSet> = namespace.api();
            let events: Api<Event> = namespace.api();
            namespace
                .wait_until("the pod with a restore is refused", async || {
                    let list = events.list(&ListParams::default()).await?;
                    Ok(list.items.iter().any(|event| event.reason.as_deref() == Some("FailedCreate")).then_some(()))
                })
                .await?;
            let set = sets.get("waits").await?;
            ensure!(set.status.is_none_or(|status| status.replicas == 0), "a restore did not wait for the webhook");
            anyhow::Ok(annotated)
        }
        .await;
        kubectl(namespace, &["scale", &format!("deployment/{WEBHOOK}"), &format!("--replicas={replicas}")])?;
        namespace.rolled_out(WEBHOOK)?;
        let annotated = result?;

        let waits = namespace.wait_until_ready("waits-0").await?;
        ensure!(has_init(&waits, RESTORE_CONTAINER), "no restore step");
        let events: Api<Event> = namespace.api();
        namespace
            .wait_until("an Event reports that the pod was not injected", async || {
                let list = events.list(&ListParams::default()).await?;
                let is_report = |event: &Event| {
                    event.reason.as_deref() == Some("NotInjected")
                        && event.involved_object.name.as_deref() == Some(annotated.name_any().as_str())
                };
                Ok(list.items.iter().any(is_report).then_some(()))
            })
            .await?;
        let pods: Api<Pod> = namespace.api();
        pods.delete(&annotated.name_any(), &DeleteParams::default()).await?;
        namespace
            .wait_until("its successor is injected", async || {
                let list = pods.list(&ListParams::default().labels("app=annotated")).await?;
                Ok(list.items.iter().any(|pod| has_init(pod, HELPER_VOLUME)).then_some(()))
            })
            .await?;
        Ok(())
    })
    .await
}

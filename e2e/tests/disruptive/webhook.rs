//! The webhook is rolled, is away, or gets other certificates, while pods are created all the time.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{Event, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use stowaway::model::injected::{HELPER_VOLUME, RESTORE_CONTAINER};
use stowaway_e2e::{Namespace, S3, Workload, creates::Creates, in_namespace, namespace::GLANCE, process};

use super::alone;

const SYSTEM: &str = "stowaway-system";
const WEBHOOK: &str = "stowaway-webhook";
/// So many creates before and after, so that there is a flow at all times.
const SOME: usize = 50;

fn kubectl(namespace: &Namespace, arguments: &[&str]) -> Result<()> {
    let system = Namespace { cluster: namespace.cluster.clone(), name: SYSTEM.to_owned() };
    process::run(&mut system.kubectl(arguments))?;
    Ok(())
}

fn rolled_out(namespace: &Namespace) -> Result<()> {
    kubectl(namespace, &["rollout", "status", &format!("deployment/{WEBHOOK}"), "--timeout=180s"])
}

/// After some more of them none was refused, and none was left without injection.
async fn went_well(creates: Creates) -> Result<()> {
    some_more(&creates).await;
    let (count, wrong) = creates.stop().await?;
    ensure!(wrong.is_empty(), "{} of {count} creates went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    Ok(())
}

async fn some_more(creates: &Creates) {
    let wanted = creates.count() + SOME;
    while creates.count() < wanted {
        tokio::time::sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_of_the_webhook_fails_no_pod_and_leaves_none_without_injection() -> Result<()> {
    let _alone = alone().await;
    in_namespace("rolled", async |namespace: &Namespace| {
        let creates = Creates::start(namespace);
        some_more(&creates).await;
        kubectl(namespace, &["rollout", "restart", &format!("deployment/{WEBHOOK}")])?;
        rolled_out(namespace)?;
        went_well(creates).await
    })
    .await
}

/// What the first webhook entry trusts.
async fn bundle(namespace: &Namespace) -> Result<String> {
    use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
    let api: Api<MutatingWebhookConfiguration> = Api::all(namespace.cluster.client.clone());
    let configuration = api.get(WEBHOOK).await?;
    let entry = configuration.webhooks.and_then(|entries| entries.into_iter().next()).context("no entry")?;
    Ok(String::from_utf8(entry.client_config.ca_bundle.map(|bundle| bundle.0).unwrap_or_default())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_and_new_leaves_fail_no_pod() -> Result<()> {
    let _alone = alone().await;
    in_namespace("rotated", async |namespace: &Namespace| {
        let before = bundle(namespace).await?;
        ensure!(!before.is_empty(), "the webhook entries trust nobody");
        let creates = Creates::start(namespace);
        some_more(&creates).await;
        // All of it is lost at once: the worst kind of rotation.
        let secrets: Api<Secret> = Api::namespaced(namespace.cluster.client.clone(), SYSTEM);
        let emptied = json!({ "data": null });
        secrets.patch("stowaway-webhook-authority", &PatchParams::default(), &Patch::Merge(&emptied)).await?;
        let other = namespace
            .wait_until("another authority is trusted", async || {
                let now = bundle(namespace).await?;
                Ok((now.matches("BEGIN").count() > before.matches("BEGIN").count()).then_some(now))
            })
            .await?;
        ensure!(other.contains(before.trim()), "what was trusted is no longer trusted");
        // A new leaf, by a new replica, signed by the new authority.
        kubectl(namespace, &["rollout", "restart", &format!("deployment/{WEBHOOK}")])?;
        rolled_out(namespace)?;
        went_well(creates).await
    })
    .await
}

fn has_init(pod: &Pod, name: &str) -> bool {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    containers.is_some_and(|containers| containers.iter().any(|container| container.name == name))
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
async fn without_any_webhook_others_start_untouched_and_restores_wait_and_the_watchdog_tells() -> Result<()> {
    let _alone = alone().await;
    in_namespace("away", async |namespace: &Namespace| {
        let _restic = S3::shared(namespace).await?.repository(namespace).await?;
        let deployments: Api<Deployment> = Api::namespaced(namespace.cluster.client.clone(), SYSTEM);
        let replicas = deployments.get(WEBHOOK).await?.spec.and_then(|spec| spec.replicas).context("no replicas")?;
        kubectl(namespace, &["scale", &format!("deployment/{WEBHOOK}"), "--replicas=0"])?;
        let pods: Api<Pod> = Api::namespaced(namespace.cluster.client.clone(), SYSTEM);
        let ours = ListParams::default().labels("app.kubernetes.io/component=webhook");
        namespace
            .wait_until("the webhook is away", async || Ok(pods.list(&ours).await?.items.is_empty().then_some(())))
            .await?;

        let result = async {
            let plain = Workload::new(namespace, "plain", "toolbox").start(namespace).await?;
            ensure!(
                plain.spec.as_ref().is_some_and(|spec| spec.init_containers.is_none()),
                "the plain pod was changed"
            );
            let annotated = Workload::toolbox(namespace, "annotated", "true").deploy(namespace).await?;
            ensure!(!has_init(&annotated, HELPER_VOLUME), "injected by whom?");
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
        rolled_out(namespace)?;
        let annotated = result?;

        let waits = namespace.wait_until_ready("waits-0").await?;
        ensure!(has_init(&waits, RESTORE_CONTAINER), "no restore step");
        let events: Api<Event> = namespace.api();
        namespace
            .wait_until("somebody tells that the pod was not injected", async || {
                let list = events.list(&ListParams::default()).await?;
                let told = |event: &Event| {
                    event.reason.as_deref() == Some("NotInjected")
                        && event.involved_object.name.as_deref() == Some(annotated.name_any().as_str())
                };
                Ok(list.items.iter().any(told).then_some(()))
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

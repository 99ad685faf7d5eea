//! Pods that run without their injection are reported, and replaced where that is allowed: one at a time, by their
//! owners, and within their `PodDisruptionBudget`. A pod without an owner is never replaced.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use stowaway::model::injected::HELPER_VOLUME;
use stowaway_e2e::{
    Namespace, Workload, in_namespace, namespace::is_ready, process, system::SYSTEM, workload::COMMAND,
};

/// The label of a namespace, and the annotation of a pod, that select what is injected.
const INJECT: &str = "stowaway.dev/inject";
const REPLACED: &str = "stowaway_pod_repairs_total{outcome=\"Replaced\"}";
const BLOCKED: &str = "stowaway_pod_repairs_total{outcome=\"Blocked\"}";
const WITHOUT: &str = "stowaway_uninjected_pods{reason=\"NotInjected\"}";

fn label(namespace: &Namespace, label: &str) -> Result<()> {
    process::run(&mut namespace.kubectl(&["label", "namespace", &namespace.name, "--overwrite", label])).map(|_| ())
}

fn is_injected(pod: &Pod) -> bool {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    init.is_some_and(|init| init.iter().any(|container| container.name == HELPER_VOLUME))
}

fn stateful_set(namespace: &Namespace, name: &str, replicas: u32) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "serviceName": name, "selector": { "matchLabels": labels },
            "podManagementPolicy": "Parallel",
            "template": {
                "metadata": { "labels": labels, "annotations": { COMMAND: "true" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                    "containers": [{ "name": "main", "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent" }],
                },
            },
        },
    })
}

/// Creates pods that are not injected, because the label of the namespace prevented it, and then removes the label.
async fn start_without_injection(namespace: &Namespace) -> Result<Vec<Pod>> {
    label(namespace, &format!("{INJECT}=none"))?;
    let pods: Api<Pod> = namespace.api();
    let dry = PostParams { dry_run: true, field_manager: None };
    let probe: Pod = serde_json::from_value(json!({
        "metadata": { "name": "probe", "annotations": { COMMAND: "true" } },
        "spec": { "containers": [{ "name": "main", "image": "none" }] },
    }))?;
    namespace
        .wait_until("the label is in force", async || {
            Ok((!is_injected(&pods.create(&dry, &probe).await?)).then_some(()))
        })
        .await?;
    namespace.apply_object(stateful_set(namespace, "pair", 2)).await?;
    namespace.apply_object(stateful_set(namespace, "held", 1)).await?;
    namespace
        .apply_object(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "held" },
            "spec": { "maxUnavailable": 0, "selector": { "matchLabels": { "app": "held" } } },
        }))
        .await?;
    Workload::toolbox(namespace, "bare", "true").start(namespace).await?;
    namespace.wait_until_pods_ready("app=pair", 2).await?;
    namespace.wait_until_pods_ready("app=held", 1).await?;
    let all = pods.list(&ListParams::default()).await?.items;
    ensure!(all.len() == 4 && !all.iter().any(is_injected), "a pod was injected");
    label(namespace, &format!("{INJECT}-"))?;
    Ok(all)
}

fn identity(pods: &[Pod], name: &str) -> Option<String> {
    pods.iter().find(|pod| pod.name_any() == name)?.uid()
}

/// The objects of the namespace that have an Event with this reason, as `KIND/NAME`.
async fn reported(namespace: &Namespace, reason: &str) -> Result<BTreeSet<String>> {
    let events: Api<Event> = namespace.api();
    let of_reason = ListParams::default().fields(&format!("reason={reason}"));
    let regarding = events.list(&of_reason).await?.items.into_iter().map(|event| event.involved_object);
    let name =
        |object: ObjectReference| format!("{}/{}", object.kind.unwrap_or_default(), object.name.unwrap_or_default());
    Ok(regarding.map(name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_without_injection_are_replaced_one_at_a_time_where_that_is_allowed_and_nowhere_else() -> Result<()> {
    in_namespace("unrepaired", async |forbidden: &Namespace| {
        in_namespace("repaired", async |allowed: &Namespace| {
            allowed
                .apply_object(json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": "repair" },
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "stowaway-repair" },
                    "subjects": [{ "kind": "ServiceAccount", "name": "stowaway-controller", "namespace": SYSTEM }],
                }))
                .await?;
            let left_alone = start_without_injection(forbidden).await?;
            let before = start_without_injection(allowed).await?;
            let (replaced, blocked) = (allowed.metric("controller", REPLACED).await?, allowed.metric("controller", BLOCKED).await?);

            // Each pod is reported, and each StatefulSet of pods.
            let all: BTreeSet<String> =
                ["Pod/bare", "Pod/held-0", "Pod/pair-0", "Pod/pair-1", "StatefulSet/held", "StatefulSet/pair"]
                    .map(str::to_owned)
                    .into();
            for namespace in [forbidden, allowed] {
                namespace
                    .wait_until("all pods and owners are reported", async || {
                        Ok((reported(namespace, "NotInjected").await? == all).then_some(()))
                    })
                    .await?;
            }
            forbidden
                .wait_until("they are counted", async || {
                    Ok((forbidden.metric("controller", WITHOUT).await? >= 4.0).then_some(()))
                })
                .await?;

            let pods: Api<Pod> = allowed.api();
            let of_pair = ListParams::default().labels("app=pair");
            allowed
                .wait_until("both of the pair are replaced", async || {
                    let now = pods.list(&of_pair).await?.items;
                    let old = now.iter().filter(|pod| !is_injected(pod)).count();
                    let ready = now.iter().filter(|pod| is_ready(pod)).count();
                    // The second pod is not replaced before the first one is Ready again.
                    ensure!(ready > 0, "no pod of the pair was Ready");
                    Ok((now.len() == 2 && old == 0 && ready == 2).then_some(()))
                })
                .await?;
            // The controller tries this pod between the two others, or after them.
            allowed
                .wait_until("a replacement is blocked by a PodDisruptionBudget", async || {
                    Ok((allowed.metric("controller", BLOCKED).await? > blocked).then_some(()))
                })
                .await?;
            let now = pods.list(&ListParams::default()).await?.items;
            for name in ["bare", "held-0"] {
                ensure!(identity(&now, name) == identity(&before, name), "{name} was replaced");
            }
            let replaced_pods = reported(allowed, "PodReplaced").await?;
            ensure!(replaced_pods == ["StatefulSet/pair".to_owned()].into(), "{replaced_pods:?}");
            ensure!(allowed.metric("controller", REPLACED).await? >= replaced + 2.0, "replacements are not counted");

            let others: Vec<Pod> = forbidden.api::<Pod>().list(&ListParams::default()).await?.items;
            for pod in &left_alone {
                let now = identity(&others, &pod.name_any()).context("a pod was evicted without the right to")?;
                ensure!(Some(&now) == pod.metadata.uid.as_ref(), "{} was replaced without the right to", pod.name_any());
            }
            let replaced_pods = reported(forbidden, "PodReplaced").await?;
            ensure!(replaced_pods.is_empty(), "replaced without the right to: {replaced_pods:?}");
            Ok(())
        })
        .await
    })
    .await
}

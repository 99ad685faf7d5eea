//! The injection is the same in every pod when two other mutating webhooks are called before or after Stowaway's
//! webhook, with and without reinvocation.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use stowaway::{
    api::Repository,
    model::{
        Proof,
        injected::{
            HELPER_VOLUME, RESTORE_CONTAINER, SECRET_VOLUME_PREFIX, SIDECAR_CONTAINER, SOCKET_VOLUME, STORE_VOLUME,
        },
    },
    watchdog::{self, InjectionState, WatchdogFacts},
};
use stowaway_e2e::{
    Kind, Namespace, OtherWebhook, S3, Sequence, in_namespace,
    other_webhook::{add, containers},
    runs::{all_green, source},
    skipped, store, volume,
};

use super::injection::{dry_run, image_of};

const STREAM: Sequence = Sequence::new(Kind::Every, 81, 300_007);
/// The label that selects the pods of one order of the webhooks.
const ORDER: &str = "order";
/// The environment variable that one of the webhooks adds to all containers.
const ENVIRONMENT: &str = "OTHER";
/// The volume that the same webhook adds, and mounts into all containers.
const MOUNTED: &str = "other";

/// Adds a sidecar with a volume, and a label, as a service mesh does.
fn mesh(pod: &mut Value, image: &str) {
    pod["metadata"]["labels"]["mesh"] = json!("yes");
    let spec = &mut pod["spec"];
    add(spec, "volumes", json!({ "name": "mesh", "emptyDir": {} }));
    add(
        spec,
        "containers",
        json!({
            "name": "mesh", "image": image, "imagePullPolicy": "IfNotPresent",
            "resources": { "requests": { "cpu": "5m" } }, "volumeMounts": [{ "name": "mesh", "mountPath": "/mesh" }],
        }),
    );
}

/// Adds a variable and a mount to every container, as the webhooks of secret stores and tracers do.
fn environment(pod: &mut Value) {
    let spec = &mut pod["spec"];
    add(spec, "volumes", json!({ "name": MOUNTED, "emptyDir": {} }));
    for container in containers(spec) {
        add(container, "env", json!({ "name": ENVIRONMENT, "value": "yes" }));
        add(container, "volumeMounts", json!({ "name": MOUNTED, "mountPath": "/other" }));
    }
}

/// A pod with annotations for everything that can be injected.
fn pod(namespace: &Namespace, order: &str) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": namespace.cluster.image("toolbox"), "imagePullPolicy": "IfNotPresent",
            "resources": { "requests": { "cpu": "5m" } },
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        })
    };
    let mut prepare = container("prepare");
    prepare["command"] = json!(["true"]);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "box",
            "labels": { ORDER: order },
            "annotations": {
                "stowaway.dev/backupcommand": STREAM.command(), "stowaway.dev/inject": "sidecar",
                "stowaway.dev/volumes": "data", "stowaway.dev/restore": "on-empty", "stowaway.dev/secrets": "login",
            },
        },
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "initContainers": [prepare], "containers": [container("main"), container("web")],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "box" } }],
        },
    })
}

fn entries(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn is_injected(entry: &Value) -> bool {
    entry["name"].as_str().is_some_and(|name| name.starts_with("stowaway-"))
}

/// Everything that Stowaway injected into a pod, in its position among the entries of the pod's author, and without the
/// additions of the other webhooks.
fn injection(pod: &Value) -> Value {
    let spec = &pod["spec"];
    let mut init: Vec<Value> = entries(&spec["initContainers"]).cloned().collect();
    for container in &mut init {
        let Some(container) = container.as_object_mut() else { continue };
        for (list, name) in [("env", ENVIRONMENT), ("volumeMounts", MOUNTED)] {
            if let Some(list) = container.get_mut(list).and_then(Value::as_array_mut) {
                list.retain(|entry| entry["name"] != name);
            }
        }
        container.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
    }
    let volumes: Vec<&Value> = entries(&spec["volumes"]).filter(|volume| is_injected(volume)).collect();
    let mounts = entries(&spec["containers"]).filter(|container| container["name"] != "mesh").map(|container| {
        let mounts: Vec<&Value> = entries(&container["volumeMounts"]).filter(|mount| is_injected(mount)).collect();
        json!({ "container": container["name"], "mounts": mounts })
    });
    json!({ "init": init, "volumes": volumes, "mounts": mounts.collect::<Vec<_>>() })
}

fn names(list: &Value) -> Vec<&str> {
    entries(list).filter_map(|entry| entry["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_other_webhooks_in_any_order_invoked_once_or_again_do_not_change_the_injection() -> Result<()> {
    in_namespace("orders", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("the API server of another cluster does not reach this machine");
            return Ok(());
        }
        S3::shared(namespace).await?.repository(namespace).await?;
        namespace.apply_object(store::secret("login", &json!({ "user": "app" }))).await?;
        let repositories: Vec<Repository> = namespace.api::<Repository>().list(&ListParams::default()).await?.items;
        let image = namespace.cluster.image("toolbox");
        let meshes = OtherWebhook::start(move |pod: &mut Value| mesh(pod, &image)).await?;
        let environments = OtherWebhook::start(environment).await?;
        let mut orders = Vec::new();
        for policy in ["Never", "IfNeeded"] {
            for (mesh_at, environment_at) in
                [("before", "before"), ("before", "stowaway-z"), ("stowaway-z", "before"), ("stowaway-z", "stowaway-z")]
            {
                let order = orders.len().to_string();
                let labels = json!({ ORDER: order });
                meshes.register(namespace, &format!("{mesh_at}-mesh"), &order, policy, &labels).await?;
                environments.register(namespace, &format!("{environment_at}-env"), &order, policy, &labels).await?;
                orders.push((order, policy, mesh_at));
            }
        }

        let alone = dry_run(namespace, &pod(namespace, "none")).await?;
        let expected = injection(&alone);
        let init = [RESTORE_CONTAINER, "prepare", HELPER_VOLUME, SIDECAR_CONTAINER];
        ensure!(names(&expected["init"]) == init, "{:?}", names(&expected["init"]));
        for volume in [HELPER_VOLUME, SOCKET_VOLUME, STORE_VOLUME, SECRET_VOLUME_PREFIX] {
            let count = names(&expected["volumes"]).into_iter().filter(|name| name.starts_with(volume)).count();
            ensure!(count == 1, "{volume} was injected {count} times");
        }
        for (order, policy, mesh_at) in &orders {
            let what = format!("order {order}, mesh {mesh_at}, reinvocation {policy}");
            let pod = pod(namespace, order);
            let both = |shown: &Value| {
                names(&shown["spec"]["containers"]).contains(&"mesh")
                    && entries(&shown["spec"]["containers"])
                        .any(|container| names(&container["env"]).contains(&ENVIRONMENT))
            };
            namespace
                .wait_until(&format!("both are called: {what}"), async || {
                    Ok(both(&dry_run(namespace, &pod).await?).then_some(()))
                })
                .await?;
            let before = meshes.calls();
            let shown = dry_run(namespace, &pod).await?;
            let calls = meshes.calls() - before;
            if *mesh_at == "before" {
                ensure!(calls == if *policy == "IfNeeded" { 2 } else { 1 }, "{what}: called {calls} times");
            }
            let found = injection(&shown);
            ensure!(found == expected, "{what}:\n{found:#}\nand alone:\n{expected:#}");
            let image = image_of(&shown).unwrap_or_default();
            let facts = WatchdogFacts {
                namespace: &namespace.name,
                by_namespace: None,
                image: &image,
                repositories: &repositories,
            };
            // Mounts of other webhooks in Stowaway's containers could disturb them, so the watchdog reports `Outdated`.
            let standing = watchdog::injection_state(&shown, &facts);
            ensure!(matches!(standing, InjectionState::Injected | InjectionState::Outdated), "{what}: {standing:?}");
        }

        // Such a pod runs and is backed up, with the additions of the other webhooks in Stowaway's containers.
        volume::provide(namespace, 1).await?;
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": { "name": "box" }, "spec": volume::claim(namespace, "ReadWriteOnce"),
        }))?;
        let claims: Api<PersistentVolumeClaim> = namespace.api();
        claims.create(&kube::api::PostParams::default(), &claim).await?;
        let (order, ..) = orders.last().context("no order")?;
        namespace.apply_object(pod(namespace, order)).await?;
        namespace.wait_until_ready("box").await?;
        let backup = namespace.back_up("one", json!({ "retryLimit": 0 })).await?;
        all_green(&backup)?;
        ensure!(source(&backup, "pod/box/main")?.outcome.proof == Some(Proof::Sealed), "not sealed: {backup:?}");
        Ok(())
    })
    .await
}

//! A user without the right to exec cannot have Stowaway run a command. Each attack is denied, and the same request
//! succeeds for a user with the right.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams, Request},
};
use serde_json::{Value, json};
use stowaway::api::Restore;
use stowaway_e2e::{Namespace, Right, Tenant, Workload, in_namespace, workload::COMMAND};

const POLICY: &str = "stowaway-pod-commands";
const EXEC: Right = ("", &["pods/exec"], &["create"]);

async fn annotate(pods: &Api<Pod>, pod: &str, annotations: &Value) -> kube::Result<Pod> {
    let patch = json!({ "metadata": { "annotations": annotations } });
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_running_pod_are_changed_only_by_who_may_exec() -> Result<()> {
    in_namespace("guard-commands", async |namespace: &Namespace| {
        let plain = Workload::new(namespace, "plain", "shell-less");
        let own = Workload::new(namespace, "own", "shell-less")
            .annotate(COMMAND, "emit --bytes 1")
            .annotate("stowaway.dev/backupcommand-container", "main")
            .annotate("k8up.io/backupcommand", "emit --bytes 2")
            .set_in_pod(
                "initContainers",
                json!([{ "name": "other", "image": namespace.cluster.image("shell-less"), "restartPolicy": "Always" }]),
            );
        plain.apply(namespace).await?;
        own.apply(namespace).await?;
        let rights: &[Right] = &[("", &["pods", "pods/status"], &["get", "patch", "update"])];
        let tenant = Tenant::new(namespace, "tenant", rights).await?;
        let pods: Api<Pod> = tenant.api();
        let attacks = [
            ("plain", json!({ COMMAND: "emit --bytes 3" })),
            ("plain", json!({ "stowaway.dev/backupcommand.another": "emit --bytes 3" })),
            ("plain", json!({ "stowaway.dev/restorecommand": "sh" })),
            ("plain", json!({ "k8up.io/backupcommand": "emit" })),
            ("plain", json!({ "k8up.syn.tools/backupcommand": "emit" })),
            ("plain", json!({ "appuio.ch/backupcommand": "emit" })),
            ("own", json!({ COMMAND: "emit --bytes 3" })),
            ("own", json!({ "stowaway.dev/backupcommand-container": "other" })),
            ("own", json!({ "kubectl.kubernetes.io/default-container": "other" })),
            ("own", json!({ "stowaway.dev/repository": "of-the-tenant" })),
            // Annotations that decide which dump is green, or end a dump early.
            ("own", json!({ "stowaway.dev/accept-unproven": "true" })),
            ("own", json!({ "stowaway.dev/allow-empty": "true" })),
            ("own", json!({ "stowaway.dev/timeout": "2s" })),
            ("own", json!({ "stowaway.dev/idle-timeout": "1s" })),
            ("own", json!({ "stowaway.dev/file-extension": ".txt" })),
            ("own", json!({ "k8up.io/file-extension": ".txt" })),
            // Removals after which the command would run in another container, or K8up's annotation would be used.
            ("own", json!({ "stowaway.dev/backupcommand-container": null })),
            (
                "own",
                json!({
                    COMMAND: null, "stowaway.dev/backupcommand-container": null, "stowaway.dev/file-extension": null,
                }),
            ),
        ];
        for (pod, annotations) in &attacks {
            tenant.is_denied(POLICY, async || annotate(&pods, pod, annotations).await).await?;
        }
        let in_status = json!({ "metadata": { "annotations": { COMMAND: "emit --bytes 3" } } });
        let by_status =
            async || pods.patch_status("plain", &PatchParams::default(), &Patch::Merge(in_status.clone())).await;
        tenant.is_denied(POLICY, by_status).await?;
        // Changes that run nothing are allowed: an unrelated annotation, and the removal of all commands.
        let other = json!({ "example.com/note": "x", "kubectl.kubernetes.io/default-container": "main" });
        tenant.is_allowed(async || annotate(&pods, "plain", &other).await).await?;
        let none =
            json!({ COMMAND: null, "stowaway.dev/backupcommand-container": null, "k8up.io/backupcommand": null });
        tenant.is_allowed(async || annotate(&pods, "own", &none).await).await?;

        // The same requests succeed for a user who may exec.
        let operator = Tenant::new(namespace, "operator", &[rights[0], EXEC]).await?;
        let pods: Api<Pod> = operator.api();
        for (pod, annotations) in &attacks {
            operator.is_allowed(async || annotate(&pods, pod, annotations).await).await?;
        }
        let by_status =
            async || pods.patch_status("plain", &PatchParams::default(), &Patch::Merge(in_status.clone())).await;
        operator.is_allowed(by_status).await.map(|_| ())
    })
    .await
}

/// Binds the pod to a node that does not exist. The API server merges the annotations of the binding into the pod's.
async fn assign(client: &kube::Client, namespace: &str, pod: &str, annotations: &Value) -> kube::Result<Value> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod, "namespace": namespace, "annotations": annotations },
        "target": { "apiVersion": "v1", "kind": "Node", "name": "nowhere" },
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let bytes = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
    let request = Request::new(path).create_subresource("binding", pod, &PostParams::default(), bytes);
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn binding_sets_commands_only_for_who_may_exec() -> Result<()> {
    in_namespace("guard-binding", async |namespace: &Namespace| {
        for pod in ["first", "second", "third"] {
            let waiting = Workload::new(namespace, pod, "shell-less").set_in_pod("schedulerName", json!("none"));
            waiting.apply(namespace).await?;
        }
        let rights: Right = ("", &["pods/binding"], &["create"]);
        let tenant = Tenant::new(namespace, "tenant", &[rights]).await?;
        let client = tenant.api::<Pod>().into_client();
        let command = json!({ COMMAND: "emit --bytes 3" });
        let attack = async || assign(&client, &namespace.name, "first", &command).await;
        tenant.is_denied("stowaway-binding-commands", attack).await?;
        let other = json!({ "example.com/note": "x" });
        tenant.is_allowed(async || assign(&client, &namespace.name, "second", &other).await).await?;
        let operator = Tenant::new(namespace, "operator", &[rights, EXEC]).await?;
        let client = operator.api::<Pod>().into_client();
        operator.is_allowed(async || assign(&client, &namespace.name, "third", &command).await).await?;
        // Annotations of a binding do reach the pod, as the policy assumes.
        let pod = namespace.api::<Pod>().get("third").await?;
        let annotations = pod.metadata.annotations.unwrap_or_default();
        anyhow::ensure!(annotations.contains_key(COMMAND), "{annotations:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_is_made_only_by_who_may_exec() -> Result<()> {
    in_namespace("guard-restore", async |namespace: &Namespace| {
        let rights: Right = ("stowaway.dev", &["restores"], &["create"]);
        let restore: Restore = serde_json::from_value(json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "back" },
            "spec": { "from": { "source": "pod/box/main" }, "to": { "command": ["sh"] } },
        }))?;
        let tenant = Tenant::new(namespace, "tenant", &[rights]).await?;
        let restores: Api<Restore> = tenant.api();
        let create = async || restores.create(&PostParams::default(), &restore).await;
        tenant.is_denied("stowaway-restore-commands", create).await?;
        // An explicit `null` as claim does not hide that the Restore runs a command.
        let pods: Right = ("", &["pods"], &["create"]);
        let podder = Tenant::new(namespace, "podder", &[rights, pods]).await?;
        let mut disguised = serde_json::to_value(&restore)?;
        disguised["spec"]["to"]["claim"] = Value::Null;
        let resource = kube::api::ApiResource::erase::<Restore>(&());
        let client = podder.api::<Restore>().into_client();
        let objects: Api<kube::api::DynamicObject> = Api::namespaced_with(client, &namespace.name, &resource);
        let disguised: kube::api::DynamicObject = serde_json::from_value(disguised)?;
        let create = async || objects.create(&PostParams::default(), &disguised).await;
        podder.is_denied("stowaway-restore-commands", create).await?;
        let operator = Tenant::new(namespace, "operator", &[rights, EXEC]).await?;
        let restores: Api<Restore> = operator.api();
        operator.is_allowed(async || restores.create(&PostParams::default(), &restore).await).await.map(|_| ())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_made_only_by_who_may_create_pods() -> Result<()> {
    in_namespace("guard-archives", async |namespace: &Namespace| {
        let restores: Right = ("stowaway.dev", &["restores"], &["create"]);
        let restore: Restore = serde_json::from_value(json!({
            "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": "away" },
            "spec": { "from": { "source": "pvc/data" }, "to": { "archive": { "volume": { "persistentVolumeClaim": { "claimName": "x" } } } } },
        }))?;
        // The right to exec is not enough, because it does not allow mounting Secrets.
        let tenant = Tenant::new(namespace, "tenant", &[restores, EXEC]).await?;
        let api: Api<Restore> = tenant.api();
        let create = async || api.create(&PostParams::default(), &restore).await;
        tenant.is_denied("stowaway-restore-archives", create).await?;
        // An explicit `null` as archive does not hide that the Restore runs a command.
        let pods: Right = ("", &["pods"], &["create"]);
        let podder = Tenant::new(namespace, "podder", &[restores, pods]).await?;
        let mut disguised = serde_json::to_value(&restore)?;
        disguised["spec"]["to"] = json!({ "archive": null, "command": ["sh"] });
        let resource = kube::api::ApiResource::erase::<Restore>(&());
        let client = podder.api::<Restore>().into_client();
        let objects: Api<kube::api::DynamicObject> = Api::namespaced_with(client, &namespace.name, &resource);
        let disguised: kube::api::DynamicObject = serde_json::from_value(disguised)?;
        let create = async || objects.create(&PostParams::default(), &disguised).await;
        podder.is_denied("stowaway-restore-commands", create).await?;
        let api: Api<Restore> = podder.api();
        podder.is_allowed(async || api.create(&PostParams::default(), &restore).await).await.map(drop)
    })
    .await
}

/// The name of a tenant and its rights, the target claim, the workload to scale, and the policy that denies the
/// Restore.
type RestoreCase<'a> = (&'a str, &'a [Right<'a>], &'a Value, Option<Value>, Option<&'a str>);

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_restored_into_and_workloads_scaled_only_by_who_may_do_so_himself() -> Result<()> {
    in_namespace("guard-claims", async |namespace: &Namespace| {
        let restores: Right = ("stowaway.dev", &["restores"], &["create"]);
        let pods: Right = ("", &["pods"], &["create"]);
        let claims: Right = ("", &["persistentvolumeclaims"], &["create"]);
        let scales: Right = ("apps", &["statefulsets/scale"], &["patch"]);
        let plain = json!({ "name": "data" });
        let new = json!({ "name": "data", "create": {} });
        let scale = |kind: &str| json!({ "kind": kind, "name": "db" });
        let cases: &[RestoreCase] = &[
            ("execer", &[EXEC], &plain, None, Some("stowaway-restore-claims")),
            ("podder", &[pods], &plain, None, None),
            ("podder-new", &[pods], &new, None, Some("stowaway-restore-claims")),
            ("claimer", &[pods, claims], &new, None, None),
            ("podder-scale", &[pods], &plain, Some(scale("StatefulSet")), Some("stowaway-restore-scales")),
            ("scaler", &[pods, scales], &plain, Some(scale("StatefulSet")), None),
            ("scaler-other", &[pods, scales], &plain, Some(scale("Deployment")), Some("stowaway-restore-scales")),
        ];
        for (name, rights, claim, scale, denied_by) in cases {
            let all: Vec<Right> = rights.iter().copied().chain([restores]).collect();
            let tenant = Tenant::new(namespace, name, &all).await?;
            let api: Api<Restore> = tenant.api();
            let mut restore = json!({
                "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": name },
                "spec": { "from": { "source": "pvc/data" }, "to": { "claim": claim } },
            });
            if let Some(scale) = scale {
                restore["spec"]["scaleDown"] = scale.clone();
            }
            let restore: Restore = serde_json::from_value(restore)?;
            let create = async || api.create(&PostParams::default(), &restore).await;
            match denied_by {
                Some(policy) => tenant.is_denied(policy, create).await?,
                None => drop(tenant.is_allowed(create).await?),
            }
        }
        Ok(())
    })
    .await
}

//! The service accounts of runs can be used only by Stowaway's Jobs. Each attack is denied, and the same request with
//! an account of another name succeeds, which shows that the attack would have worked.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    batch::v1::Job,
    core::v1::{Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use stowaway_e2e::{
    Kind, Namespace, Right, S3, Sequence, Tenant, Workload, in_namespace, process,
    runs::{all_green, known},
    skipped,
    tenant::bind,
    workload::CONTAINER,
};

/// A name that a service account of a run could have.
const OF_RUN: &str = "stowaway-run-first-0123456789";
/// A name that no service account of a run has.
const OTHER: &str = "first-0123456789";

fn pod_spec(namespace: &Namespace, account: &str) -> Value {
    json!({
        "serviceAccountName": account, "restartPolicy": "Never",
        "containers": [{ "name": "thief", "image": namespace.cluster.image("shell-less") }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_runs_are_used_by_no_one_else() -> Result<()> {
    in_namespace("guard-accounts", async |namespace: &Namespace| {
        let made = ["get", "create"];
        let tenant = Tenant::new(
            namespace,
            "tenant",
            &[
                ("", &["pods", "serviceaccounts", "serviceaccounts/token", "secrets"], &made),
                ("batch", &["jobs"], &made),
                ("apps", &["replicasets"], &made),
            ],
        )
        .await?;
        // Creating an account of that name is allowed, because the account has no rights.
        let accounts: Api<ServiceAccount> = tenant.api();
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        for name in [OF_RUN, OTHER] {
            let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
            tenant.is_allowed(async || accounts.create(&PostParams::default(), &account).await).await?;
        }
        let labels = json!({ "app": "thief" });
        let secret = |account: &str| {
            json!({
                "metadata": { "name": "token", "annotations": { "kubernetes.io/service-account.name": account } },
                "type": "kubernetes.io/service-account-token",
            })
        };
        for (account, is_of_run) in [(OF_RUN, true), (OTHER, false)] {
            let check = async |policy: &str, result: kube::Result<()>| -> Result<()> {
                let result = std::sync::Mutex::new(Some(result));
                let request = async || result.lock().unwrap().take().unwrap_or(Ok(()));
                if is_of_run { tenant.is_denied(policy, request).await } else { tenant.is_allowed(request).await }
            };
            let spec = pod_spec(namespace, account);
            let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "thief" }, "spec": spec }))?;
            let pods: Api<Pod> = tenant.api();
            wait_for_rights(namespace, async || pods.get_opt("nothing").await.map(|_| ())).await?;
            check("stowaway-run-pods", pods.create(&dry, &pod).await.map(|_| ())).await?;
            let job: Job = serde_json::from_value(json!({
                "metadata": { "name": "thief" }, "spec": { "template": { "spec": spec } },
            }))?;
            check("stowaway-run-jobs", tenant.api::<Job>().create(&dry, &job).await.map(|_| ())).await?;
            let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
            let token = accounts.create_token_request(account, &PostParams::default(), &request).await;
            check("stowaway-run-tokens", token.map(|_| ())).await?;
            let secret: Secret = serde_json::from_value(secret(account))?;
            check("stowaway-run-token-secrets", tenant.api::<Secret>().create(&dry, &secret).await.map(|_| ())).await?;

            // The tenant has a controller of Kubernetes create the pod.
            let set: ReplicaSet = serde_json::from_value(json!({
                "metadata": { "name": account },
                "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels },
                    "spec": { "serviceAccountName": account, "containers": spec["containers"] } } },
            }))?;
            tenant.api::<ReplicaSet>().create(&PostParams::default(), &set).await?;
            let outcome = |set: Option<&ReplicaSet>| {
                let status = set.and_then(|set| set.status.clone());
                let failed = status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
                status.is_some_and(|status| status.replicas == 1)
                    || failed.iter().any(|condition| condition.type_ == "ReplicaFailure")
            };
            let set = namespace.wait_for(account, "tried", outcome).await?;
            let conditions = set.status.and_then(|status| status.conditions).unwrap_or_default();
            let messages: Vec<String> = conditions.into_iter().filter_map(|condition| condition.message).collect();
            let is_refused = messages.iter().any(|message| message.contains("stowaway-run-pods"));
            ensure!(is_refused == is_of_run, "{account}: {messages:?}");
        }
        Ok(())
    })
    .await
}

/// Waits until the tenant's rights are in force.
async fn wait_for_rights(namespace: &Namespace, request: impl AsyncFn() -> kube::Result<()>) -> Result<()> {
    namespace.wait_until("the rights are in force", async || Ok(request().await.ok())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn account_of_runs_execs_only_with_the_token_of_a_pod() -> Result<()> {
    in_namespace("guard-exec", async |namespace: &Namespace| {
        Workload::new(namespace, "box", "toolbox").start(namespace).await?;
        for account in [OF_RUN, OTHER] {
            namespace
                .apply_object(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account } }))
                .await?;
            bind(namespace, account, ("ClusterRole", "stowaway-runner"), account).await?;
        }
        let exec = |account: &str| {
            let user = format!("system:serviceaccount:{}:{account}", namespace.name);
            process::output(&mut namespace.kubectl(&["exec", "box", "--as", &user, "--", "true"]))
        };
        namespace.wait_until("another account execs", async || Ok(exec(OTHER)?.status.success().then_some(()))).await?;
        let refused = namespace
            .wait_until("the account is bound", async || {
                let message = String::from_utf8_lossy(&exec(OF_RUN)?.stderr).into_owned();
                Ok((!message.contains(" cannot ")).then_some(message))
            })
            .await?;
        ensure!(refused.contains("stowaway-run-exec"), "{refused}");
        Ok(())
    })
    .await
}

const SLOW: Sequence = Sequence::new(Kind::Random, 21, 12 << 20);

#[tokio::test(flavor = "multi_thread")]
async fn pod_and_job_of_a_run_are_changed_only_by_who_may_exec() -> Result<()> {
    in_namespace("guard-run", async |namespace: &Namespace| {
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let command = format!("{} --rate 1m", SLOW.command());
        Workload::toolbox(namespace, "box", &command).start(namespace).await?;
        namespace.start_backup("one", json!({})).await?;
        namespace.wait_until_running("box", CONTAINER, "emit --kind").await?;

        let changed: &[&str] = &["get", "list", "patch", "update"];
        let rights: &[Right] = &[("", &["pods", "pods/ephemeralcontainers"], changed), ("batch", &["jobs"], changed)];
        let tenant = Tenant::new(namespace, "tenant", rights).await?;
        let (pods, jobs): (Api<Pod>, Api<Job>) = (tenant.api(), tenant.api());
        let of_run = ListParams::default().labels("stowaway.dev/run=one");
        let run =
            tenant.is_allowed(async || pods.list(&of_run).await).await?.items.pop().context("the run has no pod")?;
        let account = run.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
        ensure!(account.starts_with("stowaway-run-"), "{account}");
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let image = json!({ "spec": { "containers": [{ "name": "runner", "image": "thief" }] } });
        let ephemeral = json!({ "spec": { "ephemeralContainers": [{ "name": "thief", "image": "thief" }] } });
        let label = json!({ "metadata": { "labels": { "example.com/note": "x" } } });
        let name = run.name_any();
        let swap = async |pods: &Api<Pod>| pods.patch(&name, &dry, &Patch::Strategic(image.clone())).await;
        let debug = async |pods: &Api<Pod>| {
            pods.patch_subresource("ephemeralcontainers", &name, &dry, &Patch::Strategic(ephemeral.clone())).await
        };
        tenant.is_denied("stowaway-run-pod-changes", async || swap(&pods).await).await?;
        tenant.is_denied("stowaway-run-pod-changes", async || debug(&pods).await).await?;
        tenant.is_allowed(async || pods.patch(&name, &dry, &Patch::Strategic(label.clone())).await).await?;
        let job = run.owner_references().first().context("a pod without Job")?.name.clone();
        let wider = json!({ "spec": { "parallelism": 2 } });
        let change = async || jobs.patch(&job, &dry, &Patch::Merge(wider.clone())).await;
        tenant.is_denied("stowaway-run-jobs", change).await?;
        tenant.is_allowed(async || jobs.patch(&job, &dry, &Patch::Merge(label.clone())).await).await?;
        // The same change is allowed in a pod that belongs to no run, and in the run's pod for a user who may exec.
        let other = json!({ "spec": { "containers": [{ "name": CONTAINER, "image": "thief" }] } });
        tenant.is_allowed(async || pods.patch("box", &dry, &Patch::Strategic(other.clone())).await).await?;
        tenant.grant("exec", &[("", &["pods/exec"], &["create"])]).await?;
        namespace
            .wait_until("the tenant may exec, and so change the pod", async || {
                Ok(swap(&pods).await.is_ok().then_some(()))
            })
            .await?;
        tenant.is_allowed(async || debug(&pods).await).await?;

        // None of this disturbs the run itself.
        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        restic.agrees_with(&backup, &known(&[("pod/box/main", &SLOW)]))
    })
    .await
}

/// Whether this client may exec in the pod.
async fn execs(client: &Client, namespace: &str, pod: &str) -> Result<bool> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match pods.exec(pod, ["true"], &AttachParams::default().stderr(false)).await {
        // The API server has opened the stream, so the request was authorized; the result of the command does not
        // matter.
        Ok(_process) => Ok(true),
        Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_token_of_a_run_sees_no_secret_execs_nowhere_else_and_never_after_the_run() -> Result<()> {
    in_namespace("guard-token", async |namespace: &Namespace| {
        if !namespace.cluster.is_built_in() {
            skipped("the token can be read only on the built-in cluster's node");
            return Ok(());
        }
        let restic = S3::shared(namespace).await?.repository(namespace).await?;
        let command = format!("{} --rate 1m", SLOW.command());
        Workload::toolbox(namespace, "box", &command).start(namespace).await?;
        namespace.start_backup("one", json!({ "retryLimit": 0 })).await?;
        namespace.wait_until_running("box", CONTAINER, "emit --kind").await?;
        let of_run = ListParams::default().labels("stowaway.dev/run=one");
        let run = namespace.api::<Pod>().list(&of_run).await?.items.pop().context("the run has no pod")?;
        let processes = process::of_pod(run.metadata.uid.as_deref().unwrap_or_default())?;
        let token = processes.iter().find_map(|(id, _)| {
            let file = format!("/proc/{id}/root/var/run/secrets/kubernetes.io/serviceaccount/token");
            std::fs::read_to_string(file).ok()
        });
        let thief = namespace.cluster.with_token(&token.context("the run has no token")?).await?;

        // The token allows exec in the namespace of the run, and nothing else.
        ensure!(execs(&thief, &namespace.name, "box").await?, "the token does not allow exec in its namespace");
        ensure!(!execs(&thief, "stowaway-e2e-store", "s3").await?, "the token allows exec in another namespace");
        let secrets: Api<Secret> = Api::namespaced(thief.clone(), &namespace.name);
        let pods: Api<Pod> = Api::namespaced(thief.clone(), &namespace.name);
        let spec = pod_spec(namespace, "default");
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "thief" }, "spec": spec }))?;
        for (what, response) in [
            ("read a Secret", secrets.get("password").await.map(|_| ())),
            ("list pods", pods.list(&ListParams::default()).await.map(|_| ())),
            ("create a pod", pods.create(&PostParams::default(), &pod).await.map(|_| ())),
        ] {
            let is_forbidden = matches!(&response, Err(kube::Error::Api(status)) if status.code == 403);
            ensure!(is_forbidden, "{what}: {response:?}");
        }

        let backup = namespace.backup_ended("one").await?;
        all_green(&backup)?;
        restic.agrees_with(&backup, &known(&[("pod/box/main", &SLOW)]))?;
        namespace
            .wait_until("the token is invalid", async || {
                Ok((!execs(&thief, &namespace.name, "box").await?).then_some(()))
            })
            .await
    })
    .await
}

//! A user without the right to create pods cannot have Stowaway use Secrets, stores and pods through its objects. Only
//! the controller writes statuses, and its account can do nothing beyond its tasks. Each attack is denied, and the same
//! request succeeds for a user with the right.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use stowaway::api::{Backup, Repository, Restore};
use stowaway_e2e::{Namespace, Right, Tenant, in_namespace, system::SYSTEM};

const PODS: Right = ("", &["pods"], &["create"]);
const CONTROLLER: &str = "system:serviceaccount:stowaway-system:stowaway-controller";

fn repository(name: &str, url: &str) -> Result<Repository> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "stowaway.dev/v1alpha1", "kind": "Repository", "metadata": { "name": name },
        "spec": {
            "rest": { "url": url, "credentials": { "userSecretRef": { "name": "db", "key": "user" }, "passwordSecretRef": { "name": "db", "key": "password" } } },
            "passwordSecretRef": { "name": "password" },
        },
    }))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_written_only_by_who_may_create_pods() -> Result<()> {
    in_namespace("guard-repositories", async |namespace: &Namespace| {
        let policy = "stowaway-repositories";
        let right: Right = ("stowaway.dev", &["repositories"], &["get", "create", "patch"]);
        namespace
            .api::<Repository>()
            .create(&PostParams::default(), &repository("main", "http://rest:8000/r")?)
            .await?;
        let tenant = Tenant::new(namespace, "tenant", &[right]).await?;
        let of_tenant: Api<Repository> = tenant.api();
        let thief = repository("thief", "http://thief:8000/r")?;
        tenant.is_denied(policy, async || of_tenant.create(&PostParams::default(), &thief).await).await?;
        let changes = [
            json!({ "spec": { "rest": { "url": "http://thief:8000/r" } } }),
            json!({ "spec": { "passwordSecretRef": { "name": "other" } } }),
            json!({ "spec": { "tls": { "insecureSkipVerify": true } } }),
            json!({ "spec": { "runnerPod": { "securityContext": { "runAsUser": 0 } } } }),
            json!({ "metadata": { "annotations": { "stowaway.dev/is-default": "true" } } }),
            json!({ "metadata": { "annotations": { "stowaway.dev/accept-repository": "new" } } }),
        ];
        let change = async |api: &Api<Repository>, change: &Value| {
            api.patch("main", &PatchParams::default(), &Patch::Merge(change)).await
        };
        for attack in &changes {
            tenant.is_denied(policy, async || change(&of_tenant, attack).await).await?;
        }
        let label = json!({ "metadata": { "labels": { "example.com/note": "x" } } });
        tenant.is_allowed(async || change(&of_tenant, &label).await).await?;

        let operator = Tenant::new(namespace, "operator", &[right, PODS]).await?;
        let of_operator: Api<Repository> = operator.api();
        for attack in &changes {
            operator.is_allowed(async || change(&of_operator, attack).await).await?;
        }
        operator.is_allowed(async || of_operator.create(&PostParams::default(), &thief).await).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_of_a_run_is_shaped_only_by_who_may_create_pods() -> Result<()> {
    in_namespace("guard-runner-pod", async |namespace: &Namespace| {
        let backup = |name: &str, spec: Value| -> Result<Backup> {
            let types =
                json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "metadata": { "name": name } });
            let mut backup = types;
            backup["spec"] = spec;
            Ok(serde_json::from_value(backup)?)
        };
        let right: Right = ("stowaway.dev", &["backups"], &["create"]);
        let tenant = Tenant::new(namespace, "tenant", &[right]).await?;
        let of_tenant: Api<Backup> = tenant.api();
        let shaped = backup("shaped", json!({ "runnerPod": { "securityContext": { "runAsUser": 0 } } }))?;
        let create = async || of_tenant.create(&PostParams::default(), &shaped).await;
        tenant.is_denied("stowaway-runner-pods", create).await?;
        let plain = backup("plain", json!({}))?;
        tenant.is_allowed(async || of_tenant.create(&PostParams::default(), &plain).await).await?;
        let operator = Tenant::new(namespace, "operator", &[right, PODS]).await?;
        let of_operator: Api<Backup> = operator.api();
        operator.is_allowed(async || of_operator.create(&PostParams::default(), &shaped).await).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_are_written_by_the_controller_alone() -> Result<()> {
    in_namespace("guard-statuses", async |namespace: &Namespace| {
        namespace
            .api::<Repository>()
            .create(&PostParams::default(), &repository("main", "http://rest:8000/r")?)
            .await?;
        let all: Right = ("stowaway.dev", &["repositories", "repositories/status"], &["get", "patch", "update"]);
        let tenant = Tenant::new(namespace, "tenant", &[all, PODS]).await?;
        let of_tenant: Api<Repository> = tenant.api();
        let forged = json!({ "status": { "repositoryId": "0".repeat(64), "attempt": 7 } });
        let write = async |api: &Api<Repository>| {
            api.patch_status("main", &PatchParams::default(), &Patch::Merge(forged.clone())).await
        };
        tenant.is_denied("stowaway-statuses", async || write(&of_tenant).await).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_looks_like_one_of_a_run_is_made_by_the_controller_alone() -> Result<()> {
    in_namespace("guard-marks", async |namespace: &Namespace| {
        let right: Right = ("batch", &["jobs"], &["create", "patch", "get"]);
        let tenant = Tenant::new(namespace, "tenant", &[right]).await?;
        let jobs: Api<Job> = tenant.api();
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let job = |metadata: Value| -> Result<Job> {
            let container = json!({ "name": "c", "image": "x" });
            let template = json!({ "spec": { "restartPolicy": "Never", "containers": [container] } });
            Ok(serde_json::from_value(json!({ "metadata": metadata, "spec": { "template": template } }))?)
        };
        let owner = json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "name": "b", "uid": "u" });
        for (name, marks) in [
            ("label", json!({ "labels": { "stowaway.dev/kind": "backup" } })),
            ("repository", json!({ "labels": { "stowaway.dev/repository": "main" } })),
            ("owner", json!({ "ownerReferences": [owner] })),
        ] {
            let mut metadata = marks;
            metadata["name"] = json!(name);
            let marked = job(metadata)?;
            tenant.is_denied("stowaway-run-marks", async || jobs.create(&dry, &marked).await).await?;
        }
        let plain = job(json!({ "name": "plain" }))?;
        tenant.is_allowed(async || jobs.create(&PostParams::default(), &plain).await).await?;
        let label = json!({ "metadata": { "labels": { "stowaway.dev/kind": "prune" } } });
        let relabel = async || jobs.patch("plain", &PatchParams::default(), &Patch::Merge(&label)).await;
        tenant.is_denied("stowaway-run-marks", relabel).await?;
        // A Job of the CLI for a query is allowed.
        let answer =
            job(json!({ "name": "answer", "labels": { "stowaway.dev/kind": "answer" }, "ownerReferences": [owner] }))?;
        tenant.is_allowed(async || jobs.create(&dry, &answer).await).await.map(drop)
    })
    .await
}

/// Checks that the policy denied this request of the controller's account.
fn is_denied<T>(policy: &str, response: kube::Result<T>) -> Result<()> {
    let message = response.err().with_context(|| format!("{policy} admitted the request"))?.to_string();
    ensure!(message.contains(&format!("ValidatingAdmissionPolicy '{policy}'")), "{policy}: {message}");
    Ok(())
}

/// The owner of a run, which does not exist.
fn owner_of_a_run() -> Value {
    json!({ "apiVersion": "stowaway.dev/v1alpha1", "kind": "Backup", "name": "none", "uid": "none", "controller": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_account_of_the_controller_mounts_no_directory_of_the_node_and_runs_nothing_in_system_namespaces()
-> Result<()> {
    in_namespace("guard-controller-runs", async |namespace: &Namespace| {
        let controllers = namespace.pods_of("controller").await?;
        let image = controllers.first().and_then(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
        let image = image.context("the controller has no pod with an image")?;
        let run = |change: &dyn Fn(&mut Value)| -> Result<Job> {
            let mut pod = json!({
                "serviceAccountName": "stowaway-run-thief", "restartPolicy": "Never",
                "containers": [{
                    "name": "runner", "image": image, "args": ["runner"],
                    "securityContext": { "allowPrivilegeEscalation": false },
                    "volumeMounts": [{ "name": "repository", "mountPath": "/repository" }],
                }],
                "volumes": [{ "name": "repository", "hostPath": { "path": "/srv/stowaway" } }],
            });
            change(&mut pod);
            let labels = json!({ "app.kubernetes.io/managed-by": "stowaway", "stowaway.dev/kind": "backup" });
            Ok(serde_json::from_value(json!({
                "metadata": { "name": "thief", "labels": labels, "ownerReferences": [owner_of_a_run()] },
                "spec": { "suspend": true, "template": { "spec": pod } },
            }))?)
        };
        let client = namespace.cluster.impersonate(CONTROLLER).await?;
        let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace.name);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let unchanged = run(&|_| {})?;
        jobs.create(&dry, &unchanged).await.context("a run with a repository on the node was refused")?;
        for path in ["/", "/etc", "/var/lib", "/var/lib/kubelet/pods", "/run/containerd"] {
            let job = run(&|pod| pod["volumes"][0]["hostPath"]["path"] = json!(path))?;
            is_denied("stowaway-controller-host-paths", jobs.create(&dry, &job).await)?;
        }
        let elsewhere = run(&|pod| pod["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/target"))?;
        is_denied("stowaway-controller-host-paths", jobs.create(&dry, &elsewhere).await)?;
        for system in ["kube-system", SYSTEM] {
            let jobs: Api<Job> = Api::namespaced(client.clone(), system);
            is_denied("stowaway-controller-namespaces", jobs.create(&dry, &unchanged).await)?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_account_of_the_controller_makes_binds_and_deletes_only_what_is_its_own() -> Result<()> {
    in_namespace("guard-controller", async |namespace: &Namespace| {
        let client = namespace.cluster.impersonate(CONTROLLER).await?;
        let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace.name);
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace.name);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace.name);
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace.name);
        let create = PostParams::default();
        let pod = json!({ "serviceAccountName": "default", "restartPolicy": "Never", "containers": [{ "name": "runner", "image": "thief" }] });
        let job: Job = serde_json::from_value(json!({ "metadata": { "name": "thief" }, "spec": { "template": { "spec": pod } } }))?;
        is_denied("stowaway-controller-jobs", jobs.create(&create, &job).await)?;
        let binding = |role: &str, account: &str| {
            serde_json::from_value::<RoleBinding>(json!({
                "metadata": { "name": "thief" },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
                "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace.name }],
            }))
        };
        is_denied("stowaway-controller-bindings", bindings.create(&create, &binding("stowaway-runner", "default")?).await)?;
        let secret: Secret = serde_json::from_value(json!({ "metadata": { "name": "thief" }, "type": "example.com/any" }))?;
        is_denied("stowaway-controller-secrets", secrets.create(&create, &secret).await)?;
        let account: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": "thief" } }))?;
        is_denied("stowaway-controller-accounts", accounts.create(&create, &account).await)?;
        // Objects of other users cannot be deleted.
        namespace.api::<Job>().create(&create, &job).await?;
        namespace.api::<RoleBinding>().create(&create, &binding("view", "default")?).await?;
        let delete = DeleteParams::background();
        is_denied("stowaway-controller-job-deletes", jobs.delete("thief", &delete).await)?;
        // They cannot be stopped or adopted, either.
        for change in [
            json!({ "spec": { "suspend": true } }),
            json!({ "metadata": { "ownerReferences": [owner_of_a_run()] } }),
            json!({ "metadata": { "labels": { "stowaway.dev/kind": "backup" } } }),
        ] {
            let changed = jobs.patch("thief", &PatchParams::default(), &Patch::Merge(&change)).await;
            is_denied("stowaway-controller-job-changes", changed)?;
        }
        is_denied("stowaway-controller-binding-deletes", bindings.delete("thief", &delete).await)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_a_restore_are_written_by_the_controller_alone() -> Result<()> {
    const POLICY: &str = "stowaway-restore-marks";
    const CARRIED_OUT: &str = "stowaway.dev/carried-out";
    in_namespace("guard-restore-marks", async |namespace: &Namespace| {
        let object = |name: &str, annotations: Value| {
            json!({
                "apiVersion": "stowaway.dev/v1alpha1", "kind": "Restore", "metadata": { "name": name, "annotations": annotations },
                "spec": { "from": { "source": "pvc/data" }, "to": { "claim": { "name": "target" } } },
            })
        };
        // A copy of a Restore that was executed before, and a new Restore that waits for its Repository.
        namespace.apply_object(object("copy", json!({ CARRIED_OUT: "the-first-one" }))).await?;
        namespace.apply_object(object("new", json!({}))).await?;
        let rights: Right = ("stowaway.dev", &["restores"], &["get", "patch", "update"]);
        let tenant = Tenant::new(namespace, "tenant", &[rights, PODS, ("", &["pods/exec"], &["create"])]).await?;
        let restores: Api<Restore> = tenant.api();
        let annotate = async |name: &str, annotations: Value| {
            let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
            restores.patch(name, &PatchParams::default(), &patch).await
        };
        for (name, annotations) in [
            ("copy", json!({ CARRIED_OUT: null })),
            ("copy", json!({ CARRIED_OUT: "another" })),
            ("copy", json!({ "stowaway.dev/scaled-from": "deployment/web=3" })),
            ("new", json!({ CARRIED_OUT: "another" })),
        ] {
            tenant.is_denied(POLICY, async || annotate(name, annotations.clone()).await).await?;
        }
        tenant.is_allowed(async || annotate("copy", json!({ "example.com/note": "x" })).await).await?;
        // The controller reports the copy, and does not execute it.
        let ended = |restore: Option<&Restore>| {
            restore.and_then(|restore| restore.status.as_ref()).is_some_and(|status| status.outcome.verdict.is_some())
        };
        let copy: Restore = namespace.wait_for("copy", "ended", ended).await?;
        let reason = copy.status.map(|status| status.outcome.reason).unwrap_or_default();
        ensure!(reason == "AlreadyCarriedOut", "{reason}");
        Ok(())
    })
    .await
}

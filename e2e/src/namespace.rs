//! A namespace for one test. It is created before the test and deleted after it; if the test failed, its objects,
//! Events and logs are printed first.

use std::{fmt::Debug, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::{
    api::core::v1::{Namespace as KubernetesNamespace, Pod},
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, NamespaceResourceScope},
    discovery,
    runtime::wait::{Condition, await_condition},
};
use serde_json::{Value, json};

use crate::{Cluster, process, store, volume};

/// The longest wait of a test. It is generous, because images and databases are slow on a busy machine.
pub const WAIT_LIMIT: Duration = Duration::from_mins(3);
/// The interval at which states are polled that cannot be watched.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A namespace that belongs to one test.
pub struct Namespace {
    /// The cluster of the namespace.
    pub cluster: Cluster,
    /// The name of the namespace.
    pub name: String,
}

/// Runs `test` in a new namespace, and deletes the namespace afterwards, whatever the result.
pub async fn in_namespace(prefix: &str, test: impl AsyncFnOnce(&Namespace) -> Result<()>) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespaces: Api<KubernetesNamespace> = Api::all(cluster.client.clone());
    let object = serde_json::from_value(json!({ "metadata": { "generateName": format!("{prefix}-"),
        "labels": { "e2e.example.com/test": "true" } } }))?;
    let name =
        namespaces.create(&PostParams::default(), &object).await.context("failed to create a namespace")?.name_any();
    let namespace = Namespace { cluster, name };
    let result = test(&namespace).await;
    if result.is_err() {
        namespace.print_diagnostics();
    }
    namespaces.delete(&namespace.name, &DeleteParams::background()).await.context("failed to delete the namespace")?;
    store::clean_up(&namespace.cluster, &namespace.name);
    volume::clean_up(&namespace).await.context("failed to remove the namespace's volumes")?;
    result
}

impl Namespace {
    /// Creates the namespace if it does not exist.
    pub async fn ensure(&self) -> Result<()> {
        let namespaces: Api<KubernetesNamespace> = Api::all(self.cluster.client.clone());
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.name } });
        namespaces.patch(&self.name, &PatchParams::apply("stowaway-e2e"), &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// The API for objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client.clone(), &self.name)
    }

    /// Applies the object to this namespace with server-side apply.
    pub async fn apply_object(&self, mut object: Value) -> Result<()> {
        object["metadata"]["namespace"] = json!(self.name);
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without kind")?;
        let kind = GroupVersionKind::try_from(&types)?;
        let (resource, _): (ApiResource, _) = discovery::pinned_kind(&self.cluster.client, &kind).await?;
        let objects: Api<DynamicObject> = Api::namespaced_with(self.cluster.client.clone(), &self.name, &resource);
        objects
            .patch(&object.name_any(), &PatchParams::apply("stowaway-e2e").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("failed to apply {} {}", kind.kind, object.name_any()))?;
        Ok(())
    }

    /// Waits until `condition` holds for the object, and returns it.
    pub async fn wait_for<K>(&self, name: &str, what: &str, condition: impl Condition<K>) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Send + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        tokio::time::timeout(WAIT_LIMIT, await_condition(self.api::<K>(), name, condition))
            .await
            .map_err(|_| anyhow!("{name} was not {what} within {} s", WAIT_LIMIT.as_secs()))??
            .with_context(|| format!("{name} was deleted while it should be {what}"))
    }

    /// Waits until the pod is Ready.
    pub async fn wait_until_ready(&self, pod: &str) -> Result<Pod> {
        self.wait_for(pod, "Ready", |pod: Option<&Pod>| pod.is_some_and(is_ready)).await
    }

    /// Waits until at least `count` pods with that label are Ready, and returns them.
    pub async fn wait_until_pods_ready(&self, label: &str, count: usize) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.api();
        let parameters = ListParams::default().labels(label);
        self.wait_until(&format!("{count} pods with {label} are Ready"), async || {
            let ready: Vec<Pod> = pods.list(&parameters).await?.items.into_iter().filter(is_ready).collect();
            Ok((ready.len() >= count).then_some(ready))
        })
        .await
    }

    /// Polls until `poll` returns a value, and returns that value.
    pub async fn wait_until<T>(&self, what: &str, poll: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + WAIT_LIMIT;
        loop {
            if let Some(value) = poll().await? {
                return Ok(value);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("not within {} s: {what}", WAIT_LIMIT.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The command lines of all processes in the container. The container must have a shell.
    pub fn processes(&self, pod: &str, container: &str) -> Result<Vec<String>> {
        let script = r"for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done 2>/dev/null; true";
        let listed =
            process::run(&mut self.kubectl(&["exec", pod, "--container", container, "--", "sh", "-c", script]))?;
        Ok(String::from_utf8_lossy(&listed).lines().map(str::to_owned).collect())
    }

    /// Waits until the container runs a process whose command line contains `text`.
    pub async fn wait_until_running(&self, pod: &str, container: &str, text: &str) -> Result<()> {
        let runs = async || Ok(self.processes(pod, container)?.iter().any(|line| line.contains(text)).then_some(()));
        self.wait_until(&format!("{text:?} runs in pod {pod}"), runs).await
    }

    /// Waits until the container runs no process whose command line contains `text`, because no run may leave a process
    /// behind.
    pub async fn wait_until_ended(&self, pod: &str, container: &str, text: &str) -> Result<()> {
        let has_ended =
            async || Ok((!self.processes(pod, container)?.iter().any(|line| line.contains(text))).then_some(()));
        self.wait_until(&format!("{text:?} no longer runs in pod {pod}"), has_ended).await
    }

    /// Runs a shell script in the container; an exit status other than 0 is an error.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String> {
        let output = process::run(&mut self.kubectl(&["exec", pod, "--", "sh", "-c", script]))?;
        Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
    }

    /// A program that uses the kubeconfig of this cluster.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.cluster.kubeconfig).env_remove("RESTIC_REPOSITORY");
        command
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(process::program("kubectl"));
        command.args(["--namespace", &self.name]).args(arguments);
        command
    }

    /// `stowaway VERB ...` in this namespace.
    pub fn stowaway(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(process::stowaway()?);
        command.args(&arguments[..1]).args(["--namespace", &self.name]).args(&arguments[1..]);
        Ok(command)
    }

    /// A token of a `ServiceAccount` that may do everything in this namespace.
    pub async fn token_of_an_admin(&self) -> Result<String> {
        let name = "admin";
        let subject = json!({ "kind": "ServiceAccount", "name": name, "namespace": self.name });
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" });
        self.apply_object(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } }))
            .await?;
        self.apply_object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": { "name": name },
            "subjects": [subject], "roleRef": role,
        }))
        .await?;
        let token = process::run(&mut self.kubectl(&["create", "token", name]))?;
        Ok(String::from_utf8(token)?.trim().to_owned())
    }

    fn print_diagnostics(&self) {
        for arguments in [
            &["get", "repositories.stowaway.dev,backups.stowaway.dev,restores.stowaway.dev,jobs,pods", "-o", "wide"][..],
            &["get", "backups.stowaway.dev,restores.stowaway.dev,repositories.stowaway.dev", "-o", "yaml"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "--prefix",
                "--tail=40",
                "--selector=stowaway.dev/kind",
                "--all-containers",
                "--max-log-requests=50",
            ],
        ] {
            if let Ok(output) = process::output(&mut self.kubectl(arguments)) {
                eprintln!("--- kubectl {}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stdout));
            }
        }
    }
}

/// Whether the pod is Ready and is not being deleted.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

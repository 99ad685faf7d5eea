//! Builders for the pods that the tests back up, with their annotations and containers.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::{Namespace, Sequence};

/// The annotation with the unnamed backup command.
pub const COMMAND: &str = "stowaway.dev/backupcommand";
/// The annotation that selects what is injected into the pod.
pub const INJECT: &str = "stowaway.dev/inject";
/// The default name of the pod's container.
pub const CONTAINER: &str = "main";

/// A pod, or the template of a Deployment or `ReplicaSet` with one pod.
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    annotations: Map<String, Value>,
    container: Map<String, Value>,
    pod: Map<String, Value>,
}

impl Workload {
    /// A pod with one container of that test image, which runs the entrypoint of the image.
    pub fn new(namespace: &Namespace, name: &str, image: &str) -> Self {
        let container = json!({
            "name": CONTAINER,
            "image": namespace.cluster.image(image),
            "imagePullPolicy": "IfNotPresent",
            "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
            "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
        });
        let pod = json!({
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
        });
        Self { name: name.to_owned(), annotations: Map::new(), container: object(container), pod: object(pod) }
    }

    /// A `toolbox` with one annotated command.
    pub fn toolbox(namespace: &Namespace, name: &str, command: &str) -> Self {
        Self::new(namespace, name, "toolbox").annotate(COMMAND, command)
    }

    /// A `toolbox` whose annotated command writes this sequence.
    pub fn dumping(namespace: &Namespace, name: &str, sequence: &Sequence) -> Self {
        Self::toolbox(namespace, name, &sequence.command())
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a named command, which is a separate source.
    #[must_use]
    pub fn named_command(self, name: &str, command: &str) -> Self {
        self.annotate(&format!("{COMMAND}.{name}"), command)
    }

    /// Names the container.
    #[must_use]
    pub fn container(self, name: &str) -> Self {
        self.set("name", json!(name))
    }

    /// Sets environment variables.
    #[must_use]
    pub fn environment(self, variables: &[(&str, &str)]) -> Self {
        let list: Vec<Value> = variables.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.set("env", list.into())
    }

    /// Adds a readiness probe with this command.
    #[must_use]
    pub fn ready_when(self, command: &[&str]) -> Self {
        self.set("readinessProbe", json!({ "exec": { "command": command }, "periodSeconds": 1, "timeoutSeconds": 5 }))
    }

    /// Sets any field of the container.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.container.insert(field.to_owned(), value);
        self
    }

    /// Sets any field of the pod's spec.
    #[must_use]
    pub fn set_in_pod(mut self, field: &str, value: Value) -> Self {
        self.pod.insert(field.to_owned(), value);
        self
    }

    fn pod_spec(&self) -> Value {
        let mut pod = self.pod.clone();
        pod.insert("containers".to_owned(), json!([self.container]));
        pod.into()
    }

    /// Creates the pod without waiting for it.
    pub async fn apply(&self, namespace: &Namespace) -> Result<()> {
        let metadata = json!({ "name": self.name, "annotations": self.annotations, "labels": { "app": self.name } });
        namespace
            .apply_object(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.pod_spec() }))
            .await
    }

    /// Creates the pod and waits until it is Ready.
    pub async fn start(&self, namespace: &Namespace) -> Result<Pod> {
        self.apply(namespace).await?;
        namespace.wait_until_ready(&self.name).await
    }

    /// Creates a `ReplicaSet` of one such pod. The webhook admits the pod of a controller even if its annotations are
    /// invalid.
    pub async fn replicate(&self, namespace: &Namespace) -> Result<Pod> {
        self.apply_as("ReplicaSet", namespace).await
    }

    /// Creates a Deployment of one such pod, and returns the pod when it is Ready.
    pub async fn deploy(&self, namespace: &Namespace) -> Result<Pod> {
        self.apply_as("Deployment", namespace).await
    }

    async fn apply_as(&self, kind: &str, namespace: &Namespace) -> Result<Pod> {
        let labels = json!({ "app": self.name });
        let template =
            json!({ "metadata": { "labels": labels, "annotations": self.annotations }, "spec": self.pod_spec() });
        namespace
            .apply_object(json!({
                "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": self.name },
                "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": template },
            }))
            .await?;
        let mut pods = namespace.wait_until_pods_ready(&format!("app={}", self.name), 1).await?;
        Ok(pods.remove(0))
    }
}

/// Creates all pods, and then waits until all are Ready.
pub async fn start_all(namespace: &Namespace, workloads: &[Workload]) -> Result<Vec<Pod>> {
    for workload in workloads {
        workload.apply(namespace).await?;
    }
    let mut pods = Vec::new();
    for workload in workloads {
        pods.push(namespace.wait_until_ready(&workload.name).await?);
    }
    Ok(pods)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

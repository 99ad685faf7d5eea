//! The installation of Stowaway in the cluster under test: its namespace, Deployments, pods and metrics.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Request},
};

use crate::{Namespace, process};

/// The namespace of the installation.
pub const SYSTEM: &str = "stowaway-system";
/// The name of the webhook's Deployment, Service and other objects.
pub const WEBHOOK: &str = "stowaway-webhook";
/// The metrics port of the webhook and the controller.
const METRICS_PORT: u16 = 8080;

impl Namespace {
    /// The namespace of the installation, in the same cluster.
    #[must_use]
    pub fn system(&self) -> Self {
        Self { cluster: self.cluster.clone(), name: SYSTEM.to_owned() }
    }

    /// Waits until a Deployment of the installation is rolled out.
    pub fn rolled_out(&self, deployment: &str) -> Result<()> {
        let deployment = format!("deployment/{deployment}");
        process::run(&mut self.system().kubectl(&["rollout", "status", &deployment, "--timeout=180s"]))?;
        Ok(())
    }

    /// The pods of the installation's `webhook` or `controller`.
    pub async fn pods_of(&self, component: &str) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.system().api();
        let label = format!("app.kubernetes.io/name=stowaway,app.kubernetes.io/component={component}");
        Ok(pods.list(&ListParams::default().labels(&label)).await?.items)
    }

    /// The metrics of all pods of `component` in the text format of Prometheus, concatenated.
    pub async fn metrics(&self, component: &str) -> Result<String> {
        let mut metrics = String::new();
        for pod in self.pods_of(component).await? {
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}:{METRICS_PORT}/proxy", pod.name_any());
            let request = Request::new(path).get("metrics", &kube::api::GetParams::default())?;
            let text = self.cluster.client.request_text(request).await;
            metrics.push_str(&text.with_context(|| format!("failed to read the metrics of {}", pod.name_any()))?);
        }
        Ok(metrics)
    }

    /// The sum of one metric over all pods of `component`; 0 if no pod has it.
    pub async fn metric(&self, component: &str, name: &str) -> Result<f64> {
        let metrics = self.metrics(component).await?;
        let values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        Ok(values.sum())
    }
}

//! A steady flow of annotated pods that are created for show only (`dryRun`): the webhook is called for each, and nothing
//! is left behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use stowaway::model::injected::HELPER_VOLUME;
use tokio::task::JoinHandle;

use crate::{Namespace, namespace::GLANCE, workload::COMMAND};

/// How often one is created.
const PACE: Duration = Duration::from_millis(20);
/// So many are a flow.
const SOME: usize = 50;

/// Pods that are being created until [`Creates::stop`].
pub struct Creates {
    stopped: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Creates {
    /// Begins in that namespace.
    pub fn start(namespace: &Namespace) -> Self {
        let (stopped, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_stopped, counting) = (Arc::clone(&stopped), Arc::clone(&count));
        let (client, name) = (namespace.cluster.client.clone(), namespace.name.clone());
        let task = tokio::spawn(async move {
            let mut wrong = Vec::new();
            let mut pace = tokio::time::interval(PACE);
            while !is_stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                if let Err(error) = create(&client, &name).await {
                    wrong.push(format!("create {}: {error:#}", counting.load(Ordering::SeqCst)));
                }
                counting.fetch_add(1, Ordering::SeqCst);
            }
            wrong
        });
        Self { stopped, count, task }
    }

    /// How many were created so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits for so many more that there is a flow before and after whatever is done.
    pub async fn some_more(&self) {
        let wanted = self.count() + SOME;
        while self.count() < wanted {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Ends after some more of them: none was refused, and none was left without injection.
    pub async fn went_well(self) -> Result<()> {
        self.some_more().await;
        let (count, wrong) = self.stop().await?;
        ensure!(wrong.is_empty(), "{} of {count} creates went wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        Ok(())
    }

    /// Ends, and tells how many there were, and what went wrong: refused, or not injected.
    pub async fn stop(self) -> Result<(usize, Vec<String>)> {
        self.stopped.store(true, Ordering::SeqCst);
        let wrong = self.task.await?;
        Ok((self.count.load(Ordering::SeqCst), wrong))
    }
}

/// Waits until so many creates in a row are injected that all replicas answer again. A Deployment still counts those as
/// ready that its node lost a moment ago.
pub async fn injected_again(namespace: &Namespace) -> Result<()> {
    let in_a_row = async || {
        for _ in 0..SOME {
            if create(&namespace.cluster.client, &namespace.name).await.is_err() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    };
    namespace.wait_until("all pods are injected again", in_a_row).await
}

async fn create(client: &Client, namespace: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = serde_json::from_value(json!({
        "metadata": { "generateName": "shown-", "annotations": { COMMAND: "true" } },
        "spec": { "containers": [{ "name": "main", "image": "none" }] },
    }))?;
    let created = pods.create(&PostParams { dry_run: true, field_manager: None }, &pod).await?;
    let has_helper = created
        .spec
        .and_then(|spec| spec.init_containers)
        .is_some_and(|all| all.iter().any(|container| container.name == HELPER_VOLUME));
    ensure!(has_helper, "admitted without the helper");
    Ok(())
}

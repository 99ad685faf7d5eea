//! A steady flow of annotated pods, created with `dryRun`. The API server calls the webhook for each of them, and
//! stores none.

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

use crate::{Namespace, namespace::POLL_INTERVAL, workload::COMMAND};

/// The interval between two creates.
const INTERVAL: Duration = Duration::from_millis(20);
/// The number of creates which have to happen before, and again after, an event under test.
const BATCH: usize = 50;

/// Pods that are being created until [`Creates::stop`].
pub struct Creates {
    stopped: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: JoinHandle<Vec<String>>,
}

impl Creates {
    /// Starts to create pods in that namespace.
    pub fn start(namespace: &Namespace) -> Self {
        let (stopped, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_stopped, counting) = (Arc::clone(&stopped), Arc::clone(&count));
        let (client, name) = (namespace.cluster.client.clone(), namespace.name.clone());
        let task = tokio::spawn(async move {
            let mut wrong = Vec::new();
            let mut interval = tokio::time::interval(INTERVAL);
            while !is_stopped.load(Ordering::SeqCst) {
                interval.tick().await;
                if let Err(error) = create(&client, &name).await {
                    wrong.push(format!("create {}: {error:#}", counting.load(Ordering::SeqCst)));
                }
                counting.fetch_add(1, Ordering::SeqCst);
            }
            wrong
        });
        Self { stopped, count, task }
    }

    /// The number of creates so far, including the failed ones.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits for `BATCH` more creates.
    pub async fn wait_for_more(&self) {
        let wanted = self.count() + BATCH;
        while self.count() < wanted {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops after `BATCH` more creates, and fails if any create was refused or any pod was not injected.
    pub async fn stop_without_failures(self) -> Result<()> {
        self.wait_for_more().await;
        let (count, wrong) = self.stop().await?;
        ensure!(wrong.is_empty(), "{} of {count} creates failed: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        Ok(())
    }

    /// Stops, and returns the number of creates and a line for each that was refused or not injected.
    pub async fn stop(self) -> Result<(usize, Vec<String>)> {
        self.stopped.store(true, Ordering::SeqCst);
        let wrong = self.task.await?;
        Ok((self.count.load(Ordering::SeqCst), wrong))
    }
}

/// Waits until `BATCH` creates in a row are injected, which shows that all replicas of the webhook answer. The status
/// of the Deployment does not show it, because it still counts replicas as ready that its node lost a moment ago.
pub async fn injected_again(namespace: &Namespace) -> Result<()> {
    let in_a_row = async || {
        for _ in 0..BATCH {
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
